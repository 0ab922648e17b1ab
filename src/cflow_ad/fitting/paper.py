"""Training by the paper's schedule: every pass encodes every image again.

Hundreds of times the work of `likelihood`, to reproduce the paper's own numbers. One
Adam has the parameters of all levels; each image batch is encoded, and the vectors of each level
in turn are mixed and consumed a batch at a time, one optimiser step each.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.level import Level
from cflow_ad.data.images import ImageSource
from cflow_ad.fitting.checkpoint import Checkpoint
from cflow_ad.fitting.likelihood import Ended, check_finite, compute_loss
from cflow_ad.method import PaperSchedule
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.cells import Cell, cell_of, cells_of
from cflow_ad.scoring.loading import Batch, load_batches
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

_WARM_UP = 2  # epochs


def train_by_passes(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    levels: Sequence[Level],
    settings: Settings,
    *,
    view: View,
    seconds: float = math.inf,
    checkpoint: Path | None = None,
    key: str = "",
    progress: Callable[[int, float], None] = lambda done, loss: None,
) -> Ended:
    """Train the flows of all levels, in place.

    Args:
        encoder: frozen.
        sources: the images, at least one.
        levels: their flows in their initial state.
        settings: of the model.
        view: of the model.
        seconds: time limit.
        checkpoint: a file to save to every few seconds, and to continue from where it was written
            with the same `key`.
        key: identifies everything that the training depends on.
        progress: called after each image batch with the images done, over all passes, and the
            smoothed loss.

    Returns:
        The complete passes, as steps, and why training ended.

    Raises:
        DivergenceError: the loss became NaN or infinite.
        ImageError: an image cannot be used.

    References:
        Gudovskiy et al., CFLOW-AD, WACV 2022, Sec. 5.1, and the authors' code.
    """
    began = time.monotonic()
    paper = settings.paper
    assert paper is not None
    parameters = {
        f"{number}.{name}": parameter
        for number, level in enumerate(levels)
        for name, parameter in level.density.named_parameters()
    }
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate)
    kept = Checkpoint(checkpoint, key, parameters, optimiser)
    in_a_pass = images_in_a_pass(len(sources), paper.images_per_batch)
    passes = paper.epochs * paper.passes_per_epoch
    total = passes * in_a_pass
    state = kept.restore()
    progress(state.done, state.loss)
    for number in range(state.done // in_a_pass, passes):
        epoch = number // paper.passes_per_epoch
        order = np.random.default_rng([settings.seed, number]).permutation(len(sources))
        remaining = order[state.done - number * in_a_pass : in_a_pass]
        batches = load_batches(
            [sources[i] for i in remaining], view, batch_size=paper.images_per_batch
        )
        for batch in batches:
            rng = np.random.default_rng([settings.seed, number, state.done % in_a_pass])
            rate = learning_rate_at(
                state.done / (in_a_pass * paper.passes_per_epoch),
                epoch,
                paper.epochs,
                settings.learning_rate,
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = _train_on(batch, encoder, levels, optimiser, settings, paper, rng)
            state.done += len(batch.canvases)
            check_finite(loss, f"image {state.done} of {total}")
            state.smooth(loss)
            kept.save(state, now=state.done == total)
            progress(state.done, state.loss)
            if time.monotonic() - began > seconds:
                return Ended(state.done // in_a_pass, "time")
    return Ended(passes, "steps")


def images_in_a_pass(images: int, batch: int) -> int:
    """Count the images in a pass: an incomplete last batch is left out, as in the paper, unless it
    is the only one.
    """
    return images - images % batch if images > batch else images


def learning_rate_at(now: float, epoch: int, epochs: int, peak: float) -> float:
    """Compute the paper's learning rate.

    Args:
        now: epochs passed, with their fraction.
        epoch: the current epoch, a whole number.
        epochs: total number.
        peak: the rate that the cosine begins at.

    Returns:
        A linear warm-up from a tenth of the peak to the cosine's value after two epochs; then the
        cosine, down to a thousandth of the peak, changed once an epoch.
    """
    least = peak / 1000

    def cosine(epoch: int) -> float:
        return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))

    if epoch < _WARM_UP:
        return peak / 10 + now / _WARM_UP * (cosine(_WARM_UP) - peak / 10)
    return cosine(epoch)


def rotated(canvas: Canvas, degrees: float) -> Canvas:
    """Rotate an image about its own centre, with nearest neighbours and black beyond its border."""
    height, width = canvas.valid

    def turn(channel: Image.Image) -> Image.Image:
        return channel.rotate(
            degrees, Image.Resampling.NEAREST, center=(width / 2, height / 2), fillcolor=0
        )

    channels = [np.asarray(turn(Image.fromarray(canvas.pixels[..., c]))) for c in range(3)]
    return dataclasses.replace(canvas, pixels=np.stack(channels, axis=2))


def _train_on(
    batch: Batch,
    encoder: Encoder,
    levels: Sequence[Level],
    optimiser: torch.optim.Adam,
    settings: Settings,
    paper: PaperSchedule,
    rng: np.random.Generator,
) -> float:
    """Take the steps of one image batch; return their mean loss."""
    if paper.rotation:
        degrees = rng.uniform(-paper.rotation, paper.rotation, len(batch.canvases))
        canvases = map(rotated, batch.canvases, degrees.tolist())
        batch = Batch(batch.sources, tuple(canvases))
    device = encoder.mean.device
    pyramid = encoder(torch.from_numpy(batch.pixels).to(device))
    losses = []
    canvas = (batch.pixels.shape[1], batch.pixels.shape[2])
    for level, of_level in zip(levels, pyramid, strict=True):
        features = level.subtract_means(of_level.permute(0, 2, 3, 1))
        grid = (features.shape[1], features.shape[2])
        image, row, column = _positions(batch, cell_of(canvas, grid))
        condition = level.condition(*level.places(*grid)).to(device)
        count = min(settings.batch_size or 256, len(image))
        # The vectors that do not fill a batch are left out.
        order = rng.permutation(len(image))[: len(image) - len(image) % count]
        mixed = torch.from_numpy(np.stack([image, row, column])[:, order]).to(device)
        batches = zip(*(of.split(count) for of in mixed), strict=True)
        for images, rows, columns in batches:
            x = level.input_layer(features[images, rows, columns])
            loss = compute_loss(level.of_whitened(x, condition[rows, columns]))
            optimiser.zero_grad(set_to_none=not paper.zero_fill)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _positions(batch: Batch, cell: Cell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find image, row and column of every vector in the region of interest, each shape `(n,)`."""
    grids = [
        np.argwhere(cells_of(canvas.inside, canvas.valid, cell)).T for canvas in batch.canvases
    ]
    image = np.repeat(np.arange(len(grids)), [grid.shape[1] for grid in grids])
    row, column = np.concatenate(grids, axis=1)
    return image, row, column
