"""Image files that are in memory as bytes, as archives and requests hold them."""

from __future__ import annotations

import io
from typing import Any

from numpy.typing import NDArray

from cflow_ad.data._decode import load_bytes, read_shape_of_bytes
from cflow_ad.data.images import ComputedImage, to_rgb


class EncodedImage(ComputedImage):
    """The bytes of an image file, decoded when the image is needed.

    Args:
        data: of a PNG, JPEG, BMP, TIFF or WebP file.
        name: of the image, for results and errors.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def shape(self) -> tuple[int, int]:
        return read_shape_of_bytes(io.BytesIO(self._data), self._name)

    def pixels(self) -> NDArray[Any]:
        return to_rgb(load_bytes(io.BytesIO(self._data), self._name), self._name)
