"""Find whether good images fall into clusters, as those of several products do.

Images are compared by their thumbnails. In the minimum spanning tree of their distances an edge
that joins two clusters is far longer than the edges within them. On the seven development sets the
longest edge that parts at least a tenth of the images from the others is at most 1.2 times the 95 %
quantile of the edges; on mixtures of two of them it is at least 2.2 times in 12 of 21. The others
are mixtures with images that differ among themselves as much as the products do, and are not found.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import AS_STORED
from cflow_ad.data.look import Look, look_at
from cflow_ad.data.parallel import work_ahead
from cflow_ad.errors import ImageError
from cflow_ad.process import usable_cores

MOST = 200
"""Images that are compared; of more, so many at equal distances in their order."""

_FEWEST = 20
_SHARE = 0.1
_GAP = 2.0


def choose_some(paths: Sequence[Path], most: int = MOST) -> list[Path]:
    """Choose images at equal distances in their order."""
    if len(paths) <= most:
        return list(paths)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int)]


def look_at_some(
    paths: Sequence[Path], reading: Reading = AS_STORED
) -> tuple[list[Path], list[Look]]:
    """Look at up to `MOST` images; one that cannot be read is left out."""
    chosen: list[Path] = []
    looks: list[Look] = []

    def skip(source: object, error: ImageError) -> None: ...

    work = work_ahead(
        choose_some(paths),
        functools.partial(look_at, reading=reading),
        workers=usable_cores(),
        ahead=2 * usable_cores(),
        on_error=skip,
    )
    for source, look in work:
        chosen.append(source)
        looks.append(look)
    return chosen, looks


def find_cluster(looks: Sequence[Look]) -> NDArray[np.bool_] | None:
    """Find a cluster of images that lies apart from the others.

    Returns:
        For each image, whether it is in the smaller cluster; None where there is one cluster, or
        fewer than 20 images.
    """
    n = len(looks)
    if n < _FEWEST:
        return None
    flat = np.stack([look.thumbnail.ravel() for look in looks]).astype(np.float64) - 128
    squares = (flat**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0))
    edges, lengths = _span(distances)
    usual = float(np.quantile(lengths, 0.95))
    for longest in np.argsort(-lengths):
        if lengths[longest] < _GAP * max(usual, 1e-9):
            return None
        inside = _reach(np.delete(edges, longest, axis=0), edges[longest, 0], n)
        smaller = inside if inside.sum() <= n / 2 else ~inside
        if smaller.sum() >= _SHARE * n:
            return smaller
    return None


def describe_cluster(paths: Sequence[Path], looks: Sequence[Look]) -> str:
    """Say that good images fall into two clusters, and what to do; empty where they do not."""
    smaller = find_cluster(looks)
    if smaller is None:
        return ""
    first, second = (paths[int(np.flatnonzero(which)[0])].name for which in (smaller, ~smaller))
    share = round(100 * float(smaller.mean()))
    return (
        f"the good images fall into two clusters: {share} % look like {first}, the others like "
        f"{second}. If these are different products or lights, train a model for each: one model "
        "takes one product's part for good where the other is due"
    )


def _span(distances: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Compute the minimum spanning tree after Prim: its edges, shape `(n - 1, 2)`, and lengths."""
    n = len(distances)
    nearest, best = np.zeros(n, np.int64), distances[0].copy()
    waiting = np.ones(n, np.bool_)
    waiting[0] = False
    edges, lengths = np.empty((n - 1, 2), np.int64), np.empty(n - 1)
    for number in range(n - 1):
        new = int(np.where(waiting, best, np.inf).argmin())
        edges[number], lengths[number] = (nearest[new], new), best[new]
        waiting[new] = False
        closer = waiting & (distances[new] < best)
        best[closer], nearest[closer] = distances[new][closer], new
    return edges, lengths


def _reach(edges: NDArray[np.int64], start: int, n: int) -> NDArray[np.bool_]:
    """Find the images that edges join to one."""
    inside = np.zeros(n, np.bool_)
    inside[start] = True
    while True:
        either = inside[edges].any(axis=1)
        if inside[edges[either]].all():
            return inside
        inside[edges[either]] = True
