"""The good images that a model is fitted to or calibrated on, wherever they come from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cflow_ad.data.images import ImageSource, as_image
from cflow_ad.data.layouts import Dataset, open_dataset
from cflow_ad.errors import DataError

GoodData: TypeAlias = str | os.PathLike[str] | Dataset | Sequence[ImageSource]


@dataclass(frozen=True, slots=True, eq=False)
class GoodImages:
    """Good images, at least one."""

    sources: list[ImageSource]
    name: str
    """Of the data set."""
    fingerprint: str
    """The same where name and content of every image are."""


def good_images(data: GoodData) -> GoodImages:
    """Find the good images.

    Args:
        data: a folder, a manifest, a `Dataset` (its `train`), or images as for `as_image`.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    if isinstance(data, str | os.PathLike):
        data = open_dataset(data)
    if isinstance(data, Dataset):
        sources: list[ImageSource] = [sample.path for sample in data.require_train()]
        return GoodImages(sources, data.name, data.fingerprint())
    sources = list(data)
    if not sources:
        raise DataError("no good images to train on: the sequence is empty")
    digest = hashlib.sha256()
    for source in sources:
        pixels = as_image(source)
        digest.update(f"{pixels.shape} {pixels.dtype}".encode())
        digest.update(pixels.tobytes())
    return GoodImages(sources, "images from memory", digest.hexdigest()[:16])
