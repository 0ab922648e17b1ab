"""A manifest: a CSV file with a line for each image."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import Layout, Listing, label_of
from cflow_ad.data.table import read_table
from cflow_ad.errors import DataError

COLUMNS = ("path", "label", "mask", "split", "roi")
"""The columns that a manifest may have; the first two are required."""


def _read(file: Path) -> Listing:
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    lines: dict[Path, int] = {}
    for line, row in read_table(file, COLUMNS[:2], COLUMNS[2:]):
        where = f"{file}, line {line}"
        sample, split = _read_row(row, file.parent, where)
        if (first := lines.setdefault(sample.path, line)) != line:
            raise DataError(
                f"{where}: {row['path']} is on line {first} already; list each image once"
            )
        splits[split].append(sample)
    if not lines:
        raise DataError(f"{file}: no images are listed; add a line for each: path,label,mask,split")
    return Listing(splits["train"], splits["test"], root=file.parent, name=file.stem)


def _read_row(row: dict[str, str], root: Path, where: str) -> tuple[Sample, str]:
    label = label_of(row["label"] or GOOD)
    split = row["split"].lower() or ("train" if label == GOOD else "test")
    if split not in ("train", "test"):
        raise DataError(f"{where}: the split is {row['split']!r}; write train or test")
    if split == "train" and label != GOOD:
        raise DataError(
            f"{where}: {label!r} is a defect, but only good images are trained on; write test"
        )
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
    path = Path(os.path.normpath(root / text))
    if "\\" in text and not path.exists():  # written on Windows
        return Path(os.path.normpath(root / PureWindowsPath(text).as_posix()))
    return path


MANIFEST = Layout(
    "manifest",
    lambda path: path.is_file() and path.suffix.lower() == ".csv",
    _read,
    "list good images whose split is train or empty",
    "list images whose split is test",
)
