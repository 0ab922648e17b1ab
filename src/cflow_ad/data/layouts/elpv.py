"""ELPV: electroluminescence images of solar cells, from a package or a folder.

::

    elpv-mono, elpv-poly           in the installed package elpv-dataset
    FOLDER/mono, FOLDER/poly       of a copy: FOLDER/labels.csv and FOLDER/images/cell0001.png

Monocrystalline and polycrystalline cells look different, so each type is a data set. Experts gave
each cell a probability of being defective: 0, 1/3, 2/3 or 1. Cells of probability 0 are good, and
divided by `split`; all others are test images, and their label is the probability. There are no
masks, so only whole images are evaluated.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import SPLIT_NOTE, Layout, Listing, split
from cflow_ad.errors import DataError, missing_library

_PREFIX, _TYPES = "elpv-", ("mono", "poly")
_PACKAGED = tuple(_PREFIX + kind for kind in _TYPES)
_LABELS = {0.0: GOOD, 0.33: "defect 1/3", 0.67: "defect 2/3", 1.0: "defect certain"}


def _fits(path: Path) -> bool:
    return _has_cells(path) or _names_one_type(path)


def _has_cells(folder: Path) -> bool:
    return (folder / "labels.csv").is_file() and (folder / "images" / "cell0001.png").is_file()


def _names_one_type(path: Path) -> bool:
    in_folder = path.name in _TYPES and _has_cells(path.parent)
    return (in_folder or str(path) in _PACKAGED) and not path.exists()


def _read(path: Path) -> Listing:
    if not _names_one_type(path):
        raise DataError(
            f"{path}: this does not name one type of solar cells; name elpv-mono or elpv-poly, or "
            "FOLDER/mono or FOLDER/poly of a folder with labels.csv and images"
        )
    folder = _package_folder() if str(path) in _PACKAGED else path.parent
    kind = path.name.removeprefix(_PREFIX)
    cells = [Sample(image, label) for image, label in _rows(folder / "labels.csv", kind)]
    good = [cell for cell in cells if cell.is_good]
    train, held_out = split(good, lambda cell: cell.path.name)
    test = [cell for cell in cells if not cell.is_good] + held_out
    notes = (
        SPLIT_NOTE.format(what="cells of probability 0", name="file names"),
        "every cell of another probability counts as defective, 1/3 too",
    )
    return Listing(train, test, notes, folder, _PREFIX + kind)


def _package_folder() -> Path:
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        error = missing_library(ModuleNotFoundError(name="elpv_dataset"))
        assert error is not None
        raise error
    return Path(package.origin).parent / "data"


def _rows(file: Path, kind: str) -> list[tuple[Path, str]]:
    """Return image and label of every cell of a type."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the list of cells cannot be read ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            name, probability, its_kind = line.split()
            label = _LABELS[min(_LABELS, key=lambda known: abs(known - float(probability)))]
        except ValueError as error:
            raise DataError(
                f"{file}, line {number}: expected an image, its probability and its type; copy the "
                "file again"
            ) from error
        if its_kind == kind:
            rows.append((file.parent / name, label))
    return rows


ELPV = Layout("elpv", _fits, _read)
