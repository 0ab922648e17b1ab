"""A handful of good images: how good a model do they make, and is its threshold to be trusted?

    python benchmarks/few.py DATA [NAME=VALUE ...] [--images 1 4 8 16] [--copies 8]
                             [--seeds 0 1 2] [--json FILE]
    python benchmarks/few.py --quick

For each seed, so many of the good images are drawn and a model is trained on them, as they are and
with variants (`augment_copies`); the last row has all the images. The threshold is the one that
the model sets: on held-out images where there are four or more, else on those it was trained on.
The rate it promises is for good images like those it was set on, on average over draws: the false
alarms on good training images that were not drawn tell whether it is kept, if `--seeds` are many;
good test images may differ. Images are encoded once. `--quick` runs on a small carpet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import torch

from cflow_ad import CalibrationWarning, Detector, Settings, open_dataset
from cflow_ad.cflow.encoder import encoder_of
from cflow_ad.cflow.evidence import seen_map
from cflow_ad.cflow.folding import fold_encoder
from cflow_ad.cflow.running import run_over
from cflow_ad.cflow.scorer import FoldedLevel
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.images import ImageSource, image_shape
from cflow_ad.data.layouts import Dataset
from cflow_ad.data.masks import read_mask
from cflow_ad.evaluation.metrics import PixelMetrics, image_metrics
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.view import View

UNUSED = 100
"""Good training images that were not drawn are scored up to this many."""


Encoded = tuple[Canvas, list[torch.Tensor]]


class Bench:
    """A data set, encoded once."""

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        self.dataset = dataset
        folded = fold_encoder(encoder_of(settings))

        def encode(sources: Sequence[ImageSource]) -> list[Encoded]:
            found = run_over(
                folded,
                lambda canvas, levels: (_bare(canvas), [level.clone() for level in levels]),
                sources,
                View(sizing=settings.sizing),
                device=torch.device("cpu"),
            )
            return [encoded for _, encoded in found]

        self._encoded = encode([sample.path for sample in dataset.test])
        self._good = encode([sample.path for sample in dataset.require_train()])
        self._masks = [
            None if sample.mask is None else read_mask(sample.mask, image_shape(sample.path))
            for sample in dataset.test
        ]

    @torch.inference_mode()
    def measure(self, detector: Detector, drawn: Sequence[int] | None) -> list[float]:
        """The columns, in percent; without images that were not drawn, NaN for those."""
        levels = [FoldedLevel(level, torch.float32) for level in detector.network.levels]

        def map_of(encoded: Encoded) -> np.ndarray:
            canvas, pyramid = encoded
            grids = [level(z[None])[0].numpy() for level, z in zip(levels, pyramid, strict=True)]
            return seen_map(grids, canvas, detector.settings, detector.evidence).values

        pixels, scores = PixelMetrics(), []
        defective = [not sample.is_good for sample in self.dataset.test]
        for encoded, mask, is_defective in zip(self._encoded, self._masks, defective, strict=True):
            values = map_of(encoded)
            scores.append(float(values.max()))
            if mask is not None or not is_defective:
                pixels.update(values, np.zeros(values.shape, np.bool_) if mask is None else mask)
        image, pixel = image_metrics(scores, defective), pixels.compute()
        above = np.array(scores) > detector.threshold
        wrong = np.array(defective)
        left = sorted(set(range(len(self._good))) - set(drawn)) if drawn is not None else []
        chosen = np.random.default_rng(detector.settings.seed).permutation(left)[:UNUSED]
        unused = [map_of(self._good[i]).max() > detector.threshold for i in chosen]
        return [
            100 * float(value)
            for value in (
                image.auroc,
                pixel.auroc,
                pixel.aupro,
                np.mean(unused) if unused else np.nan,
                above[~wrong].mean(),
                above[wrong].mean(),
            )
        ]


def _bare(canvas: Canvas) -> Canvas:
    """Its sizes alone: the pixels are not needed any more."""
    return dataclasses.replace(canvas, pixels=np.broadcast_to(np.uint8(0), canvas.pixels.shape))


def draw(dataset: Dataset, settings: Settings, count: int | None) -> list[int] | None:
    """Which of the good images are trained on; None for all."""
    if count is None:
        return None
    n_images = len(dataset.require_train())
    return sorted(np.random.default_rng([settings.seed, count]).permutation(n_images)[:count])


def train(dataset: Dataset, settings: Settings, drawn: Sequence[int] | None) -> Detector:
    """On these images, or all."""
    images = dataset.require_train()
    if drawn is not None:
        images = tuple(images[i] for i in drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return Detector.fit(dataclasses.replace(dataset, train=images), settings)


def run(
    bench: Bench, settings: Settings, count: int | None, copies: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """One row."""
    figures, promised = [], None
    for seed in seeds:
        own = dataclasses.replace(settings, seed=seed, augment_copies=copies)
        drawn = draw(bench.dataset, own, count)
        detector = train(bench.dataset, own, drawn)
        figures.append(bench.measure(detector, drawn))
        calibration = detector.calibration
        promised = 100 * calibration.achieved_rate if calibration.held_out else None
    name = "all" if count is None else str(count)
    return {
        "images": name + (" + variants" if copies else ""),
        "figures": figures,
        "promised": promised,
    }


def row(result: dict[str, Any]) -> str:
    """A line of the table."""
    cells = []
    for column in zip(*result["figures"], strict=True):
        spread = f" ± {np.std(column, ddof=1):.2f}" if len(column) > 1 else ""
        cells.append("" if np.isnan(column).any() else f"{np.mean(column):.2f}{spread}")
    promised = "nothing" if result["promised"] is None else f"{result['promised']:.1f}"
    return f"| {' | '.join([result['images'], *cells[:3], promised, *cells[3:]])} |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    given = dict(text.split("=", 1) for text in arguments.settings)
    settings = Settings(**{name: Settings.parse(name, value) for name, value in given.items()})
    counts: list[int | None] = [*arguments.images, None]
    seeds, copies = arguments.seeds, arguments.copies
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if arguments.quick:
            data = Path(folder) / "carpet"
            write_carpet(data, train=8, good=4, per_defect=1, size=96)
            settings, counts, seeds, copies = (
                Settings(size="96x96", steps=5),
                [1, 4, None],
                [0, 1],
                2,
            )
        if data is None:
            parser.error("give DATA, or --quick")
        dataset = open_dataset(data)
        bench = Bench(dataset, settings)
        print(f"{dataset.name}: in percent; {copies} variants of an image; {len(seeds)} seeds")
        print(
            "| good images | image AUROC | pixel AUROC | AUPRO | false alarms promised at most "
            "| on good images not drawn | on good test images | defective images found |"
        )
        print(f"|{'---|' * 8}")
        results = []
        for count in counts:
            for varied in (0, copies) if count is not None else (0,):
                results.append(run(bench, settings, count, varied, seeds))
                print(row(results[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
