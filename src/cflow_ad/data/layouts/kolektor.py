"""The Kolektor sets, in which every image has a mask, and a good image's mask is empty.

::

    kolektor-sdd    ROOT/kos01/Part0.jpg    ROOT/kos01/Part0_label.bmp
    kolektor-sdd2   ROOT/train/10000.png    ROOT/train/10000_GT.png    and so in ROOT/test

So the masks are read to know which images are good. KolektorSDD has no split into good and test
images (its publishers' three folds train on defects): four fifths of the items, by `family.split`,
give their good parts to train on; whatever else there is tests. No item is on both sides with good
parts. In KolektorSDD2, defective training images are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import SPLIT_NOTE, Family, name_of, refuse_strays, split
from cflow_ad.data.listing import has_images, list_images, scan
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError

_ITEM = re.compile(r"kos\d+", re.IGNORECASE)
_DEFECT = "defect"


def _is_sdd(root: Path) -> bool:
    return root.is_dir() and any(_ITEM.fullmatch(folder.name) for folder in scan(root)[0])


def _read_sdd(root: Path) -> Dataset:
    items = [folder for folder in scan(root)[0] if _ITEM.fullmatch(folder.name)]
    first, _ = split(items, lambda item: item.name)
    train: list[Sample] = []
    test: list[Sample] = []
    for item in items:
        for sample in _read_pairs(item, "_label"):
            (train if item in first and sample.is_good else test).append(sample)
    note = SPLIT_NOTE.format(what="items", name="folders' names")
    return Dataset(root, name_of(root), tuple(train), tuple(test), "kolektor-sdd", (note,))


def _is_sdd2(root: Path) -> bool:
    folders = [root / part for part in ("train", "test") if (root / part).is_dir()]
    return any(file.stem.endswith("_GT") for folder in folders for file in scan(folder)[1])


def _read_sdd2(root: Path) -> Dataset:
    train = _read_pairs(root / "train", "_GT") if has_images(root / "train") else []
    test = _read_pairs(root / "test", "_GT") if has_images(root / "test") else []
    good = tuple(sample for sample in train if sample.is_good)
    left_out = len(train) - len(good)
    return Dataset(
        root,
        name_of(root),
        good,
        tuple(test),
        "kolektor-sdd2",
        (f"{left_out} defective training images are left out",) if left_out else (),
        train_place="put them in train, each with its <stem>_GT.png",
        test_place="put them in test, each with its <stem>_GT.png",
    )


def _read_pairs(folder: Path, ending: str) -> list[Sample]:
    there = list_images(folder)
    masks = {p.stem.removesuffix(ending): p for p in there if p.stem.endswith(ending)}
    images = [path for path in there if not path.stem.endswith(ending)]
    if bare := [image for image in images if image.stem not in masks]:
        raise DataError(
            f"{bare[0]}: has no mask {bare[0].stem}{ending}, without which it cannot be known "
            "whether it is good; copy it again from its source"
        )
    paired = {image.stem for image in images}
    refuse_strays([mask for stem, mask in masks.items() if stem not in paired], folder)
    return [
        Sample(image, _DEFECT, masks[image.stem]) if defective else Sample(image, GOOD)
        for image, defective in zip(
            images, _any_defect([masks[image.stem] for image in images]), strict=True
        )
    ]


def _any_defect(masks: Sequence[Path]) -> list[bool]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda mask: bool(read_mask(mask, image_shape(mask)).any()), masks))


KOLEKTOR_SDD = Family("kolektor-sdd", _is_sdd, _read_sdd)
KOLEKTOR_SDD2 = Family("kolektor-sdd2", _is_sdd2, _read_sdd2)
