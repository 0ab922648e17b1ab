"""A manifest: a CSV file with a line for each image."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, label_of
from cflow_ad.errors import DataError

COLUMNS = ("path", "label", "mask", "split", "roi")
"""The columns that a manifest may have; the first two it must have."""


def _read(file: Path) -> Dataset:
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    lines: dict[Path, int] = {}
    for line, row in _read_rows(file):
        where = f"{file}, line {line}"
        sample, split = _read_row(row, file.parent, where)
        if (first := lines.setdefault(sample.path, line)) != line:
            raise DataError(
                f"{where}: {row['path']} is on line {first} already; list each image once"
            )
        splits[split].append(sample)
    if not lines:
        raise DataError(f"{file}: no images are listed; add a line for each: path,label,mask,split")
    return Dataset(
        file.parent,
        file.stem,
        tuple(splits["train"]),
        tuple(splits["test"]),
        "manifest",
        train_place="list good images whose split is train or empty",
        test_place="list images whose split is test",
    )


def _is_here(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".csv"


def _read_rows(file: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield each line's number and its cells, stripped; a column that is not there is empty."""
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
        _check_columns(columns, file)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells under {len(columns)} "
                    "columns; put a path that has a comma in quotation marks"
                )
            row = dict.fromkeys(COLUMNS, "")
            row.update(zip(columns, (cell.strip() for cell in cells), strict=False))
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: this is not CSV ({error})") from error


def _check_columns(columns: list[str], file: Path) -> None:
    known = ", ".join(COLUMNS)
    for column in columns:
        if column not in COLUMNS:
            raise DataError(f"{file}: unknown column {column!r}; the first line names {known}")
        if columns.count(column) > 1:
            raise DataError(f"{file}: the column {column!r} is there twice; remove one")
    for column in ("path", "label"):
        if column not in columns:
            raise DataError(f"{file}: no column {column!r}; the first line names {known}")


def _read_row(row: dict[str, str], root: Path, where: str) -> tuple[Sample, str]:
    label = label_of(row["label"] or GOOD)
    split = row["split"].lower() or ("train" if label == GOOD else "test")
    if split not in ("train", "test"):
        raise DataError(f"{where}: the split is {row['split']!r}; write train or test")
    if split == "train" and label != GOOD:
        raise DataError(f"{where}: {label!r} is a defect, but only good images train; write test")
    if row["mask"] and label == GOOD:
        raise DataError(f"{where}: a good image has no mask; remove it, or name the defect")
    if not row["path"]:
        raise DataError(f"{where}: the path is empty; name an image file")
    image = _existing(row["path"], root, where)
    mask = _existing(row["mask"], root, where) if row["mask"] else None
    return Sample(image, label, mask, _joined(row["roi"], root) if row["roi"] else None), split


def _existing(text: str, root: Path, where: str) -> Path:
    path = _joined(text, root)
    if not path.is_file():
        raise DataError(
            f"{where}: there is no file {path}; give its path relative to the folder that the "
            ".csv is in"
        )
    return path


def _joined(text: str, root: Path) -> Path:
    return Path(os.path.normpath(root / text))


MANIFEST = Family("manifest", _is_here, _read)
