"""A version of a model, and the odds that its calibration gives a score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cflow_ad.scoring.threshold import Calibration


@dataclass(frozen=True, eq=False, kw_only=True)
class Version:
    """A version of a model, with its threshold of the present."""

    id: int
    name: str
    sha256: str
    path: Path
    threshold_id: int
    threshold: float
    map_threshold: float
    calibration: Calibration

    def odds(self, p_value: float | None) -> dict[str, int] | None:
        """Return how many good images of the calibration scored as high as an image of a p-value,
        `count`, and `of` how many; None where their scores promise nothing.
        """
        return count_odds(p_value, self.calibration.n_images)


def count_odds(p_value: float | None, of: int) -> dict[str, int] | None:
    """Return which count a conformal p-value was made of.

    >>> count_odds(4 / 413, 412)
    {'count': 3, 'of': 412}
    """
    return None if p_value is None else {"count": round(p_value * (of + 1)) - 1, "of": of}
