"""ELPV: electroluminescence images of solar cells, from a package or a folder.

::

    elpv-mono, elpv-poly           in the installed package elpv-dataset
    FOLDER/mono, FOLDER/poly       of a copy: FOLDER/labels.csv and FOLDER/images/cell0001.png

Every cell has a probability of being defective, as its makers' experts judged it: 0, 1/3, 2/3 or 1.
Cells of probability 0 are good, and split by `family.split`; all others are test images, labelled
with their probability. There are no masks, so that only whole images are evaluated.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import SPLIT_NOTE, Family, split
from cflow_ad.errors import DataError, missing_library

TYPES = ("mono", "poly")
"""Monocrystalline and polycrystalline cells look different, and so are two data sets."""

_PREFIX = "elpv-"
_LABELS = {0.0: GOOD, 0.33: "defect 1/3", 0.67: "defect 2/3", 1.0: "defect certain"}


def _is_here(path: Path) -> bool:
    return _folder_and_type(path) is not None


def _folder_and_type(path: Path) -> tuple[Path | None, str] | None:
    """The folder with ``labels.csv``, None for the package's; nothing at all if it is not so."""
    if path.exists():
        return None
    name = str(path)
    if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in TYPES:
        return None, name.removeprefix(_PREFIX)
    if path.name in TYPES and is_elpv_folder(path.parent):
        return path.parent, path.name
    return None


def is_elpv_folder(folder: Path) -> bool:
    """Whether a folder holds the cells of both types, of which one has to be named."""
    return (folder / "labels.csv").is_file() and (folder / "images" / "cell0001.png").is_file()


def _read(path: Path) -> Dataset:
    found = _folder_and_type(path)
    if found is None:
        raise DataError(
            f"{path}: no solar cells of one type; name elpv-mono or elpv-poly, or FOLDER/mono or "
            "FOLDER/poly of a folder with labels.csv and images"
        )
    folder, kind = found
    folder = folder or _package_folder()
    cells = [Sample(image, label) for image, label in _rows(folder / "labels.csv", kind)]
    good = [cell for cell in cells if cell.is_good]
    train, held_out = split(good, lambda cell: cell.path.name)
    rest = [cell for cell in cells if not cell.is_good] + held_out
    return Dataset(
        folder,
        _PREFIX + kind,
        tuple(train),
        tuple(rest),
        "elpv",
        (
            SPLIT_NOTE.format(what="cells of probability 0", name="file names"),
            "every cell of another probability counts as defective, 1/3 too",
        ),
    )


def _package_folder() -> Path:
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        error = missing_library(ModuleNotFoundError(name="elpv_dataset"))
        assert error is not None
        raise error
    return Path(package.origin).parent / "data"


def _rows(file: Path, kind: str) -> list[tuple[Path, str]]:
    """Image and label of every cell of a type."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the list of cells cannot be read ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            name, probability, its_kind = line.split()
            label = _label(float(probability))
        except ValueError as error:
            raise DataError(
                f"{file}, line {number}: expected an image, its probability and its type; copy the "
                "file again"
            ) from error
        if its_kind == kind:
            rows.append((file.parent / name, label))
    return rows


def _label(probability: float) -> str:
    return _LABELS[min(_LABELS, key=lambda known: abs(known - probability))]


ELPV = Family("elpv", _is_here, _read)
