"""Colours of a sensor's mosaic: a Bayer pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.decoding.opening import optional_library
from cflow_ad.data.decoding.raster import Reading
from cflow_ad.errors import ImageError


def demosaic(samples: NDArray[Any], reading: Reading, name: str) -> NDArray[Any]:
    """Compute the colours of a sensor's mosaic by bilinear interpolation.

    Samples are returned as they are where `reading` names no pattern.

    Raises:
        ImageError: The image is in colour already, or not of unsigned integers.
        DependencyError: OpenCV is not installed.
    """
    if reading.bayer == "none":
        return samples
    if samples.ndim == 3 and samples.shape[2] == 1:
        samples = samples[..., 0]
    if samples.ndim != 2 or samples.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"{name}: a Bayer pattern has one unsigned value for each pixel, of 8 or 16 bits, but "
            "this image has colours or other values; leave out --bayer",
            code="image.no_mosaic",
            name=name,
        )
    if min(samples.shape) < 4:
        raise ImageError(
            f"{name}: too small to have a Bayer pattern; leave out --bayer",
            code="image.no_mosaic",
            name=name,
        )
    cv2 = optional_library("cv2", "bayer", name, "a Bayer pattern")
    code = getattr(cv2, f"COLOR_Bayer{reading.bayer.upper()}2RGB")
    found: NDArray[Any] = cv2.cvtColor(np.ascontiguousarray(samples), code)
    return found
