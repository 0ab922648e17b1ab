"""The depth of a data set: which value of its 16-bit images is white.

Cameras write 10 or 12 bits into files of 16. The depth is found for the data set as a whole, from
what the files state, else from the largest value in all of the good images. Files that state a
depth with certainty (8 bits, packed 12 bits, a PGM's largest value, a TIFF's SMaxSampleValue) must
agree. The `sBIT` of a PNG is a hint: by the standard, its samples may be scaled to 16 bits.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cflow_ad.data.decoding.files import read_header
from cflow_ad.data.decoding.raster import Reading, bits_for
from cflow_ad.data.images import ImageSource, ReadAs, image_raster, original, source_name
from cflow_ad.data.parallel import work_ahead
from cflow_ad.errors import DataError
from cflow_ad.process import usable_cores

_TOLERANCE = 1.5  # of the ratio of brightness that tells two depths
_MOST_SPREAD = 2.5  # of brightness within a depth; by another light it varies more


class Depth(NamedTuple):
    """The depth of a data set, and how it was found."""

    bits: int

    note: str
    """For a person: the depth and where it comes from."""

    odd: tuple[tuple[ImageSource, str], ...] = ()
    """Images that do not have it, and why."""

    brightness: tuple[float, float] | None = None
    """Means of the darkest and the brightest image that does not state its depth, as shares of
    white; None where all state it."""


class _Evidence(NamedTuple):
    """What one image shows."""

    source: ImageSource
    bits: int | None
    """As stated; None if it is not."""
    hint: int | None = None
    largest: int = 0
    mean: float = 0.0


def find_depth(sources: Iterable[ImageSource], reading: Reading) -> Depth:
    """Find the depth of good images.

    Only images that do not state theirs are decoded. Images that cannot be read are passed over:
    reading them will say why.

    Args:
        sources: The images.
        reading: How they are read. A depth that it states is taken as it is.
    """

    def look(source: ImageSource) -> _Evidence | None:
        return _look(original(source), reading)

    workers = min(4, usable_cores())
    done = work_ahead(sources, look, workers=workers, ahead=8, on_error=lambda source, error: None)
    found = [evidence for _, evidence in done if evidence is not None]
    stated = [each for each in found if each.bits is not None]
    silent = [each for each in found if each.bits is None]
    if reading.bits is not None:
        depth = Depth(reading.bits, f"{_of(reading.bits)}, as given")
    else:
        depth = _compare(stated, silent)
    if not silent:
        return depth
    means = [each.mean / (2**depth.bits - 1) for each in silent]
    return depth._replace(brightness=(min(means), max(means)))


def _compare(stated: Sequence[_Evidence], silent: Sequence[_Evidence]) -> Depth:
    """Find the depth of images of which some state theirs."""
    depth = _by_statements(stated) if stated or not silent else None
    held = _by_values(silent) if silent else None
    if depth is None or held is None or depth.bits == held.bits:
        one = depth or held
        assert one is not None, "there are statements or values"
        return one._replace(odd=(depth.odd if depth else ()) + (held.odd if held else ()))
    if len(stated) > len(silent):
        why = f"seems to hold {_of(held.bits)} in 16, but others state {_of(depth.bits)}"
        return depth._replace(odd=depth.odd + tuple((each.source, why) for each in silent))
    odd = tuple(
        (each.source, f"states {_of(each.bits)}, but other images hold {_of(held.bits)}")
        for each in stated
    )
    return held._replace(odd=odd + held.odd)


def require_depth(sources: Sequence[ImageSource], reading: Reading) -> Depth:
    """Find the depth of good images, as `find_depth`.

    Raises:
        DataError: They have more than one.
    """
    depth = find_depth(sources, reading)
    if depth.odd:
        source, why = depth.odd[0]
        more = f" (and {len(depth.odd) - 1} more images)" if len(depth.odd) > 1 else ""
        raise DataError(
            f"{source_name(source) or 'an image from memory'}: {why}{more}; {WAY_OUT}",
            code="training.depths",
            name=source_name(source),
            n=len(depth.odd),
        )
    return depth


WAY_OUT = (
    "a data set has one depth: convert or exclude these images, or give the depth of its 16-bit "
    "images with --bits (in Python: bits)"
)
"""What to do about images of another depth."""


def _look(source: ImageSource, reading: Reading) -> _Evidence | None:
    if isinstance(source, str | os.PathLike):
        header = read_header(Path(source), reading)
        if header.bits is not None:
            return _Evidence(source, header.bits)
    raster = image_raster(ReadAs(source, reading))
    if raster is None or raster.samples.dtype.kind == "f":
        return None
    header = raster.header
    if header.bits is not None:
        return _Evidence(source, header.bits)
    colours = raster.colours
    return _Evidence(source, None, header.hint, int(colours.max()), float(np.mean(colours)))


def _by_statements(stated: Sequence[_Evidence]) -> Depth:
    """Find the depth of images that state one; 8 bits where there are none."""
    counts = Counter(each.bits for each in stated if each.bits is not None)
    common = counts.most_common(1)[0][0] if counts else 8
    odd = tuple(
        (each.source, f"{_of(each.bits)}, but most have {common}")
        for each in stated
        if each.bits != common
    )
    return Depth(common, f"{_of(common)}, as the files state", odd)


def _by_values(silent: Sequence[_Evidence]) -> Depth:
    """Find the depth of images that do not state one for certain."""
    largest = max(each.largest for each in silent)
    hints = Counter(each.hint for each in silent if each.hint is not None)
    if hints:
        hint = hints.most_common(1)[0][0]
        odd = tuple(
            (each.source, f"its sBIT states {_of(each.hint)}, that of most {hint}")
            for each in silent
            if each.hint not in (None, hint)
        )
        if largest < 2**hint:
            return Depth(hint, f"{_of(hint)} in 16, as sBIT states", odd)
        return Depth(16, f"16 bits: {_of(hint)} by sBIT, scaled to 16 ({largest})", odd)
    bits = bits_for(largest)
    note = f"{_of(bits)} in 16, from the largest value in the good images, {largest}"
    return Depth(bits, note if bits < 16 else note.replace(" in 16", ""), _mixed(silent, bits))


def _mixed(silent: Sequence[_Evidence], bits: int) -> tuple[tuple[ImageSource, str], ...]:
    """Find images of a lesser depth among those of `bits`.

    Written into 16 bits, a picture of 12 bits is 16 times as dark as the same of 16. So a second
    depth is found where all images that fit into fewer bits are darker than all others, by the
    ratio of the two depths, and each kind is about equally bright.
    """
    for fewer in (bits - 2, bits - 4, bits - 6, bits - 8):
        dark = [each for each in silent if each.largest < 2**fewer]
        bright = [each for each in silent if each.largest >= 2**fewer]
        if fewer < 8 or not dark or not bright:
            continue
        apart = max(each.mean for each in dark) < min(each.mean for each in bright)
        ratio = _median(bright) / max(_median(dark), 1e-9)
        is_even = max(_spread(dark), _spread(bright)) <= _MOST_SPREAD
        off = abs(math.log(ratio / 2 ** (bits - fewer)))
        if apart and is_even and off <= math.log(_TOLERANCE):
            odd, depth, other = (
                (dark, fewer, bits) if len(dark) <= len(bright) else (bright, bits, fewer)
            )
            why = (
                f"it seems to hold {_of(depth)} in 16 and others {other}: one kind is "
                f"{ratio:.0f} times as bright as the other"
            )
            return tuple((each.source, why) for each in odd)
    return ()


def _spread(some: Sequence[_Evidence]) -> float:
    """How many times as bright the brightest is as the darkest."""
    means = [max(each.mean, 1e-9) for each in some]
    return max(means) / min(means)


def _median(some: Sequence[_Evidence]) -> float:
    return float(np.median([each.mean for each in some]))


def _of(bits: int | None) -> str:
    return f"{bits} bits"
