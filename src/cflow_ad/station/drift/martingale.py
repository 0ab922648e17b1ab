"""Test martingales: capital that bets against p-values being uniform.

Without drift the capital is a martingale that starts at 1, so that the probability that it *ever*
reaches `c` is at most `1 / c` (Ville's inequality). The capital sleeps at first. Before each part a
little of what sleeps is given to each bet and stays there (Sleeper/Stayer; Vovk, Gammerman,
Shafer, Algorithmic Learning in a Random World, 2nd edition, 2022, section 9.2). What sleeps after
`n` parts is `1 / (1 + log2(1 + n))`: it falls so slowly that a drift is found soon after a million
parts without one, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STAKES = np.array([0.5, 0.9, -0.5, -0.9, 0.7, -0.7])
_POWER = 0.4
_SMALLEST = 1e-9  # p-values below this count as this, so that a power is finite
_LARGEST = 1e200  # capital above this is thrown away, which only makes the test more careful


def compute_rewards(p_values: Floats) -> Floats:
    """What each bet multiplies its capital by: 1 in the mean over uniform p-values.

    Args:
        p_values: shape `(K,)`, small where a value is unusually high.

    Returns:
        Shape `(K, 8)`, above 0: two stakes on high values and two on low ones, one on values at
        both ends and one on values in the middle, and two powers, of the p-value and of 1 less
        the p-value, which find a large shift in a few parts.
    """
    side = (1 - 2 * p_values)[:, None]
    ends = 2 * np.abs(side) - 1
    linear = 1 + _STAKES * np.concatenate((np.repeat(side, 4, axis=1), ends, ends), axis=1)
    tails = np.maximum(np.stack((p_values, 1 - p_values), axis=1), _SMALLEST)
    return np.concatenate((linear, _POWER * tails ** (_POWER - 1)), axis=1)


def sleeping_share(n: int) -> float:
    """The share of the capital that takes part in no bet after `n` parts.

    >>> sleeping_share(0), sleeping_share(1), sleeping_share(1023)
    (1.0, 0.5, 0.0909...)
    """
    return 1 / (1 + math.log2(1 + n))


class Martingales:
    """One test martingale for each of `n_tests` streams of p-values.

    Memory is fixed: a few numbers for each test and bet.
    """

    def __init__(self, n_tests: int) -> None:
        self.n = 0
        self.asleep = 1.0
        self._awake = np.zeros((n_tests, len(_STAKES) + 2))

    @property
    def capital(self) -> Floats:
        """Shape `(n_tests,)`."""
        capital: Floats = self.asleep + self._awake.sum(axis=1)
        return capital

    def bet(self, p_values: Floats) -> Floats:
        """Bet on the next part.

        Args:
            p_values: shape `(n_tests,)`, in `[0, 1]`.

        Returns:
            The capital after it.
        """
        self.n += 1
        left = sleeping_share(self.n)
        self._awake += (self.asleep - left) / self._awake.shape[1]
        self._awake = np.minimum(self._awake * compute_rewards(p_values), _LARGEST)
        self.asleep = left
        return self.capital

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"n": self.n, "asleep": self.asleep, "awake": self._awake.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Martingales:
        """From `to_dict`'s form."""
        made = cls(len(values["awake"]))
        made.n, made.asleep = values["n"], values["asleep"]
        made._awake = np.array(values["awake"])
        return made
