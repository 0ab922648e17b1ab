"""Find out how a data set lies on disk: the one entrance to all layouts."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.images import PathLike
from cflow_ad.data.layouts.btad import BTAD
from cflow_ad.data.layouts.dagm import DAGM
from cflow_ad.data.layouts.dataset import GOOD, Dataset, Layout
from cflow_ad.data.layouts.elpv import ELPV, TYPES, is_elpv_folder
from cflow_ad.data.layouts.family import Family, some
from cflow_ad.data.layouts.folder import EXPECTED, FOLDER
from cflow_ad.data.layouts.kolektor import KOLEKTOR_SDD, KOLEKTOR_SDD2
from cflow_ad.data.layouts.magnetic_tile import MAGNETIC_TILE
from cflow_ad.data.layouts.manifest import MANIFEST
from cflow_ad.data.layouts.mvtec import MVTEC
from cflow_ad.data.layouts.mvtec_ad2 import MVTEC_AD2
from cflow_ad.data.layouts.mvtec_loco import MVTEC_LOCO, MVTEC_LOCO_ALL
from cflow_ad.data.layouts.shanghaitech import SHANGHAITECH
from cflow_ad.data.layouts.visa import VISA
from cflow_ad.data.listing import IMAGE_SUFFIXES, has_images, scan
from cflow_ad.errors import DataError, SettingsError

# The first that fits is taken: MVTec AD's layout fits much, and a plain folder fits any.
_FAMILIES: tuple[Family, ...] = (
    MANIFEST,
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
    SHANGHAITECH,
    MVTEC,
    FOLDER,
)
_BY_NAME = {family.name: family for family in _FAMILIES}

LAYOUTS: tuple[Layout, ...] = tuple(_BY_NAME)
"""The names of all layouts, in the order in which they are looked for."""


def open_dataset(path: PathLike, layout: Layout | None = None) -> Dataset:
    """Find out how a data set lies on disk, and list its images.

    A layout is known by the names of files and folders, and the first of `LAYOUTS` that fits is
    taken; `cflow_ad.data.layouts` draws them. No image is opened, except the masks of the Kolektor
    sets, which alone say which images are good.

    In the MVTec layout only ``train/good`` is learnt from: other folders in ``train`` are left
    alone. A mask is an image of any suffix, and an image need not have one. In a manifest, paths
    are relative to the file; a label that is empty or ``good`` means good; a split that is empty
    means ``train`` for good images and ``test`` for the others; a ``roi`` that is empty means all
    of the image.

    Args:
        path: A folder, a ``.csv`` file, or ``elpv-mono`` or ``elpv-poly``.
        layout: One of `LAYOUTS`, to read it so whatever it looks like; unset, it is recognised.

    Raises:
        DataError: Nothing usable lies there, or something that would quietly be left out, such
            as a mask without an image. The message names it and the way out.
        DependencyError: It is in a package that is not installed.
        SettingsError: There is no layout of that name.
    """
    path = Path(path)
    if layout is not None and layout not in _BY_NAME:
        raise SettingsError(f"there is no layout {layout!r}; the layouts are {', '.join(LAYOUTS)}")
    try:
        family = _recognise(path) if layout is None else _BY_NAME[layout]
        return family.read(path)
    except OSError as error:
        raise DataError(f"{path}: this cannot be read ({error.strerror})") from error


def _recognise(path: Path) -> Family:
    family = next((family for family in _FAMILIES if family.is_here(path)), None)
    if family is None and path.is_file():
        what = "one image" if path.suffix.lower() in IMAGE_SUFFIXES else "no folder"
        raise DataError(f"{path}: this is {what}, not a data set; {EXPECTED}")
    if family is None:
        raise DataError(f"{path}: there is no such folder or file; {EXPECTED}")
    if family is FOLDER and (classes := _classes(path)):
        raise DataError(f"{path}: this holds several data sets ({some(classes)}); name one of them")
    return family


def _classes(root: Path) -> list[str]:
    """The data sets in the folders of a folder that is none itself."""
    if is_elpv_folder(root):
        return list(TYPES)
    if has_images(root) or has_images(root / GOOD):
        return []
    structured = [family for family in _FAMILIES if family not in (MANIFEST, FOLDER)]
    return [f.name for f in scan(root)[0] if any(family.is_here(f) for family in structured)]
