"""The feature cache: every training image is encoded once.

Vectors are kept level by level, in memory or in files, within a stated budget. Beyond it every
image keeps the same share of its vectors, drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.position import Frame, axis_places
from cflow_ad.cflow.running import run_over
from cflow_ad.data.images import ImageSource, image_shape
from cflow_ad.data.parallel import work_ahead
from cflow_ad.errors import SettingsError
from cflow_ad.fitting.feature_store import FeatureStore
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.progress import Progress, ProgressCallback, silent
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.cells import Cell
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

_FEWEST = 100  # vectors of a level that must be kept, or one of each image if that is fewer


def build_cache(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    view: View,
    settings: Settings,
    *,
    folder: Path | None = None,
    key: str = "",
    group: Group = ALONE,
    progress: ProgressCallback = silent,
) -> list[LevelFeatures]:
    """Encode images and keep their vectors.

    Each process encodes a part of the images, and gets the vectors of all.

    Args:
        encoder: frozen.
        sources: the images.
        view: how they come into the network.
        settings: of the model. Whatever the precision, vectors are kept in single precision.
        folder: keeps the vectors in files there, and continues where an earlier call with the same
            `key` stopped; unset, they are kept in memory.
        key: identifies everything that the vectors depend on.
        group: the processes; several need a folder.
        progress: called as the work advances, with numbers of images.

    Returns:
        For each level, its vectors. Those of the part of a canvas beyond its image are left out,
        and those outside the view's regions.

    Raises:
        ImageError: an image cannot be used.
        SettingsError: the budget is too small.
        SpaceError: the disk of `folder` has too little space.
    """
    shapes = [image_shape(source) for source in sources]
    # Images of one canvas shape next to one another make full batches.
    order = sorted(range(len(sources)), key=lambda i: view.sizing.canvas_shape(shapes[i]))
    areas = [math.prod(view.sizing.canvas_shape(shapes[i])) for i in order]
    parts = group.bounds(areas)
    own = range(*parts[group.rank : group.rank + 2])
    cells = [(level.stride, level.stride) for level in encoder.spec.levels]
    own_grids = _grids(view, [sources[order[number]] for number in own], cells)
    grids = list(zip(*chain(*group.gather(own_grids)), strict=True))
    share = _share(grids, encoder.spec.channels, settings.feature_budget)
    counts = [_kept(of_level, share) for of_level in grids]
    totals = [int(of_level.sum()) for of_level in counts]
    if share < 1 and min(totals) < min(len(sources), _FEWEST):
        raise SettingsError(
            f"feature_budget is {settings.feature_budget:.2g}: it leaves {min(totals)} feature "
            f"vectors of a level for {len(sources)} images; give more"
        )
    starts = [np.concatenate([[0], np.cumsum(of_level)]) for of_level in counts]
    store = FeatureStore(encoder.spec, totals, folder, f"{key} {share!r} {len(sources)}", group)

    done = store.done
    progress(Progress("encode", done, len(own)))
    encoded = run_over(
        FoldedEncoder(encoder, settings.precision),
        lambda canvas, pyramid: pyramid,
        [sources[order[number]] for number in own[done:]],
        view,
        device=encoder.mean.device,
    )
    try:
        for number, (_, pyramid) in zip(own[done:], encoded, strict=True):
            for level, features in enumerate(pyramid):
                rng = np.random.default_rng([settings.seed, order[number], level])
                where = _choose(grids[level][number], counts[level][number], rng)
                begin, end = starts[level][number : number + 2]
                vectors = features[:, where[:, 0], where[:, 1]].T.float().numpy()
                store.levels[level].vectors[begin:end] = vectors
                store.levels[level].positions[begin:end] = _places(
                    where, (features.shape[1], features.shape[2]), settings.method.positions
                )
            done += 1
            store.note(done)
            progress(Progress("encode", done, len(own)))
    finally:
        store.note(done, now=True)
    of_all = zip(*(encoder.spec.grids(view.sizing.canvas_shape(s)) for s in shapes), strict=True)
    for level, of_images in enumerate(of_all):
        begins, of_level = starts[level], store.levels[level]
        of_level.bounds = np.empty((len(sources), 2), np.int64)
        of_level.bounds[order] = np.stack([begins[:-1], begins[1:]], axis=1)
        of_level.grids = list(of_images)
        for array in (of_level.vectors, of_level.positions):
            group.complete(array, begins[parts].tolist())
    return store.levels


def _grids(
    view: View, sources: Sequence[ImageSource], cells: Sequence[Cell]
) -> list[list[NDArray[np.bool_]]]:
    """Find the positions to keep, of each image and level: not those of an image's reflection."""
    workers = torch.get_num_threads()
    found = work_ahead(
        sources, lambda source: view.cells_of(source, cells), workers=workers, ahead=2 * workers
    )
    return [of_image for _, of_image in found]


def _places(where: NDArray[np.int64], grid: Shape, frame: Frame) -> NDArray[np.int64]:
    """Number the places of positions, shape `(n, 2)`; `grid` is that of the canvas."""
    rows, columns = (axis_places(side, frame).numpy() for side in grid)
    return np.stack([rows[where[:, 0]], columns[where[:, 1]]], axis=1)


def _share(
    grids: Sequence[Sequence[NDArray[np.bool_]]], channels: Sequence[int], budget: float
) -> float:
    """Compute which share of each image's vectors fits the budget."""
    needed = sum(
        int(grid.sum()) * 4 * (c + 1)
        for of_level, c in zip(grids, channels, strict=True)
        for grid in of_level
    )
    return min(1.0, budget * 2**30 / needed)


def _kept(grids: Sequence[NDArray[np.bool_]], share: float) -> NDArray[np.int64]:
    """Count the vectors of each image to keep: its share, rounded so that the total never exceeds
    the share of all, also where the share of an image is less than one vector.
    """
    cells = np.array([np.count_nonzero(grid) for grid in grids])
    return np.diff(np.floor(np.cumsum(cells * share)), prepend=0).astype(np.int64)


def _choose(grid: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` different positions of those to keep, in order, shape `(count, 2)`."""
    cells = np.argwhere(grid)
    if count == len(cells):
        return cells
    return cells[np.sort(rng.choice(len(cells), count, replace=False))]
