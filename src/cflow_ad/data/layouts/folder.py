"""A plain folder of good images, or one with them in ``good/``."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, name_of
from cflow_ad.data.listing import has_images, list_images, scan
from cflow_ad.errors import DataError


def _read(root: Path) -> Dataset:
    folders, files = scan(root)
    images_in = root
    if not has_images(root):
        if has_images(root / GOOD):
            images_in = root / GOOD
        elif has_images(root / "train"):
            raise DataError(
                f"{root / 'train'}: images lie there directly; move them to train/good, "
                "or name that folder itself"
            )
        elif not folders and not files:
            raise DataError(f"{root}: the folder is empty; {EXPECTED}")
    samples = tuple(Sample(image, GOOD) for image in list_images(images_in))
    return Dataset(
        root,
        name_of(root),
        samples,
        (),
        "folder",
        train_place="put them in that folder",
        test_place="put them in test/good and test/<defect>, and the good ones for training in "
        "train/good",
    )


EXPECTED = (
    "give a folder of good images, a folder with train/good and test/<defect> in it, "
    "or a .csv file that lists the images"
)
"""The way out where nothing usable lies."""

FOLDER = Family("folder", Path.is_dir, _read)
