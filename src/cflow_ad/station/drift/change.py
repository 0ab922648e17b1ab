"""When a stream of p-values stopped being uniform, and how."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

_FEWEST = 3  # parts that a change may be seen in
_LEAST = 0.05  # smallest spread, in that of the parts before, that is distinguished


def find_change(p_values: ArrayLike) -> tuple[int, str]:
    """Find the most likely change, by the likelihood ratio of normal scores.

    Before it the scores are standard normal; from it on they have another mean and spread, whose
    best values count (Hinkley, Biometrika 57, 1970).

    Args:
        p_values: at least 3, in order of time; small where a value is unusually high.

    Returns:
        The index of the first part after the change, and what changed most: `up`, `down`, `wider`
        or `narrower`.

    >>> find_change([0.2, 0.8, 0.4, 0.6, 0.3, 0.7, 0.02, 0.01, 0.03, 0.01])
    (6, 'up')
    """
    inverse = NormalDist().inv_cdf
    scores = [-inverse(min(max(float(p), 1e-6), 1 - 1e-6)) for p in np.asarray(p_values)]
    z = np.array(scores)
    after = np.arange(len(z), 0, -1)
    mean = z[::-1].cumsum()[::-1] / after
    square = (z * z)[::-1].cumsum()[::-1] / after
    variance = np.maximum(square - mean**2, _LEAST**2)
    gain = after / 2 * (square - np.log(variance) - 1)
    index = int(gain[: len(z) - _FEWEST + 1].argmax())
    shift, spread = mean[index], square[index]
    if shift**2 >= spread - np.log(max(spread, _LEAST**2)) - 1:
        return index, "up" if shift > 0 else "down"
    return index, "wider" if spread > 1 else "narrower"
