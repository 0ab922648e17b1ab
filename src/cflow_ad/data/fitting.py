"""See that what belongs to images fits them, from the files' headers alone: before any work."""

from __future__ import annotations

from collections.abc import Iterable

from cflow_ad.data.images import check_mask, image_shape
from cflow_ad.data.layouts import Sample
from cflow_ad.errors import ImageError


def check_fit(samples: Iterable[Sample]) -> None:
    """See that each region of interest is as large as its image.

    Args:
        samples: of a data set. An image that cannot be read is passed over: whoever scores it says
            what is wrong with it, or goes on without it.

    Raises:
        ImageError: a region cannot be read, as far as its header shows it.
        MaskError: one has another size than its image.
    """
    for sample in samples:
        if sample.roi is None:
            continue
        try:
            shape = image_shape(sample.path)
        except ImageError:
            continue
        check_mask(sample.roi, shape)
