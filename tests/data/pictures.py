"""Image files to read."""

from __future__ import annotations

import numpy as np
from PIL import Image


def save(path, image, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif
