"""What each choice is worth: one change at a time, several seeds, the last step's model.

    python benchmarks/ablation.py DATA [DATA ...] [--base NAME=VALUE ...] [--rows NAME ...]
                                  [--seeds 0 1 2] [--json FILE]
    python benchmarks/ablation.py --quick

Every good image trains and none is held out, so that the rows differ in nothing else; images are
encoded once for all rows that share an encoder, and a level that a change does not touch is not
trained again. Prints the tables of ABLATION.md. `--quick` runs a few rows on a small carpet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import torch
from numpy.typing import NDArray

from cflow_ad import Settings, open_dataset
from cflow_ad.cflow.encoder import encoder_of
from cflow_ad.cflow.model import Level
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts import Dataset
from cflow_ad.data.masks import read_mask
from cflow_ad.evaluation.metrics import PixelMetrics, image_metrics
from cflow_ad.evaluation.reference import reference_maps
from cflow_ad.fitting.cache import LevelFeatures, build_cache
from cflow_ad.fitting.fit import level_batch_size
from cflow_ad.fitting.likelihood import new_level, train_level
from cflow_ad.fitting.place_means import centred
from cflow_ad.fitting.scale import fit_scale, place_parts
from cflow_ad.scoring.anomaly_map import anomaly_map
from cflow_ad.scoring.canvas import cells_inside
from cflow_ad.scoring.loading import load_batches
from cflow_ad.scoring.view import View

Map = NDArray[np.floating]

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "no position": {"position_channels": 0},
    "P = 64": {"position_channels": 64},
    "K = 2": {"blocks": 2},
    "K = 8": {"blocks": 8},
    "subnets 64 wide": {"subnet_width": 64},
    "subnets as wide as the paper's": {"subnet_width": 0},
    "permutation: soft": {"permutation": "soft"},
    "the paper's flow": {"blocks": 8, "subnet_width": 0, "permutation": "soft"},
    "loss: likelihood": {"loss": "likelihood"},
    "input: standardise": {"input_layer": "standardise"},
    "input: raw": {"input_layer": "raw"},
    "level 8": {"strides": (8,)},
    "level 16": {"strides": (16,)},
    "level 32": {"strides": (32,)},
    "levels 8, 16": {"strides": (8, 16)},
    "levels 16, 32": {"strides": (16, 32)},
    "levels 4 to 32": {"strides": (4, 8, 16, 32)},
    "no smoothing": {"smoothing": 0.0},
    "smoothing 2": {"smoothing": 2.0},
    "smoothing 6": {"smoothing": 6.0},
    "one scale": {"local_scale": 0.0},
    "local scale 1": {"local_scale": 1.0},
    "one mean": {"local_mean": False},
    "positions: absolute": {"positions": "absolute", "local_mean": False, "local_scale": 0.0},
    "0 steps": {"steps": 0},
    "100 steps": {"steps": 100},
    "300 steps": {"steps": 300},
    "600 steps": {"steps": 600},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "not fine": {"fine": False},
    "neighbourhood 1": {"neighbourhood": 1},
    "neighbourhood 3 everywhere": {"neighbourhood_from": 0},
    "neighbourhood 5": {"neighbourhood": 5},
    "stretched": {"resize": "stretch"},
    "Lite1": {"backbone": "tf_efficientnet_lite1"},
}
"""Rows that are settings of the product."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a trained model says of a test set, before anything is made of it."""

    settings: Settings
    levels: Sequence[Level]
    likelihoods: list[list[Map]]
    """For each image, for each level, of the whole canvas, shape `(h, w)`."""
    quantiles: list[float]
    """Of each level, the likelihood that 99.9 % of the training vectors are below."""
    shapes: list[tuple[int, int]]
    valid: list[tuple[int, int]]

    def maps(self, normality: Callable[[int, Map], Map]) -> Iterator[Map]:
        """Anomaly maps as the product makes them, from another measure of what is normal."""
        for image, shape, valid in zip(self.likelihoods, self.shapes, self.valid, strict=True):
            yield anomaly_map(
                [normality(number, grid).astype(np.float32) for number, grid in enumerate(image)],
                [(stride, stride) for stride in self.settings.strides],
                valid=valid,
                original=shape,
                smoothing=self.settings.smoothing,
            )


def by_spread(scored: Scored) -> Iterator[Map]:
    """The product's own."""

    def normality(number: int, grid: Map) -> Map:
        level = scored.levels[number]
        return level.normality(torch.from_numpy(grid), *level.flow.places(*grid.shape)).numpy()

    return scored.maps(normality)


def by_quantile(scored: Scored) -> Iterator[Map]:
    """`exp(l - q)`, clamped at 1, the levels averaged."""
    return scored.maps(lambda number, grid: np.exp(np.minimum(grid - scored.quantiles[number], 0)))


def by_worst_level(scored: Scored) -> Iterator[Map]:
    """The largest of the levels' own anomaly maps."""
    everything = range(len(scored.levels))
    parts = [list(scored_level(scored, number)) for number in everything]
    return (np.maximum.reduce(of_image) for of_image in zip(*parts, strict=True))


