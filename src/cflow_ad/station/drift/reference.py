"""Online conformal p-values: how unusual a part is among all parts before it.

Each part joins the reference. Where parts are exchangeable, the p-values are then independent and
uniform, however many parts follow (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World,
2nd edition, 2022, section 8.2). Against a fixed reference they are not: its own chance
deviations would show in every p-value, and be taken for drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Reference:
    """How often each bin of some statistics occurred.

    Memory is fixed: `n_tests` times `n_bins` counts, however many parts there are.
    """

    def __init__(self, n_tests: int, n_bins: int) -> None:
        self.n = 0
        self._counts = np.zeros((n_tests, n_bins), np.int64)

    def add(self, keys: Sequence[int], ties: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the p-values of a part, and let it join.

        Args:
            keys: the bin of each statistic.
            ties: uniform in `[0, 1)`, one for each: they break ties, the part with itself included.

        Returns:
            The share of parts so far, this one included, with a higher value: near 0 where the
            value is unusually high, near 1 where it is unusually low.

        >>> reference = Reference(1, 4)
        >>> [float(reference.add([key], np.array([0.5]))[0]) for key in (1, 3, 0, 3)]
        [0.5, 0.25, 0.8333..., 0.25]
        """
        self.n += 1
        higher = np.empty(len(keys))
        for test, key in enumerate(keys):
            counts = self._counts[test]
            counts[key] += 1
            higher[test] = counts[key + 1 :].sum() + ties[test] * counts[key]
        return higher / self.n

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: the bins that occurred, and how often."""
        occurred = [np.flatnonzero(counts) for counts in self._counts]
        return {
            "n": self.n,
            "bins": [bins.tolist() for bins in occurred],
            "counts": [
                row[bins].tolist() for row, bins in zip(self._counts, occurred, strict=True)
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], n_bins: int) -> Reference:
        """From `to_dict`'s form."""
        made = cls(len(values["bins"]), n_bins)
        made.n = values["n"]
        for row, bins, counts in zip(made._counts, values["bins"], values["counts"], strict=True):
            row[bins] = counts
        return made
