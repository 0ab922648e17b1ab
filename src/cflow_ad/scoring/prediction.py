"""What is said of one image: its score, its anomaly map, and the regions that stand out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.scoring.components import label_runs


@dataclass(frozen=True, slots=True)
class Region:
    """One connected part of the mask (8-neighbourhood), in pixels of the image as it came."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom; right and bottom lie just outside."""

    area: int
    """Pixels."""

    peak: float
    """The highest anomaly score in the region."""

    centroid: tuple[float, float]
    """`x, y` of the centre of mass of the region's pixels."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "box": list(self.box),
            "area": self.area,
            "peak": self.peak,
            "centroid": list(self.centroid),
        }


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's result. Map and mask have the size of the image as it came."""

    anomaly_map: NDArray[np.float32]
    """Shape `(H, W)`, 0 and above, on a scale that is the same for every image of a model."""

    threshold: float
    """A pixel is anomalous where the map lies above this."""

    source: str = ""
    """The image's path, or empty for an image from memory."""

    inside: NDArray[np.bool_] | None = None
    """Shape `(H, W)`: where the model looked; the map is 0 elsewhere. None is everywhere."""

    @cached_property
    def score(self) -> float:
        """The image's score: the highest value of its anomaly map."""
        return float(self.anomaly_map.max())

    @property
    def is_anomalous(self) -> bool:
        """Whether the score lies above the threshold, which is to say the mask is not empty."""
        return self.score > self.threshold

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Shape `(H, W)`: which pixels are anomalous."""
        # In double precision, as the score is compared, so that the two can never disagree.
        above: NDArray[np.bool_] = self.anomaly_map > np.float64(self.threshold)
        return above

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The connected parts of the mask, highest peak first."""
        runs = label_runs(self.mask)
        n = runs.n_parts
        length = runs.length
        area = np.bincount(runs.part, length, n)
        x = np.bincount(runs.part, length * (runs.start + runs.stop - 1) / 2, n) / area
        y = np.bincount(runs.part, length * runs.row, n) / area
        low, high = np.full((2, n), self.mask.size), np.zeros((2, n), np.intp)
        for axis, (first, last) in enumerate(((runs.start, runs.stop), (runs.row, runs.row + 1))):
            np.minimum.at(low[axis], runs.part, first)
            np.maximum.at(high[axis], runs.part, last)
        peak = np.zeros(n, np.float32)
        rows, columns = np.nonzero(self.mask)
        np.maximum.at(peak, np.repeat(runs.part, length), self.anomaly_map[rows, columns])
        found = [
            Region(
                box=(int(low[0, i]), int(low[1, i]), int(high[0, i]), int(high[1, i])),
                area=int(area[i]),
                peak=float(peak[i]),
                centroid=(float(x[i]), float(y[i])),
            )
            for i in range(n)
        ]
        return tuple(sorted(found, key=lambda region: (-region.peak, region.box)))
