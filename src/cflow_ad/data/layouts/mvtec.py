"""MVTec AD, and every set that is laid out like it, such as MPDD and most of one's own."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, is_used, label_of, match_masks, name_of
from cflow_ad.data.listing import has_images, list_images, scan
from cflow_ad.errors import DataError


def _is_here(root: Path) -> bool:
    return (root / "train" / GOOD).is_dir() or (root / "test").is_dir()


def _read(root: Path) -> Dataset:
    train: list[Sample] = []
    if has_images(root / "train"):
        raise DataError(f"{root / 'train'}: images lie there directly; move them to train/good")
    if (root / "train" / GOOD).is_dir():
        train = [Sample(image, GOOD) for image in list_images(root / "train" / GOOD)]

    test: list[Sample] = []
    if (root / "test").is_dir():
        folders, _ = scan(root / "test")
        if has_images(root / "test"):
            raise DataError(
                f"{root / 'test'}: images lie there directly; move them to test/good or "
                "test/<defect>"
            )
        masks = match_masks(root / "ground_truth", root / "test", folders)
        for folder in filter(is_used, folders):
            label = label_of(folder.name)
            test += [Sample(i, label, masks.get(i)) for i in list_images(folder)]
    return Dataset(root, name_of(root), tuple(train), tuple(test), "mvtec")


MVTEC = Family("mvtec", _is_here, _read)
