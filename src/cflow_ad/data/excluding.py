"""Images that are to be left out, by name."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from cflow_ad.data.images import PathLike
from cflow_ad.data.listing import IMAGE_SUFFIXES
from cflow_ad.errors import DataError


def read_exclusions(given: Iterable[PathLike]) -> list[str]:
    """Image names, and the lists in files, as the names of images.

    Args:
        given: names of images, or files that list them: a CSV with a column `path`, or text with
            a name a line.

    Raises:
        DataError: a file is missing, cannot be read, or is a CSV without that column.
    """
    names: list[str] = []
    for path in map(Path, given):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            names.append(os.fspath(path))
        else:
            names += _listed(path)
    return names


def find_excluded(paths: Sequence[Path], root: Path, names: Iterable[str]) -> set[int]:
    """Which images are meant by names.

    A name is a path, absolute or relative to the data set or to the current folder, or its end:
    `003.png` and `good/003.png` both mean `train/good/003.png`.

    Args:
        paths: of the images.
        root: of the data set.
        names: of those to leave out.

    Raises:
        DataError: a name means no image, or more than one.

    Example:
        >>> find_excluded([Path("a/1.png"), Path("a/2.png")], Path("a"), ["2.png"])
        {1}
    """
    at = {os.path.normpath(path.absolute()): number for number, path in enumerate(paths)}
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        by_name[path.name].append(number)
    found = set()
    for name in names:
        path = Path(name)
        places = {os.path.normpath(base / path) for base in (root.absolute(), Path.cwd())}
        fitting = [at[place] for place in places if place in at] or [
            number
            for number in by_name[path.name]
            if paths[number].parts[-len(path.parts) :] == path.parts
        ]
        if not fitting:
            raise DataError(
                f"{name}: to be excluded, but no good image of {root} has this name; correct it, "
                "or take it off the list"
            )
        if len(fitting) > 1:
            raise DataError(
                f"{name}: to be excluded, but {paths[fitting[0]]} and {paths[fitting[1]]} both "
                "have this name; give more of the path"
            )
        found.add(fitting[0])
    return found


def _listed(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: this list is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise DataError(
            f"{file}: no list to exclude can be read there ({error.strerror}); name an image, or "
            "a .csv or .txt file that lists some"
        ) from error
    if file.suffix.lower() != ".csv":
        return [line.strip() for line in text.splitlines() if line.strip()]
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else ","  # spreadsheets in many languages
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    column = next((name for name in rows.fieldnames or () if name.strip().lower() == "path"), None)
    if column is None:
        raise DataError(f"{file}: no column 'path'; the first line names the columns")
    return [name for row in rows if (name := (row[column] or "").strip())]