def by_sum(scored: Scored) -> Iterator[Map]:
    """The mean of the levels' own anomaly maps, which are log-likelihoods on a common scale."""
    everything = range(len(scored.levels))
    parts = [list(scored_level(scored, number)) for number in everything]
    return (np.mean(of_image, axis=0) for of_image in zip(*parts, strict=True))


def scored_level(scored: Scored, number: int) -> Iterator[Map]:
    """Anomaly maps of one level alone."""
    only = Scored(
        dataclasses.replace(scored.settings, strides=(scored.settings.strides[number],)),
        [scored.levels[number]],
        [[image[number]] for image in scored.likelihoods],
        [scored.quantiles[number]],
        scored.shapes,
        scored.valid,
    )
    return by_spread(only)


def by_test_set(scored: Scored) -> Iterator[Map]:
    """The paper's: relative to the largest likelihood in the whole test set, not smoothed."""
    strides = scored.settings.strides
    inside = [
        [
            grid[: cells_inside(valid[0], stride), : cells_inside(valid[1], stride)]
            for grid, stride in zip(image, strides, strict=True)
        ]
        for image, valid in zip(scored.likelihoods, scored.valid, strict=True)
    ]
    return reference_maps(inside, scored.shapes)


def largest(anomaly_map: Map) -> float:
    """The product's image score."""
    return float(anomaly_map.max())


def mean_of_top(anomaly_map: Map, share: float = 0.001) -> float:
    """Mean of the highest scores of an image."""
    count = max(1, round(share * anomaly_map.size))
    return float(np.partition(anomaly_map.ravel(), -count)[-count:].mean())


SCORES: Mapping[str, tuple[Callable[[Scored], Iterator[Map]], Callable[[Map], float]]] = {
    "aggregation: exp(l - q99.9)": (by_quantile, largest),
    "aggregation: largest level": (by_worst_level, largest),
    "aggregation: mean of logs": (by_sum, largest),
    "aggregation: the paper's, by test set": (by_test_set, largest),
    "image score: mean of top 0.1 %": (by_spread, mean_of_top),
}
"""Rows that score the default model in another way. The product has no setting for them."""


def encoding(settings: Settings) -> str:
    """Names all that the vectors of images depend on, beside their strides."""
    names = (
        "backbone",
        "weights",
        "fine",
        "neighbourhood",
        "neighbourhood_from",
        "padding",
        "size",
        "resize",
        "positions",
    )
    values = {name: getattr(settings, name) for name in names}
    return json.dumps(values | {"first": settings.strides[0] if settings.fine else 0})


class Bench:
    """One data set, with what rows can share."""

    def __init__(self, dataset: Dataset, base: Mapping[str, Any]) -> None:
        self.dataset = dataset
        self.base = base
        self._group = ""
        self._train: dict[int, LevelFeatures] = {}
        self._test: dict[int, list[torch.Tensor]] = {}
        self._levels: dict[str, tuple[Level, float]] = {}
        self._shapes = [image_shape(sample.path) for sample in dataset.test]

    def settings(self, changes: Mapping[str, Any], seed: int) -> Settings:
        """Those of a row."""
        # What levels say place by place, of one image of a size.
        common = {"coarse": 0, "image_score": "peak", **self.base}
        return Settings(**{**common, **changes, "seed": seed, "calibration_fraction": 0.0})

    def score(self, settings: Settings) -> Scored:
        """Train what has to be trained, and score the test images."""
        self._encode(settings)
        levels, quantiles = [], []
        for number, stride in enumerate(settings.strides):
            level, quantile = self._level(settings, number, stride)
            levels.append(level)
            quantiles.append(quantile)
        valid = [settings.sizing.valid_shape(shape) for shape in self._shapes]
        likelihoods = [
            [
                _likelihood(level, self._test[stride][image])
                for level, stride in zip(levels, settings.strides, strict=True)
            ]
            for image in range(len(self._shapes))
        ]
        return Scored(settings, levels, likelihoods, quantiles, self._shapes, valid)

    def measure(self, maps: Iterator[Map], image_score: Callable[[Map], float]) -> list[float]:
        """Image AUROC, pixel AUROC and AUPRO, in percent."""
        pixels, scores = PixelMetrics(), []
        for sample, shape, values in zip(self.dataset.test, self._shapes, maps, strict=True):
            scores.append(image_score(values))
            mask = np.zeros(shape, np.bool_)
            if sample.mask is not None:
                mask = read_mask(sample.mask, shape)
            pixels.update(values, mask)
        image = image_metrics(scores, [not sample.is_good for sample in self.dataset.test])
        result = pixels.compute()
        return [100 * image.auroc, 100 * result.auroc, 100 * result.aupro]

    def _encode(self, settings: Settings) -> None:
        group = encoding(settings)
        if group != self._group:
            self._group, self._train, self._test, self._levels = group, {}, {}, {}
        wanted = [stride for stride in settings.strides if stride not in self._train]
        if not wanted:
            return
        fine = settings.fine and wanted[0] == settings.strides[0]
        encoder = encoder_of(dataclasses.replace(settings, strides=tuple(wanted), fine=fine))
        sources = [sample.path for sample in self.dataset.train]
        view = View(sizing=settings.sizing)
        features = build_cache(encoder, sources, view, budget=4.0, seed=0, frame=settings.positions)
        self._train |= dict(zip(wanted, features, strict=True))
        self._test |= {stride: [] for stride in wanted}
        paths = [sample.path for sample in self.dataset.test]
        for batch in load_batches(paths, view, batch_size=1):
            pyramid = encoder(torch.from_numpy(batch.pixels))
            for stride, of_level in zip(wanted, pyramid, strict=True):
                self._test[stride].append(of_level[0].clone())

    def _level(self, settings: Settings, number: int, stride: int) -> tuple[Level, float]:
        batch_size = level_batch_size(settings, stride)
        own = dataclasses.replace(settings, smoothing=0.0, strides=(stride,), batch_size=batch_size)
        key = json.dumps([own.to_dict(), number])
        if key not in self._levels:
            features = self._train[stride]
            if settings.local_mean:
                features = centred(features, place_parts(settings, number))
            level = new_level(features, settings, number)
            train_level(level, features, settings, number=number, batch_size=batch_size)
            fit_scale(level, features, settings, number)
            self._levels[key] = (level, _high_quantile(level, features))
        return self._levels[key]


