"""The Kolektor sets, in which every image has a mask, and a good image's mask is empty.

::

    kolektor-sdd    ROOT/kos01/Part0.jpg    ROOT/kos01/Part0_label.bmp
    kolektor-sdd2   ROOT/train/10000.png    ROOT/train/10000_GT.png    and so in ROOT/test

So the masks are read to find out which images are good. KolektorSDD has no split into good and test
images (its publishers' three folds train on defects): `split` takes four fifths of the items to
train on, and their good images are trained on; all other images are test images. No item has good
images on both sides. In KolektorSDD2, defective training images are left out.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import (
    SPLIT_NOTE,
    Layout,
    Listing,
    left_out,
    read_samples,
    refuse_strays,
    split,
)
from cflow_ad.data.listing import scan
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError

_ITEM = re.compile(r"kos\d+", re.IGNORECASE)


def _fits_sdd(root: Path) -> bool:
    return root.is_dir() and any(_ITEM.fullmatch(folder.name) for folder in scan(root)[0])


def _read_sdd(root: Path) -> Listing:
    items = [folder for folder in scan(root)[0] if _ITEM.fullmatch(folder.name)]
    first, _ = split(items, lambda item: item.name)
    train: list[Sample] = []
    test: list[Sample] = []
    for item in items:
        for sample in _read_pairs(item, "_label"):
            (train if item in first and sample.is_good else test).append(sample)
    return Listing(train, test, [SPLIT_NOTE.format(what="items", name="folders' names")])


def _fits_sdd2(root: Path) -> bool:
    folders = [root / part for part in ("train", "test") if (root / part).is_dir()]
    return any(file.stem.endswith("_GT") for folder in folders for file in scan(folder)[1])


def _read_sdd2(root: Path) -> Listing:
    train, notes = left_out(_read_pairs(root / "train", "_GT"))
    return Listing(train, _read_pairs(root / "test", "_GT"), notes)


def _read_pairs(folder: Path, ending: str) -> list[Sample]:
    there = [sample.path for sample in read_samples(folder, recursive=False)]
    masks = {p.stem.removesuffix(ending): p for p in there if p.stem.endswith(ending)}
    images = [path for path in there if not path.stem.endswith(ending)]
    if bare := [image for image in images if image.stem not in masks]:
        raise DataError(
            f"{bare[0]}: has no mask {bare[0].stem}{ending}, which says whether it is good; copy "
            "it again from its source"
        )
    stems = {image.stem for image in images}
    refuse_strays([mask for stem, mask in masks.items() if stem not in stems], folder)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda image: _read_pair(image, masks[image.stem]), images))


def _read_pair(image: Path, mask: Path) -> Sample:
    if read_mask(mask, image_shape(mask)).any():
        return Sample(image, "defect", mask)
    return Sample(image, GOOD)


KOLEKTOR_SDD = Layout("kolektor-sdd", _fits_sdd, _read_sdd)
KOLEKTOR_SDD2 = Layout(
    "kolektor-sdd2",
    _fits_sdd2,
    _read_sdd2,
    "put them in train, each with its <stem>_GT.png",
    "put them in test, each with its <stem>_GT.png",
)
