"""Image files that are in memory as bytes, as archives and requests hold them."""

from __future__ import annotations

import io
from typing import Any

from numpy.typing import NDArray

from cflow_ad.data.decoding.files import read_header_of, read_raster_of
from cflow_ad.data.decoding.raster import Raster, Reading, to_pixels
from cflow_ad.data.images import AS_STORED, ComputedImage


class EncodedImage(ComputedImage):
    """The bytes of an image file, decoded when the image is needed.

    Args:
        data: of a file of a kind that `read_image` reads.
        name: of the image, for results and errors.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def shape(self, reading: Reading = AS_STORED) -> tuple[int, int]:
        return read_header_of(io.BytesIO(self._data), self._name, reading).shape

    def pixels(self, reading: Reading = AS_STORED) -> NDArray[Any]:
        return to_pixels(self.raster(reading), reading, self._name)

    def raster(self, reading: Reading) -> Raster:
        return read_raster_of(io.BytesIO(self._data), self._name, reading)
