"""A histogram of any number of pixel scores, without a fixed range and in a fixed amount of memory.

The bits of floats, read as integers, have the order of the floats (after those of negative numbers
are reversed). Without their lowest `shift` bits, these keys are bins of constant *relative* width:
narrow for the small scores of most good pixels and wide for large ones. Only ranges of keys that
occur, the pages, take memory, and `shift` is the smallest for which they fit. So a few scores, or
scores that are close together, are counted exactly, and the result does not depend on the order of
the scores or on how they are split and merged.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cflow_ad.evaluation.curves import Counts, Floats

Keys = NDArray[np.uint32]
Scores = NDArray[np.float32]

KEY_BITS = 32
PAGE_BITS = 11  # a page is this many bits of bins
_AT_ONCE = 2**20  # pixels counted at once, which bounds the memory beside the bins
MAX_PAGES = 256  # with three columns of 8 bytes: 12 MiB at most

ZERO = np.uint32(1 << 31)  # the key of zero, and in a score the bit of the sign
FINITE = np.uint32(0x00800001), np.uint32(0xFF7FFFFF)  # keys of the extreme finite scores


@dataclass(frozen=True, eq=False)
class Bins:
    """The bins that are not empty, from the highest scores to the lowest."""

    lowest: Scores  #: the lowest score (n,) that falls in each bin
    highest: Scores  #: the highest score (n,) that falls in each bin
    good: Counts  #: good pixels (n,)
    defect: Counts  #: defective pixels (n,)
    overlap: Floats  #: area of defective regions (n,), each region's own area being 1


class ScoreHistogram:
    """Good pixels, defective pixels and region area by score.

    >>> histogram = ScoreHistogram()
    >>> histogram.add(np.array([0.5, 2.0], np.float32), np.array([False, True]), np.array([1.0]))
    >>> histogram.bins().lowest.tolist(), histogram.bins().defect.tolist()
    ([2.0, 0.5], [1, 0])
    """

    def __init__(self) -> None:
        self._open(0, np.empty(0, np.uint32))

    def add(self, scores: Scores, is_defect: NDArray[np.bool_], overlap: Floats) -> None:
        """Count pixels.

        Args:
            scores: one for each pixel (n,), finite.
            is_defect: whether each pixel is defective (n,).
            overlap: for each defective pixel (d,), one over the area of its region.
        """
        taken = 0
        for start in range(0, scores.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            defects = int(np.count_nonzero(is_defect[part]))
            self._add(scores[part], is_defect[part], overlap[taken : taken + defects])
            taken += defects

    def _add(self, scores: Scores, is_defect: NDArray[np.bool_], overlap: Floats) -> None:
        keys = _keys(scores)
        self._make_room(keys)
        bins = self._locate(keys)
        size = self._good.size
        every = np.bincount(bins, minlength=size)
        if overlap.size == 0:
            self._good += every
            return
        bins = bins[is_defect]
        defect = np.bincount(bins, minlength=size)
        self._good += every - defect
        self._defect += defect
        self._overlap += np.bincount(bins, overlap, minlength=size)

    def merge(self, other: ScoreHistogram) -> ScoreHistogram:
        """A new histogram of the pixels of both."""
        both = ScoreHistogram()
        both._open(max(self._shift, other._shift), np.empty(0, np.uint32))
        both._make_room(np.concatenate([self._occupied(), other._occupied()]))
        both._take(self)
        both._take(other)
        return both

    def bins(self) -> Bins:
        """The bins that are not empty."""
        keys = self._occupied()[::-1]
        at = self._locate(keys)
        last = keys | np.uint32((1 << self._shift) - 1)
        return Bins(
            _scores(keys), _scores(last), self._good[at], self._defect[at], self._overlap[at]
        )

    def _open(self, shift: int, pages: Keys) -> None:
        """Start empty, with pages in ascending order, of bins of 2**shift keys each."""
        self._shift = shift
        self._pages = pages
        # Where a page's bins start, by the page's number; -1 for pages that are not there.
        self._start = np.full(1 << (KEY_BITS - PAGE_BITS - shift), -1, np.int32)
        self._start[pages] = np.arange(pages.size) << PAGE_BITS
        size = pages.size << PAGE_BITS
        self._good = np.zeros(size, np.int64)
        self._defect = np.zeros(size, np.int64)
        self._overlap = np.zeros(size, np.float64)

    def _make_room(self, keys: Keys) -> None:
        """Make a page for each of the keys (n,), with wider bins if there are too many."""
        pages = keys >> np.uint32(self._shift + PAGE_BITS)
        unseen = np.unique(pages[self._start[pages] < 0])
        if unseen.size == 0:
            return
        pages = np.unique(np.concatenate([self._pages, unseen]))
        shift = self._shift
        while pages.size > MAX_PAGES:
            pages = np.unique(pages >> np.uint32(1))
            shift += 1
        before = copy(self)  # shallow: opening pages replaces the arrays
        self._open(shift, pages)
        self._take(before)

    def _take(self, other: ScoreHistogram) -> None:
        """Add the counts of `other`, whose bins are not wider and whose pages all exist here."""
        keys = other._occupied()
        here, there = self._locate(keys), other._locate(keys)
        np.add.at(self._good, here, other._good[there])
        np.add.at(self._defect, here, other._defect[there])
        np.add.at(self._overlap, here, other._overlap[there])

    def _locate(self, keys: Keys) -> NDArray[np.int32]:
        """The bin (n,) of each key (n,)."""
        keys = keys >> np.uint32(self._shift)
        bins: NDArray[np.int32] = self._start[keys >> PAGE_BITS]
        bins += keys.view(np.int32) & ((1 << PAGE_BITS) - 1)
        return bins

    def _occupied(self) -> Keys:
        """The first key of each bin that is not empty (n,), in ascending order."""
        bins = np.flatnonzero(self._good + self._defect)
        within = (bins & ((1 << PAGE_BITS) - 1)).astype(np.uint32)
        keys: Keys = ((self._pages[bins >> PAGE_BITS] << PAGE_BITS) | within) << self._shift
        return keys


def _keys(scores: Scores) -> Keys:
    """Integers (n,) in the order of the scores (n,), equal where the scores are equal."""
    bits = scores.view(np.uint32)
    negative = (bits.view(np.int32) >> np.int32(31)).view(np.uint32)  # all ones or all zeros
    # Zero plus or minus the magnitude, which makes -0.0 the same as 0.0. (x ^ -1) - (-1) is -x.
    return ZERO + (((bits & ~ZERO) ^ negative) - negative)


def _scores(keys: Keys) -> Scores:
    """The scores (n,) of keys (n,), clipped to finite scores."""
    keys = np.clip(keys, *FINITE)
    return np.where(keys >= ZERO, keys - ZERO, (ZERO - keys) | ZERO).view(np.float32)
