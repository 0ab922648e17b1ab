"""A folder of good images, or with folders of good and defective ones; see `named`."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.data.layouts.named import fits_named, read_named, read_plain
from cflow_ad.data.layouts.reading import Layout, Listing
from cflow_ad.data.layouts.words import FolderNames
from cflow_ad.data.listing import list_images, scan
from cflow_ad.errors import DataError

EXPECTED = (
    "give a folder of good images, a folder with good and bad or with train/good and "
    "test/<defect> in it, or a .csv file that lists the images"
)
"""What to do where no data set is found."""


def _read(root: Path) -> Listing:
    if not any(scan(root)):
        raise DataError(
            f"{root}: the folder is empty; {EXPECTED}",
            code="training.no_images",
            folder=str(root),
        )
    list_images(root)  # raises where there are none
    listing = read_plain(root)
    if not listing.train:
        raise DataError(f"{root}: it holds masks, but no images; {EXPECTED}")
    return listing


NAMED = Layout(
    "named",
    fits_named,
    lambda root: read_named(root, FolderNames()),
    "put them in a folder named good, or name theirs with --good",
    "put them in folders named good and bad, or name theirs with --good and --bad",
)
FOLDER = Layout(
    "folder",
    Path.is_dir,
    _read,
    "put them in that folder",
    "put them in test/good and test/<defect>, and the good ones for training in train/good",
)
