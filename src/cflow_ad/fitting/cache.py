"""The feature cache: every training image is encoded once.

Vectors are kept level by level, in memory or in files, within a stated budget. Beyond it every
image keeps the same share of its vectors, drawn at random.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cflow_ad.cflow.encoder import Encoder, EncoderSpec
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.place_means import PlaceMeans, aspect_of
from cflow_ad.cflow.position import Frame, axis_places
from cflow_ad.cflow.running import BATCH_SIZE, run_over
from cflow_ad.data.images import ImageSource, image_shape
from cflow_ad.data.parallel import work_ahead
from cflow_ad.errors import SettingsError, SpaceError
from cflow_ad.files import free_space, is_full, reserve
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.progress import Progress, ProgressCallback, Stage, silent
from cflow_ad.scoring.canvas import Cell, Shape, cell_of
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

_CPU = torch.device("cpu")
_STATE = "cache.json"
_SAVE_SECONDS = 5.0  # between two records of how far the files are filled
_FEWEST = 100  # vectors of a level that must be kept, or one of each image if that is fewer


class LevelFeatures:
    """The cached vectors of one level, of all images or of some of them.

    Where several processes fit a model, the indices are those of all vectors, of which each process
    has those of its own images.

    Args:
        vectors: shape `(M, C)`, float32.
        positions: shape `(M, 2)`, row and column of each vector on its image's grid, as
            `position.axis_places` numbers them.
    """

    def __init__(self, vectors: NDArray[np.float32], positions: NDArray[np.int16]) -> None:
        self.vectors = vectors
        self.positions = positions
        self.bounds: NDArray[np.int64] = np.empty((0, 2), np.int64)
        """Where the vectors of each image begin and end, by its number among the images."""
        self._moved: NDArray[np.int64] | None = None
        """Of each image, how far its vectors lie behind `bounds` in the arrays; unset, nowhere."""
        self.group: Group = ALONE
        """The processes that have the vectors."""
        self.is_own: NDArray[np.bool_] = np.empty(0, np.bool_)
        """Of each image, whether this process has its vectors; of no account for one alone."""
        self.grids: list[Shape] = []
        """Of each image, height and width of this level in positions."""
        self.means: PlaceMeans | None = None
        """Subtracted from the vectors when they are read."""
        self._factors: Tensor = torch.empty(0)
        """Of each image, what the vectors are then multiplied by."""
        self._sent: PlaceMeans | None = None
        """The means on the device that vectors were last read to."""

    def __len__(self) -> int:
        if self._moved is None:
            return len(self.vectors)
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    @property
    def channels(self) -> int:
        """Of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def aspects(self) -> Tensor:
        """Of each image's grid, see `place_means.aspect_of`."""
        return torch.tensor([aspect_of(*grid) for grid in self.grids])

    def of_image(self, number: int) -> slice:
        """Find the vectors of an image; beyond the budget it may have none."""
        begin, end = self.bounds[number]
        return slice(int(begin), int(end))

    def own(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep those of the indices whose vectors this process has."""
        return index if self.group.size == 1 else index[self.is_own[self.images_of(index).numpy()]]

    def take(
        self, index: NDArray[np.int64], device: torch.device = _CPU
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read vectors `(n, C)`, rows `(n,)` and columns `(n,)` at these indices, on a device.

        This process has them, see `own`.
        """
        at = index if self._moved is None else index + self._moved[self.images_of(index).numpy()]
        places = torch.from_numpy(self.positions[at].astype(np.int64)).to(device)
        rows, columns = places.unbind(1)
        z = torch.from_numpy(self.vectors[at]).to(device)
        if self.means is not None:
            image = self.images_of(index)
            aspects, factors = self.aspects[image].to(device), self._factors[image].to(device)
            z -= self._means_on(device).of_vectors(aspects, rows, columns)
            z *= factors[:, None]
        return z, rows, columns

    def _means_on(self, device: torch.device) -> PlaceMeans:
        assert self.means is not None
        if self.means.tables.device == device:
            return self.means
        if self._sent is None or self._sent.tables.device != device:
            self._sent = copy.deepcopy(self.means).to(device)
        return self._sent

    def chunks(self, size: int = 65536) -> Iterator[Tensor]:
        """Read all vectors that this process has, in order, a block at a time."""
        for start in range(0, len(self), size):
            yield self.take(self.own(np.arange(start, min(len(self), start + size))))[0]

    def images_of(self, index: NDArray[np.int64]) -> Tensor:
        """Find which image each of these vectors is of."""
        order, begins = self._in_order
        return torch.from_numpy(order[np.searchsorted(begins, index, side="right") - 1])

    @cached_property
    def _in_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The images in the order of their vectors, and where those begin."""
        # Of images that begin at one place the last has the vectors.
        order = np.lexsort((self.bounds[:, 1], self.bounds[:, 0]))
        return order, self.bounds[order, 0]

    def of_images(self, numbers: Sequence[int]) -> LevelFeatures:
        """Share the vectors of some images, which are numbered anew in this order."""
        some = LevelFeatures(self.vectors, self.positions)
        begin, end = self.bounds[list(numbers)].T
        ends = np.cumsum(end - begin)
        some.bounds = np.stack([ends - (end - begin), ends], axis=1)
        some._moved = begin - some.bounds[:, 0]
        if self._moved is not None:
            some._moved += self._moved[list(numbers)]
        some.grids = [self.grids[number] for number in numbers]
        some.group = self.group
        if self.group.size > 1:
            some.is_own = self.is_own[list(numbers)]
        if self.means is not None:
            some.means, some._factors = self.means, self._factors[list(numbers)]
        return some

    def share(self, group: Group, numbers: NDArray[np.int64], begins: NDArray[np.int64]) -> None:
        """Have the vectors of some images alone, and leave those of the others to other processes.

        Args:
            group: the processes.
            numbers: of the images, shape `(n,)`.
            begins: where the vectors of each begin in the arrays, shape `(n,)`.
        """
        self.group = group.split()
        self.is_own = np.isin(np.arange(len(self.bounds)), numbers)
        self._moved = np.zeros(len(self.bounds), np.int64)
        self._moved[numbers] = begins - self.bounds[numbers, 0]

    def less(self, means: PlaceMeans, factors: Tensor) -> LevelFeatures:
        """Share the vectors, less the means of their places, the rest times a factor per image."""
        others = copy.copy(self)
        others.means, others._factors, others._sent = means, factors, None
        return others


def build_cache(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    view: View,
    settings: Settings,
    *,
    budget: float | None = None,
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    key: str = "",
    stage: Stage = "encode",
    group: Group = ALONE,
    progress: ProgressCallback = silent,
) -> list[LevelFeatures]:
    """Encode images and keep their vectors, each process those of its own images.

    Args:
        encoder: frozen.
        sources: the images.
        view: how they come into the network.
        settings: of the model. Whatever the precision, vectors are kept in single precision.
        budget: GiB of vectors that a process keeps at the most; unset, that of the settings.
        batch_size: the most images encoded at once on a GPU.
        folder: keeps the vectors in files there, and continues where an earlier call with the same
            `key` stopped; unset, they are kept in memory.
        key: identifies everything that the vectors depend on.
        stage: in the reports of progress.
        group: the processes that share the images.
        progress: called as the work advances, with numbers of images.

    Returns:
        For each level, its vectors. Those of the part of a canvas beyond its image are left out,
        and those outside the view's regions.

    Raises:
        ImageError: an image cannot be used.
        SettingsError: the budget is too small.
        SpaceError: the disk of `folder` has too little space.
    """
    budget = settings.feature_budget if budget is None else budget
    shapes = [image_shape(source) for source in sources]
    # Images of one canvas shape next to one another make full batches.
    order = sorted(range(len(sources)), key=lambda i: view.sizing.canvas_shape(shapes[i]))

    def cells(canvas: Shape) -> list[Cell]:
        return [cell_of(canvas, grid) for grid in encoder.spec.grids(canvas)]

    grids = _grids(view, [sources[i] for i in order], cells)
    share = _share(grids, encoder.spec.channels, group.size * budget)
    counts = [_kept(of_level, share) for of_level in grids]
    totals = [int(of_level.sum()) for of_level in counts]
    if share < 1 and min(totals) < min(len(sources), _FEWEST):
        raise SettingsError(
            f"feature_budget is {budget:.2g}: it leaves {min(totals)} feature vectors of a level "
            f"for {len(sources)} images; give more"
        )
    starts = [np.concatenate([[0], np.cumsum(of_level)]) for of_level in counts]
    # In turn, so that every process has images of every size.
    own = np.arange(len(order))[group.rank :: group.size]
    own_starts = [np.concatenate([[0], np.cumsum(of_level[own])]) for of_level in counts]
    whose = f"{group.rank} of {group.size}"
    totals = [int(begins[-1]) for begins in own_starts]
    store = _Store(encoder.spec, totals, folder, f"{key} {share!r} {len(sources)} {whose}")

    done = store.done
    progress(Progress(stage, done, len(own)))
    encoded = run_over(
        FoldedEncoder(encoder, settings.precision),
        lambda canvas, pyramid: pyramid,
        [sources[order[number]] for number in own[done:]],
        view,
        device=encoder.mean.device,
        batch_size=batch_size,
    )
    try:
        for number, (_, pyramid) in zip(own[done:], encoded, strict=True):
            for level, features in enumerate(pyramid):
                rng = np.random.default_rng([settings.seed, order[number], level])
                where = _choose(grids[level][number], counts[level][number], rng)
                begin, end = own_starts[level][done : done + 2]
                vectors = features[:, where[:, 0], where[:, 1]].T.float().numpy()
                store.levels[level].vectors[begin:end] = vectors
                store.levels[level].positions[begin:end] = _places(
                    where, (features.shape[1], features.shape[2]), settings.method.positions
                )
            done += 1
            store.note(done)
            progress(Progress(stage, done, len(own)))
    finally:
        store.note(done, now=True)
    of_all = zip(*(encoder.spec.grids(view.sizing.canvas_shape(s)) for s in shapes), strict=True)
    for level, of_images in enumerate(of_all):
        begins, of_level = starts[level], store.levels[level]
        of_level.bounds = np.empty((len(sources), 2), np.int64)
        of_level.bounds[order] = np.stack([begins[:-1], begins[1:]], axis=1)
        of_level.grids = list(of_images)
        if group.size > 1:
            of_level.share(group, np.array(order)[own], own_starts[level][:-1])
    return store.levels


class _Store:
    """Arrays in memory, or in files beside a record of how far they are filled."""

    def __init__(
        self, spec: EncoderSpec, counts: Sequence[int], folder: Path | None, key: str
    ) -> None:
        self._folder = folder
        self._key = key
        self._noted = time.monotonic()
        shapes = [
            (number, (n, channels), (n, 2))
            for number, (channels, n) in enumerate(zip(spec.channels, counts, strict=True))
        ]
        self.done = self._read_done()
        if self.done:
            try:
                self.levels = [self._level(*shape) for shape in shapes]
            except (OSError, ValueError):
                self.done = 0  # a file is gone, or was cut short
        if not self.done:
            if folder is not None:
                # It describes files that are about to be overwritten.
                (folder / _STATE).unlink(missing_ok=True)
                self._reserve(shapes)
            self.levels = [self._level(*shape) for shape in shapes]

    def _level(self, stride: int, vectors: Shape, positions: Shape) -> LevelFeatures:
        def array(name: str, shape: Shape, dtype: Any) -> NDArray[Any]:
            if self._folder is None:
                return np.empty(shape, dtype)
            path = self._folder / f"{name}-{stride}.npy"
            size = path.stat().st_size
            opened = np.lib.format.open_memmap(path, mode="r+", dtype=dtype, shape=shape)
            # The size as it was: opening lengthens a file that was cut short.
            whole = size == opened.offset + opened.nbytes
            if not whole or opened.shape != shape or opened.dtype != dtype:
                raise ValueError(f"{path}: not what was kept")
            return opened

        return LevelFeatures(
            array("features", vectors, np.float32), array("positions", positions, np.int16)
        )

    def _reserve(self, shapes: Sequence[tuple[int, Shape, Shape]]) -> None:
        """Make the files, with their space on the disk; raises SpaceError where that is too little.

        Nothing is left where they do not fit.
        """
        assert self._folder is not None
        files = [
            (self._folder / f"{name}-{stride}.npy", shape, dtype)
            for stride, vectors, positions in shapes
            for name, shape, dtype in (
                ("features", vectors, np.dtype(np.float32)),
                ("positions", positions, np.dtype(np.int16)),
            )
        ]
        try:
            for path, shape, dtype in files:
                with path.open("wb") as file:
                    header = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype))
                    np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
                    start = file.tell()
                reserve(path, start + math.prod(shape) * dtype.itemsize)
        except OSError as error:
            for path, _, _ in files:
                path.unlink(missing_ok=True)
            if not is_full(error):
                raise
            needed = sum(math.prod(shape) * dtype.itemsize for _, shape, dtype in files)
            raise SpaceError(
                f"{self._folder}: the features need {_size(needed)} while training, but the disk "
                f"has {_size(free_space(self._folder))} ({error.strerror}); free some, set a "
                "smaller feature_budget, or give a folder on another disk with --work-folder"
            ) from error

    def note(self, done: int, *, now: bool = False) -> None:
        """Record that `done` images are in the files."""
        if self._folder is None or not (now or time.monotonic() - self._noted > _SAVE_SECONDS):
            return
        for level in self.levels:
            for values in (level.vectors, level.positions):
                if isinstance(values, np.memmap):
                    values.flush()
        state = self._folder / _STATE
        state.write_text(json.dumps({"key": self._key, "done": done}), encoding="utf-8")
        self._noted = time.monotonic()

    def _read_done(self) -> int:
        if self._folder is None:
            return 0
        try:
            state = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
            return int(state["done"]) if state["key"] == self._key else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # no earlier run, or one that was stopped in the middle of this note


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**29 else f"{n_bytes / 2**20:.0f} MiB"


def _grids(
    view: View, sources: Sequence[ImageSource], cells: Callable[[Shape], list[Cell]]
) -> list[list[NDArray[np.bool_]]]:
    """Find the positions to keep, of each level and image: not those of an image's reflection."""
    workers = torch.get_num_threads()
    found = work_ahead(
        sources, lambda source: view.cells_of(source, cells), workers=workers, ahead=2 * workers
    )
    return [list(of_level) for of_level in zip(*(cells for _, cells in found), strict=True)]


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