@torch.inference_mode()
def _likelihood(level: Level, features: torch.Tensor) -> Map:
    places = level.flow.places(*features.shape[:2])
    return level(level.centred(features[None])[0], *places).numpy()


@torch.inference_mode()
def _high_quantile(level: Level, features: LevelFeatures) -> float:
    index = np.sort(np.random.default_rng(0).choice(len(features), min(20000, len(features))))
    return float(level(*features.take(index)).quantile(0.999))


def run(bench: Bench, names: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One result a row. Rows of one encoder follow one another."""

    def group(name: str) -> str:
        return encoding(bench.settings(SETTINGS.get(name, {}), 0))

    own = group("default")
    for name in sorted(names, key=lambda name: (group(name) != own, group(name))):
        began = time.perf_counter()
        figures = []
        for seed in seeds:
            scored = bench.score(bench.settings(SETTINGS.get(name, {}), seed))
            maps, image_score = SCORES.get(name, (by_spread, largest))
            figures.append(bench.measure(maps(scored), image_score))
        yield {
            "data": bench.dataset.name,
            "row": name,
            "command": _command(name),
            "figures": figures,
            "seconds": round(time.perf_counter() - began, 1),
        }


def _command(name: str) -> str:
    if name in SCORES:
        return f'--rows "{name}"'
    changes = SETTINGS[name].items()
    return " ".join(
        f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in changes
    )


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The rows of one data set as Markdown, each beside its difference from the default."""
    base = next((r for r in results if r["row"] == "default"), results[0])
    lines = [
        "| change | as a setting | image AUROC | pixel AUROC | AUPRO | against the default |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        cells, differences = [], []
        for column, of_base in zip(
            zip(*result["figures"], strict=True), zip(*base["figures"], strict=True), strict=True
        ):
            mean = statistics.fmean(column)
            spread = f" ± {statistics.stdev(column):.2f}" if len(column) > 1 else ""
            cells.append(f"{mean:.2f}{spread}")
            differences.append(f"{mean - statistics.fmean(of_base):+.2f}")
        command = f"`{result['command']}`" if result["command"] else ""
        change = "" if result is base else " / ".join(differences)
        lines.append(f"| {result['row']} | {command} | {' | '.join(cells)} | {change} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument(
        "--base", nargs="+", default=[], metavar="NAME=VALUE", help="what all rows have in common"
    )
    parser.add_argument("--rows", nargs="+", choices=[*SETTINGS, *SCORES], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names, seeds = arguments.rows or [*SETTINGS, *SCORES], arguments.seeds
        given = dict(text.split("=", 1) for text in arguments.base)
        base = {name: Settings.parse(name, value) for name, value in given.items()}
        if arguments.quick:
            write_carpet(Path(folder) / "carpet", train=6, good=2, per_defect=1, size=96)
            arguments.data = [Path(folder) / "carpet"]
            base = {"size": "64x64", "steps": 5, "blocks": 2}
            names, seeds = ["default", "no position", *SCORES], [0]
        everything = []
        for data in arguments.data:
            bench = Bench(open_dataset(data), base)
            results = []
            for result in run(bench, names, seeds):
                results.append(result)
                everything.append(result)
                print(f"{result['data']}: {result['row']}, {result['seconds']} s", flush=True)
                if arguments.json:
                    arguments.json.write_text(json.dumps(everything, indent=1) + "\n")
            print(f"\n{bench.dataset.name}\n\n{table(results)}\n", flush=True)
    print(f"load average {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
