"""Images to exclude, by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

from cflow_ad.data.images import PathLike
from cflow_ad.data.listing import IMAGE_SUFFIXES
from cflow_ad.data.table import read_table
from cflow_ad.errors import DataError


def read_exclusions(given: Iterable[PathLike]) -> list[str]:
    """Return image names: those given, and those listed in files that are given.

    A file is a CSV with a column `path`, or text with one name a line.

    Raises:
        DataError: A file is missing, cannot be read, or is a CSV without that column.
    """
    names: list[str] = []
    for path in map(Path, given):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(os.fspath(path))
        elif suffix == ".csv":
            names += [row["path"] for _, row in read_table(path, ["path"]) if row["path"]]
        else:
            names += _read_lines(path)
    return names


def find_excluded(paths: Sequence[Path], root: Path, names: Iterable[str]) -> set[int]:
    """Return the indices of the images that are named.

    A name is a path or its end: `003.png` and `good/003.png` both name `train/good/003.png`.

    Raises:
        DataError: No image has a name, or several have it.

    Example:
        >>> find_excluded([Path("a/1.png"), Path("a/2.png")], Path("a"), ["2.png"])
        {1}
    """
    ends = [Path(os.path.normpath(path.absolute())).parts for path in paths]
    found = set()
    for name in names:
        path = Path(name)
        if "\\" in name and not any(parts[-1] == path.name for parts in ends):
            path = Path(PureWindowsPath(name).as_posix())  # written on Windows
        if ".." in path.parts:
            path = Path(os.path.normpath(path.absolute()))
        fitting = [n for n, parts in enumerate(ends) if parts[-len(path.parts) :] == path.parts]
        if not fitting:
            raise DataError(
                f"{name}: no good image of {root} has this name, so it cannot be excluded; correct "
                "it, or remove it from the list"
            )
        if len(fitting) > 1:
            raise DataError(
                f"{name}: {paths[fitting[0]]} and {paths[fitting[1]]} both have this name; give "
                "more of the path of the one to exclude"
            )
        found.add(fitting[0])
    return found


def _read_lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: this list is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise DataError(
            f"{file}: no list of images can be read there ({error.strerror}); name an image, or "
            "a .csv or .txt file that lists some"
        ) from error
    return [line.strip() for line in lines if line.strip()]
