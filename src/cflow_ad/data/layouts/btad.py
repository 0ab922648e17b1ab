"""BTAD, the beanTech data set: ``train/ok``, ``test/ok``, ``test/ko``, ``ground_truth/ko``."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, match_masks, name_of
from cflow_ad.data.listing import list_images


def _is_here(root: Path) -> bool:
    return (root / "train" / "ok").is_dir() and not (root / "train" / GOOD).is_dir()


def _read(root: Path) -> Dataset:
    train = [Sample(image, GOOD) for image in list_images(root / "train" / "ok")]
    test: list[Sample] = []
    good, bad = root / "test" / "ok", root / "test" / "ko"
    if bad.is_dir():
        masks = match_masks(root / "ground_truth", root / "test", [bad])
        test += [Sample(image, "ko", masks.get(image)) for image in list_images(bad)]
    if good.is_dir():
        test += [Sample(image, GOOD) for image in list_images(good)]
    return Dataset(
        root,
        name_of(root),
        tuple(train),
        tuple(test),
        "btad",
        test_place="put them in test/ok and test/ko",
    )


BTAD = Family("btad", _is_here, _read)
