"""Which images the report shows, and their pictures as `data:` URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.images import read_image
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError
from cflow_ad.evaluation._wording import number
from cflow_ad.evaluation.overlay import (
    heatmap,
    outline,
    shrink_image,
    shrink_map,
    shrink_mask,
)
from cflow_ad.scoring.prediction import Prediction

if TYPE_CHECKING:
    from cflow_ad.evaluation.evaluate import ImageRecord

_ELONGATED = 1.8  # times as wide as high: three of these are easier to see one over another


@dataclass(frozen=True)
class Chosen:
    """Records of the images to show; none is in two places."""

    misses: tuple[ImageRecord, ...]
    """Worst first: the lowest score."""

    false_alarms: tuple[ImageRecord, ...]
    """Worst first: the highest score."""

    typical: tuple[ImageRecord, ...]
    """By label, good ones last."""

    n_misses: int
    """Of all images."""

    n_false_alarms: int
    """Of all images."""

    @property
    def n_shown(self) -> int:
        """How many images are shown in all."""
        return len(self.misses) + len(self.false_alarms) + len(self.typical)


@dataclass(frozen=True)
class Picture:
    """One image of the page."""

    uri: str
    caption: str
    description: str
    """For those who cannot see it."""


@dataclass(frozen=True)
class Example:
    """One image, what was said of it, and its three pictures."""

    name: str
    label: str
    score: str
    outcome: str
    is_wrong: bool
    is_wide: bool
    pictures: tuple[Picture, ...]
    """Empty where `problem` says why."""

    problem: str


def choose(records: Sequence[ImageRecord], most: int) -> Chosen:
    """Pick images to show.

    Typical images of a label are those whose scores divide its scores evenly: a single one has
    the median. Every label has as many, at least one, as long as `most` is not reached.

    Args:
        records: of all images.
        most: misses, and also false alarms, and also typical images.
    """
    misses = sorted((r for r in records if r.is_miss), key=lambda r: r.score)
    alarms = sorted((r for r in records if r.is_false_alarm), key=lambda r: -r.score)
    shown = {r.sample.path for r in (*misses[:most], *alarms[:most])}
    by_label: dict[str, list[ImageRecord]] = {}
    for record in sorted(records, key=lambda r: (r.sample.is_good, r.sample.label, r.score)):
        if record.sample.path not in shown:
            by_label.setdefault(record.sample.label, []).append(record)
    each = max(1, most // max(1, len(by_label)))
    typical = [record for group in by_label.values() for record in _spread(group, each)]
    return Chosen(
        tuple(misses[:most]), tuple(alarms[:most]), tuple(typical[:most]), len(misses), len(alarms)
    )


def _spread(records: Sequence[ImageRecord], n: int) -> Iterable[ImageRecord]:
    """Of records in the order of their scores, `n` evenly spaced ones, or all there are."""
    n = min(n, len(records))
    return [records[(2 * index + 1) * len(records) // (2 * n)] for index in range(n)]


def show(
    record: ImageRecord,
    predict: Callable[[Path], Prediction],
    *,
    root: Path,
    scale: tuple[float, float],
    longest: int,
) -> Example:
    """Read an image again and draw its three pictures.

    An image or a mask that can no longer be read leaves a note in its place: it takes nothing
    from the numbers.

    Args:
        record: of the image.
        predict: what the detector says of an image file.
        root: the folder that names are given relative to.
        scale: of the colours of all maps.
        longest: pixels of a picture's longer side, at most.
    """
    sample = record.sample
    inside = sample.path.is_relative_to(root)
    pictures: tuple[Picture, ...] = ()
    is_wide, problem = False, ""
    try:
        image = read_image(sample.path)
        height, width = image.shape[:2]
        is_wide = width > _ELONGATED * height
        truth = None if sample.mask is None else read_mask(sample.mask, (height, width))
        pictures = _pictures(image, truth, predict(sample.path), record, scale, longest)
    except DataError as error:
        problem = str(error).removeprefix(f"{sample.path}: ")
    return Example(
        name=(sample.path.relative_to(root) if inside else sample.path).as_posix(),
        label=sample.label,
        score=number(record.score),
        outcome=_outcome(record),
        is_wrong=record.is_miss or record.is_false_alarm,
        is_wide=is_wide,
        pictures=pictures,
        problem=problem,
    )


def _outcome(record: ImageRecord) -> str:
    if record.sample.is_good:
        return "false alarm" if record.is_anomalous else "passed"
    return "found" if record.is_anomalous else "missed"


def _pictures(
    image: NDArray[Any],
    truth: NDArray[np.bool_] | None,
    prediction: Prediction,
    record: ImageRecord,
    scale: tuple[float, float],
    longest: int,
) -> tuple[Picture, ...]:
    small = shrink_image(image, longest)
    colours = heatmap(shrink_map(prediction.anomaly_map, longest), scale)
    width = max(1, round(max(small.shape) / 160))
    label = record.sample.label
    if record.sample.is_good:
        first = Picture(as_uri(small), "image", "a good image")
    elif truth is None:
        first = Picture(as_uri(small), "image (no mask)", f"an image with {label}")
    else:
        drawn = outline(small, shrink_mask(truth, longest), width)
        first = Picture(as_uri(drawn), "ground truth", f"an image with {label}, outlined")
    found = outline(small, shrink_mask(prediction.mask, longest), width)
    regions = len(prediction.regions)
    said = f"{regions or 'no'} region{'s' * (regions != 1)} outlined"
    return (
        first,
        Picture(as_uri(colours), "anomaly map", f"its anomaly map, at most {number(record.score)}"),
        Picture(as_uri(found), "prediction", f"the prediction: {said}"),
    )


def as_uri(pixels: NDArray[np.uint8]) -> str:
    """A picture as a `data:` URI, RGB, shape `(H, W, 3)`."""
    buffer = io.BytesIO()
    # Colour at full resolution: halved, it would smear the red lines.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75, subsampling="4:4:4", optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
