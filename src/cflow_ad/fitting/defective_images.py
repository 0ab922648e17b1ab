"""Defective images that a threshold is set by: a folder, a data set's test images or arrays."""

from __future__ import annotations

import os
from pathlib import Path

from cflow_ad.data.images import ImageSource
from cflow_ad.data.layouts import Dataset, open_dataset
from cflow_ad.data.listing import is_image, list_images
from cflow_ad.errors import DataError, FolderError
from cflow_ad.fitting.good_images import GoodData


def find_defective_images(data: GoodData) -> list[ImageSource]:
    """Find defective images, at least one.

    Args:
        data: an image file; a data set, whose defective test images are taken; any other folder,
            whose images are all taken; or images as for `as_image`.

    Raises:
        DataError: there are none.
    """
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if path.is_file() and is_image(path):
            return [path]
        try:
            data = open_dataset(path)
        except FolderError:  # folders of kinds of defects
            return list(list_images(path))
        if path.is_dir() and not data.defects:
            return list(list_images(path))
    if isinstance(data, Dataset):
        found: list[ImageSource] = [sample.path for sample in data.test if not sample.is_good]
        if not found:
            raise DataError(f"{data.root}: no defective images; {data.test_place}")
        return found
    if not (sources := list(data)):
        raise DataError("no defective images: the sequence is empty")
    return sources
