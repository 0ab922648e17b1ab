"""Check that masks and regions fit their images, by the files' headers alone."""

from __future__ import annotations

from collections.abc import Iterable

from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts import Sample
from cflow_ad.data.masks import check_mask
from cflow_ad.errors import ImageError


def check_fit(samples: Iterable[Sample]) -> None:
    """Check that masks and regions of interest are as large as their images.

    Args:
        samples: Of a data set. An image that cannot be read is skipped: scoring reports it.

    Raises:
        DataError: A mask or a region cannot be read, as far as its header shows it.
        MaskError: One has another size than its image.
    """
    for sample in samples:
        parts = [part for part in (sample.roi, sample.mask) if part is not None]
        if not parts:
            continue
        try:
            shape = image_shape(sample.path)
        except ImageError:
            continue
        for part in parts:
            check_mask(part, shape)
