"""The result for one image: its score, its anomaly map, its mask and regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.errors import ImageError
from cflow_ad.scoring.anomaly_map import Floats, compute_anomaly_map
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.cells import cell_of
from cflow_ad.scoring.components import label_runs
from cflow_ad.scoring.score import compute_image_score, weigh_levels
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import MapInFrame, settle

if TYPE_CHECKING:
    from cflow_ad.settings import Settings


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
        return asdict(self) | {"box": list(self.box), "centroid": list(self.centroid)}


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's result. Map and mask have the size of the image file."""

    score: float
    """The image's score, 0 or more, on a scale that is the same for every image of a model."""

    threshold: float
    """The image is anomalous where its score lies above this."""

    map_threshold: float
    """A pixel of an anomalous image is anomalous where the map lies above this."""

    compute_map: Callable[[], MapInFrame] = field(repr=False)
    """Makes the anomaly map; called once, when it is first needed."""

    source: str = ""
    """The image's path, or empty for an image from memory."""

    p_value: float | None = None
    """The share of good images that score at least as high, see `Calibration.compute_p_value`; None
    where no unseen good images were scored."""

    @property
    def is_anomalous(self) -> bool:
        """Whether the score lies above the threshold; then, and only then, the mask is not
        empty.
        """
        return self.score > self.threshold

    @cached_property
    def _map(self) -> MapInFrame:
        return self.compute_map()

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """Shape `(H, W)`, 0 and above, on a scale that is the same for every image of a model."""
        return self._map.values

    @property
    def inside(self) -> NDArray[np.bool_] | None:
        """Shape `(H, W)`: the region of interest, outside which the map is 0; None for all."""
        return self._map.inside

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Shape `(H, W)`: which pixels are anomalous.

        Empty for a good image. For an anomalous one the pixels above `map_threshold`; where there
        are none, the connected region around the map's maximum that lies above half of it.
        """
        values = self.anomaly_map
        if not self.is_anomalous:
            return np.zeros(values.shape, np.bool_)
        # In double precision, as the score is compared, so that the two can never disagree.
        above: NDArray[np.bool_] = values > np.float64(self.map_threshold)
        return above if above.any() else _around_maximum(values, self.inside)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The connected parts of the mask, highest peak first."""
        if not self.is_anomalous:  # without computing the map
            return ()
        runs = label_runs(self.mask)
        n, length = runs.n_parts, runs.length
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


def build_prediction(
    energies: Sequence[Floats],
    canvas: Canvas,
    settings: Settings,
    *,
    calibration: Calibration | None = None,
    with_map: bool = True,
    values: Floats | None = None,
) -> Prediction:
    """Decide on one image: the single way from energies to a result, in every runtime.

    Args:
        energies: per level, the finest first, shape `(h, w)`, at least 0.
        canvas: of the image.
        settings: of the model; of its scoring, `smoothing` and `method.image_score`.
        calibration: of the model; unset, no image is anomalous.
        with_map: compute the map now, in this thread; else when it is first needed.
        values: the map, as `compute_anomaly_map` makes it, where a GPU has computed it.

    Raises:
        ImageError: the score is NaN.
    """
    cells = [cell_of(canvas.shape, (grid.shape[0], grid.shape[1])) for grid in energies]
    # The pixels are not kept: a result may wait long for its map to be asked for.
    frame = replace(canvas, pixels=np.broadcast_to(np.uint8(0), canvas.pixels.shape))

    def compute_map() -> MapInFrame:
        if values is not None:
            return settle(frame, values)
        made = compute_anomaly_map(
            energies,
            cells,
            valid=frame.valid,
            original=frame.original,
            smoothing=settings.smoothing,
        )
        return settle(frame, made)

    is_peak = settings.method.image_score == "peak"
    made = compute_map() if with_map or is_peak else None
    get_map = compute_map if made is None else lambda: made
    if is_peak:
        score = float(get_map().values.max())
    else:
        weights = weigh_levels(len(energies), settings.method)
        score = compute_image_score(energies, cells, canvas, weights)
    if math.isnan(score):
        raise ImageError(
            "the image: its score is not a number; check the model's weights", code="image.score"
        )
    if calibration is None:
        return Prediction(score, math.inf, math.inf, get_map)
    return Prediction(
        score,
        calibration.threshold,
        calibration.map_threshold,
        get_map,
        p_value=calibration.compute_p_value(score),
    )


def _around_maximum(
    values: NDArray[np.float32], inside: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """The connected region around the maximum where values lie above half of it."""
    within = values if inside is None else np.where(inside, values, np.float32(-1))
    row, column = np.unravel_index(int(within.argmax()), values.shape)
    near = values > values[row, column] / 2
    near[row, column] = True  # also where the map is 0
    runs = label_runs(near)
    at = (runs.row == row) & (runs.start <= column) & (column < runs.stop)
    region = np.zeros(values.shape, np.bool_)
    for number in np.flatnonzero(runs.part == runs.part[at][0]):
        region[runs.row[number], runs.start[number] : runs.stop[number]] = True
    return region
