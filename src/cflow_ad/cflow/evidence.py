"""What all levels say of an image as a whole, and the map brought to it.

The anomaly map joins levels place by place. What one level finds here and another there, or what
only one finds, hardly shows in its peak; and what good images vary in may. So the peak of each
level, wherever it lies, is compared with those of good images, and the map is multiplied such that
its own peak stands out from those of good images as far as all of them do together.

Means over an image would tell good images from others better still where there are near copies of
the training images among them, and worse where there are none: they know an image again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cflow_ad.scoring.anomaly_map import LEAST, canvas_map
from cflow_ad.scoring.canvas import Canvas, cell_of
from cflow_ad.scoring.view import Seen, cells_of, settle
from cflow_ad.settings import Settings

FEWEST = 8
"""Images that it takes to say what good ones have in common."""

CERTAIN = 2.0
"""Deviations from good images up to which two peaks are told apart: beyond, both are certain."""

_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, slots=True)
class Evidence:
    """The peaks of good images: of each level and, last, of the anomaly map."""

    middle: tuple[float, ...]
    """Their medians, each minus the logarithm of a normality."""

    deviation: tuple[float, ...]
    """Their median absolute deviations, as standard deviations."""

    joint_middle: float
    """Median of the mean of all peaks, each in deviations from its median."""

    joint_deviation: float
    """Deviation of that mean."""

    @property
    def relative(self) -> float:
        """How much the logarithm of the map's peak changes with a deviation; at most 1."""
        return min(1.0, self.deviation[-1] / max(self.middle[-1], _LEAST_DEVIATION))

    @classmethod
    def of(cls, peaks: ArrayLike) -> Evidence:
        """Of good images that were not trained on.

        Args:
            peaks: from `peaks_of`, shape `(n, L + 1)`.

        Example:
            >>> evidence = Evidence.of([[1.0, 2.0], [2.0, 3.0], [4.0, 3.5]])
            >>> evidence.middle, evidence.factor([2.0, 3.0]), evidence.factor([9.0, 3.0]) > 1
            ((2.0, 3.0), 1.0, True)
        """
        values = np.asarray(peaks, np.float64)
        middle, deviation = _middle(values)
        joint_middle, joint_deviation = _middle(((values - middle) / deviation).mean(1))
        return cls(
            tuple(middle.tolist()),
            tuple(deviation.tolist()),
            float(joint_middle),
            float(joint_deviation),
        )

    def factor(self, peaks: Sequence[float]) -> float:
        """What to multiply an image's map by.

        Args:
            peaks: of the image, from `peaks_of`.
        """
        of_each = (np.asarray(peaks) - self.middle) / self.deviation
        joint = (of_each.mean() - self.joint_middle) / self.joint_deviation
        told = _bounded(float(joint)) - _bounded(float(of_each[-1]))
        return math.exp(self.relative * told)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evidence:
        """From `dataclasses.asdict`, as JSON gives it back.

        Raises:
            ValueError: not numbers that go together.
        """
        found = cls(
            tuple(map(float, values["middle"])),
            tuple(map(float, values["deviation"])),
            float(values["joint_middle"]),
            float(values["joint_deviation"]),
        )
        spread = (*found.deviation, found.joint_deviation)
        if len(found.middle) != len(found.deviation) or not all(value > 0 for value in spread):
            raise ValueError("evidence: its numbers do not go together")
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def peaks_of(normalities: Sequence[NDArray[np.float32]], canvas: Canvas, seen: Seen) -> list[float]:
    """How anomalous an image's most anomalous place is: at each level, and in its map.

    Args:
        normalities: per level, shape `(h, w)`, in `[0, 1]`.
        canvas: that they are of.
        seen: the map made of them.

    Returns:
        `L + 1` numbers: minus the logarithm of each level's least normality where defects matter,
        and the highest value of the map.
    """
    found = []
    for grid in normalities:
        cell = cell_of(canvas.shape, (grid.shape[0], grid.shape[1]))
        cells = cells_of(canvas.inside, canvas.valid, cell)
        least = grid[: cells.shape[0], : cells.shape[1]][cells].min(initial=1)
        found.append(-math.log(max(least, LEAST)))
    return [*found, float(seen.values.max())]


def seen_map(
    normalities: Sequence[NDArray[np.float32]],
    canvas: Canvas,
    settings: Settings,
    evidence: Evidence | None,
) -> Seen:
    """An image's anomaly map, in the image as it came.

    Args:
        normalities: per level, shape `(h, w)`, in `[0, 1]`.
        canvas: that they are of.
        settings: of the model.
        evidence: of the model; None leaves the map as the levels make it place by place.
    """
    seen = settle(canvas, canvas_map(normalities, canvas, settings))
    if evidence is None:
        return seen
    factor = np.float32(evidence.factor(peaks_of(normalities, canvas, seen)))
    return seen._replace(values=seen.values * factor)


def _middle(values: NDArray[np.float64]) -> tuple[Any, Any]:
    """Median and deviation along the first axis, neither of which a few outliers move."""
    middle = np.median(values, axis=0)
    deviation = 1.4826 * np.median(np.abs(values - middle), axis=0)
    return middle, np.maximum(deviation, _LEAST_DEVIATION)


def _bounded(deviations: float) -> float:
    return CERTAIN * math.tanh(deviations / CERTAIN)
