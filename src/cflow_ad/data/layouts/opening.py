"""Recognise how a data set lies on disk, and open it."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.images import PathLike
from cflow_ad.data.layouts.coco import COCO
from cflow_ad.data.layouts.dagm import DAGM
from cflow_ad.data.layouts.dataset import GOOD, Dataset
from cflow_ad.data.layouts.elpv import ELPV
from cflow_ad.data.layouts.folder import EXPECTED, FOLDER, NAMED
from cflow_ad.data.layouts.kolektor import KOLEKTOR_SDD, KOLEKTOR_SDD2
from cflow_ad.data.layouts.lookout import LOOKOUT
from cflow_ad.data.layouts.magnetic_tile import MAGNETIC_TILE
from cflow_ad.data.layouts.manifest import MANIFEST
from cflow_ad.data.layouts.mvtec import BTAD, MVTEC, MVTEC_AD2, MVTEC_LOCO, MVTEC_LOCO_ALL
from cflow_ad.data.layouts.named import read_named
from cflow_ad.data.layouts.reading import Layout, some
from cflow_ad.data.layouts.visa import VISA
from cflow_ad.data.layouts.words import FolderNames, kind_of_name
from cflow_ad.data.listing import IMAGE_SUFFIXES, has_images, scan
from cflow_ad.errors import DataError, SettingsError

# The first that fits is taken: MVTec AD's layout fits much, and a plain folder fits any.
_LAYOUTS: tuple[Layout, ...] = (
    MANIFEST,
    LOOKOUT,
    COCO,
    ELPV,
    VISA,
    MVTEC_AD2,
    MVTEC_LOCO,
    MVTEC_LOCO_ALL,
    BTAD,
    KOLEKTOR_SDD2,
    KOLEKTOR_SDD,
    MAGNETIC_TILE,
    DAGM,
    MVTEC,
    NAMED,
    FOLDER,
)
_BY_NAME = {layout.name: layout for layout in _LAYOUTS}

LAYOUTS: tuple[str, ...] = tuple(_BY_NAME)
"""The names of all layouts, in the order in which they are tried."""


def open_dataset(
    path: PathLike, layout: str | None = None, names: FolderNames | None = None
) -> Dataset:
    """Recognise how a data set lies on disk, and list its images.

    A layout is recognised by the names of files and folders; the first of `LAYOUTS` that fits is
    taken. `cflow_ad.data.layouts` shows them. No image is opened, except the masks of the Kolektor
    sets, which alone say which images are good.

    In the MVTec layout only ``train/good`` is trained on; other folders in ``train`` are ignored. A
    mask may have any image suffix, and an image need not have a mask. In a manifest, paths are
    relative to the file; a label that is empty or ``good`` means good; an empty split means
    ``train`` for good images and ``test`` for the others; an empty ``roi`` means the whole image.

    Args:
        path: A folder, a ``.csv`` file, or ``elpv-mono`` or ``elpv-poly``.
        layout: One of `LAYOUTS`, to read it so whatever it looks like; unset, it is recognised.
        names: Which folders hold good and defective images and masks, for the layout ``named``.

    Raises:
        DataError: No data set was found, or it has something that would silently be ignored, such
            as a mask without an image. The message names it and how to correct it.
        FolderError: The folders' names do not say which images are good.
        DependencyError: The data set is in a package that is not installed.
        SettingsError: There is no layout of that name, or `names` are given for another layout.
    """
    path = Path(path)
    if layout is not None and layout not in _BY_NAME:
        raise SettingsError(f"there is no layout {layout!r}; the layouts are {', '.join(LAYOUTS)}")
    if names and layout not in (None, NAMED.name):
        raise SettingsError(f"names of folders are for the layout named, not {layout}")
    try:
        if names:
            reader, found = NAMED, read_named(path, names)
        else:
            reader = _recognise(path) if layout is None else _BY_NAME[layout]
            found = reader.read(path)
    except OSError as error:
        raise DataError(f"{path}: this cannot be read ({error.strerror})") from error
    return Dataset(
        found.root or path,
        found.name or _name_of(path),
        tuple(found.train),
        tuple(found.test),
        reader.name,
        tuple(found.notes),
        train_place=reader.train_place,
        test_place=reader.test_place,
    )


def _recognise(path: Path) -> Layout:
    layout = next((layout for layout in _LAYOUTS if layout.fits(path)), None)
    if layout is None and path.is_file():
        what = "one image" if path.suffix.lower() in IMAGE_SUFFIXES else "no folder"
        raise DataError(f"{path}: this is {what}, not a data set; {EXPECTED}")
    if layout is None:
        raise DataError(f"{path}: there is no such folder or file; {EXPECTED}")
    if layout is FOLDER and (classes := _classes(path)):
        raise DataError(f"{path}: this holds several data sets ({some(classes)}); name one of them")
    return layout


def _classes(root: Path) -> list[str]:
    """The data sets in the folders of a folder that has no images itself."""
    if has_images(root) or has_images(root / GOOD):
        return []
    return [f.name for f in scan(root)[0] if any(layout.fits(f) for layout in _LAYOUTS[:-1])]


def _name_of(root: Path) -> str:
    """Name a data set after its folder, and ``bottle/train/good`` after the bottle."""
    resolved = root.resolve()
    parts = [part for part in resolved.parts[1:] if kind_of_name(part) not in ("train", GOOD)]
    return parts[-1] if parts else resolved.name
