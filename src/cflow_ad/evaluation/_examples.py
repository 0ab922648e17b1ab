"""Which images the report shows, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError
from cflow_ad.evaluation._pages import Picture
from cflow_ad.evaluation._wording import number
from cflow_ad.evaluation.overlay import heatmap, outline, shrink_image, shrink_map, shrink_mask
from cflow_ad.scoring.prediction import Prediction

if TYPE_CHECKING:
    from cflow_ad.evaluation.evaluation import ImageRecord

PixelsOf: TypeAlias = Callable[[Path], NDArray[Any]]
"""Reads an image file."""

_ELONGATED = 1.8
"""Width over height, from which three pictures are easier to see one below another."""


@dataclass(frozen=True)
class Example:
    """One image with its result and three pictures."""

    name: str
    label: str
    score: str
    outcome: str
    is_wrong: bool
    is_wide: bool = False
    pictures: tuple[Picture, ...] = ()
    """Empty where `problem` gives the reason."""
    problem: str = ""


def choose_examples(
    records: Sequence[ImageRecord], most: int
) -> tuple[list[ImageRecord], list[ImageRecord], list[ImageRecord]]:
    """Choose the images to show: at most `most` a list, and none in two lists.

    Returns:
        The misses with the lowest scores, the false alarms with the highest, and typical images of
        each label, good ones last: evenly spaced by score, so that a single one has the median.
    """
    misses = sorted((r for r in records if r.is_miss), key=lambda r: r.score)[:most]
    alarms = sorted((r for r in records if r.is_false_alarm), key=lambda r: -r.score)[:most]
    shown = {r.sample.path for r in (*misses, *alarms)}
    by_label: dict[str, list[ImageRecord]] = {}
    for record in sorted(records, key=lambda r: (r.sample.is_good, r.sample.label, r.score)):
        if record.sample.path not in shown:
            by_label.setdefault(record.sample.label, []).append(record)
    each = max(1, most // max(1, len(by_label)))
    typical = []
    for group in by_label.values():
        n = min(each, len(group))
        typical += [group[(2 * index + 1) * len(group) // (2 * n)] for index in range(n)]
    return misses, alarms, typical[:most]


def draw_example(
    record: ImageRecord,
    predict: Callable[[Path], Prediction],
    pixels_of: PixelsOf,
    *,
    name: str,
    scale: tuple[float, float],
    longest: int,
) -> Example:
    """Read an image again and draw its pictures, of at most `longest` pixels a side.

    An image that cannot be read leaves a note.
    """
    sample, wrong = record.sample, record.is_miss or record.is_false_alarm
    passed, called = ("passed", "false alarm") if sample.is_good else ("missed", "found")
    outcome = called if record.is_anomalous else passed
    score = number(record.score)
    try:
        image = pixels_of(sample.path)
        height, width = image.shape[:2]
        truth = None if sample.mask is None else read_mask(sample.mask, (height, width))
        prediction = predict(sample.path)
    except DataError as error:
        problem = str(error).removeprefix(f"{sample.path}: ")
        return Example(name, sample.label, score, outcome, wrong, problem=problem)
    small = shrink_image(image, longest)
    line = max(1, round(max(small.shape) / 160))
    if truth is None:
        first = Picture.of(small, "image", f"{name}: {sample.label}, without a mask")
    else:
        drawn = outline(small, shrink_mask(truth, longest), line)
        first = Picture.of(drawn, "ground truth", f"{name}: {sample.label}, outlined")
    colours = heatmap(shrink_map(prediction.anomaly_map, longest), scale)
    found = outline(small, shrink_mask(prediction.mask, longest), line)
    n_regions = len(prediction.regions)
    pictures = (
        first,
        Picture.of(colours, "anomaly map", f"anomaly map; score {score}"),
        Picture.of(found, "prediction", f"prediction: {n_regions or 'no'} region(s) outlined"),
    )
    is_wide = width > _ELONGATED * height
    return Example(name, sample.label, score, outcome, wrong, is_wide, pictures)
