"""A plain folder of good images, or one with them in ``good/``."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.dataset import GOOD, Sample
from cflow_ad.data.layouts.reading import Layout, Listing
from cflow_ad.data.listing import has_images, list_images, scan
from cflow_ad.errors import DataError

EXPECTED = (
    "give a folder of good images, a folder with train/good and test/<defect> in it, "
    "or a .csv file that lists the images"
)
"""What to do where no data set is found."""


def _read(root: Path) -> Listing:
    images_in = root
    if not any(scan(root)):
        raise DataError(f"{root}: the folder is empty; {EXPECTED}")
    if not has_images(root):
        if has_images(root / GOOD):
            images_in = root / GOOD
        elif has_images(root / "train"):
            raise DataError(
                f"{root / 'train'}: images lie there directly; move them to train/good, "
                "or name that folder itself"
            )
    return Listing([Sample(image, GOOD) for image in list_images(images_in)], ())


FOLDER = Layout(
    "folder",
    Path.is_dir,
    _read,
    "put them in that folder",
    "put them in test/good and test/<defect>, and the good ones for training in train/good",
)
