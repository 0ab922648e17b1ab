"""Intervals for a share, such as a false-alarm rate, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

_STEPS = 60  # halvings of an interval: to the last digits of a float


def exact_interval(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of Clopper and Pearson (Biometrika 26, 1934), for one look at a fixed number.

    Args:
        count: how many of them, from 0 to `of`.
        of: how many there are; without any the interval is `(0, 1)`.
        confidence: at least this often the interval holds the true share; below 1.

    >>> exact_interval(0, 100)
    (0.0, 0.0362...)
    >>> exact_interval(3, 412)
    (0.0015..., 0.0211...)
    """
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _bisect(lambda p: _beta_cdf(p, count, of - count + 1) > tail)
    high = 1.0 if count == of else _bisect(lambda p: _beta_cdf(p, count + 1, of - count) > 1 - tail)
    return low, high


def confidence_sequence(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval that is right at all times at once, however often it is read.

    The shares that a martingale does not refute: the likelihood of a mixture of all shares, with
    the weights of Jeffreys' prior, over the likelihood of the share (Robbins, Annals of
    Mathematical Statistics 41, 1970; Waudby-Smith and Ramdas, JRSS B 86, 2024). By Ville's
    inequality the probability that the true share is ever outside is at most `1 - confidence`, so
    one may stop, or act, at any time. It holds where each draw has the same share, whatever came
    before.

    Args:
        count: how many of the draws, from 0 to `of`.
        of: how many draws; without any the interval is `(0, 1)`.
        confidence: below 1.

    >>> confidence_sequence(0, 100)
    (0.0, 0.0570...)
    >>> confidence_sequence(0, 0)
    (0.0, 1.0)
    """
    mixture = _log_beta(count + 0.5, of - count + 0.5) - _log_beta(0.5, 0.5)

    def refuted(p: float) -> bool:
        likelihood = (count * math.log(p) if count else 0.0) + (
            (of - count) * math.log1p(-p) if of > count else 0.0
        )
        return mixture - likelihood >= -math.log(1 - confidence)

    share = count / of if of else 0.5
    low = 0.0 if count == 0 else _bisect(lambda p: not refuted(p), 0.0, share)
    high = 1.0 if count == of else _bisect(refuted, share, 1.0)
    return low, high


def _bisect(above: Callable[[float], bool], low: float = 0.0, high: float = 1.0) -> float:
    """Where a condition begins to hold that holds from some number on."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if above(middle):
            high = middle
        else:
            low = middle
    return high


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz's method).

    See the NIST Digital Library of Mathematical Functions, 8.17(v).
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - _beta_cdf(1 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            c, d = 1 + term / c, 1 / (1 + term * d)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * value
