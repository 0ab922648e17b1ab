"""CSV files with named columns, as people and spreadsheets write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from cflow_ad.errors import DataError


def read_table(
    file: Path, required: Sequence[str], optional: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file in UTF-8 whose first line names the columns, by commas or semicolons.

    It must have the columns `required`, in lower case, and may have no others than `optional`, or,
    where that is unset, any.

    Yields:
        The number of a line that is not empty, and its cells by column: stripped, and empty where
        a cell or an optional column is missing.

    Raises:
        DataError: The file cannot be read, is not CSV, or has other columns.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: this is not UTF-8; save it as CSV UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: the file cannot be read ({error.strerror})") from error
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else ","  # spreadsheets in many languages
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        columns = [cell.strip().lower() for cell in next(reader, [])]
        _check_columns(columns, required, optional, file)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells under {len(columns)} "
                    "columns; put a path that has a comma in quotation marks"
                )
            row = dict.fromkeys((*required, *(optional or ())), "")
            row.update(zip(columns, (cell.strip() for cell in cells), strict=False))
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: this is not CSV ({error})") from error


def _check_columns(
    columns: list[str], required: Sequence[str], optional: Sequence[str] | None, file: Path
) -> None:
    known = (*required, *(optional or ()))
    names = f"the first line names the columns: {', '.join(known)}"
    for column in columns:
        if optional is not None and column not in known:
            raise DataError(f"{file}: unknown column {column!r}; {names}")
        if column in known and columns.count(column) > 1:
            raise DataError(f"{file}: the column {column!r} is there twice; remove one")
    for column in required:
        if column not in columns:
            raise DataError(f"{file}: no column {column!r}; {names}")
