"""Train and evaluate on every data set of a folder, and print one table.

    python benchmarks/quality.py --all [--data FOLDER] [--sets NAME ...] [--seeds 0 1 2]
                                 [--preset NAME] [NAME=VALUE ...] [--method NAME=VALUE ...]
                                 [--images N] [--label NAME] [--results FILE.jsonl]
    python benchmarks/quality.py --compare A B [--results FILE.jsonl]
    python benchmarks/quality.py --choose A B C ... [--results FILE.jsonl]

A row is the mean over the seeds, and its spread (standard deviation) where there are several. `hit`
is the share of defective images with a mask whose highest map value lies on the defect or within
2 % of the image's side of it. `found` and `alarms` are the shares of defective and of good images
above the stored threshold; `promised` is the false-positive rate that the calibration promises, and
`kept` the share of seeds in which it lies within the 95 % binomial interval of the false alarms. A
time is of one training, and of one image from its file to its result (the median). The model is the
last step's; nothing is selected on the test data. `--images` trains on so many of the good images
as if there were no others, drawn by the seed. Each result is appended to the results file, and
what is there already is not measured again.

`--compare` prints the differences of two settings, set by set; `*` marks those beyond the seeds'
spread. `--choose` says which of several settings is the best in the mean while none of its sets
loses more than `--most-lost` points, and what would be chosen with each set left out. A and B are
labels, or `FILE.jsonl`, or `FILE.jsonl:LABEL`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import QUICK, fit
from results import (
    append_result,
    build_choice,
    build_comparison,
    build_table,
    load_results,
    select,
)

from cflow_ad import Prediction, Settings, evaluate, open_dataset
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.layouts import Dataset
from cflow_ad.data.masks import read_mask

_NEAR = 0.02  # of an image's longer side


def find_sets(folder: Path) -> dict[str, Path]:
    """Find the data sets of a folder, at most two levels deep, by name."""
    found = sorted(path.parent.parent for path in folder.glob("*/train/good"))
    found += sorted(path.parent.parent for path in folder.glob("*/*/train/good"))
    return {path.name: path for path in found}


def measure(data: Path, settings: Settings, images: int | None = None) -> dict[str, float]:
    """Train and evaluate once, on so many of the good images; see `measure_fit`."""

    def train(dataset: Dataset) -> Any:
        good = dataset.train
        if images is not None and images < len(good):
            chosen = np.random.default_rng(settings.seed).choice(len(good), images, replace=False)
            good = tuple(good[number] for number in sorted(chosen))
        return fit(replace(dataset, train=good), settings)

    return measure_fit(data, train)


def measure_fit(data: Path, train: Callable[[Any], Any]) -> dict[str, float]:
    """Train and evaluate once; a metric that the set's labels do not allow is NaN.

    Args:
        data: the data set's folder.
        train: from the data set to a detector, which may have no thresholds (infinite ones).
    """
    dataset = open_dataset(data)
    masks = {str(sample.path): sample.mask for sample in dataset.test if sample.mask}
    hits: list[bool] = []

    def watched(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            if (mask := masks.get(prediction.source)) is not None:
                shape = prediction.anomaly_map.shape
                hits.append(is_hit(prediction.anomaly_map, read_mask(mask, shape)))
            yield prediction

    began = time.perf_counter()
    detector: Any = train(dataset)
    seconds = time.perf_counter() - began
    stream = detector.stream
    detector.stream = lambda *args, **options: watched(stream(*args, **options))
    result = evaluate(detector, dataset)
    del detector.stream
    alarms = result.false_alarms
    decides = np.isfinite(result.threshold)
    low, high = alarms.interval
    is_kept = float(low <= alarms.promised <= high) if alarms.promised >= 0 else np.nan
    return {
        "image_auroc": 100 * result.image.auroc,
        "pixel_auroc": 100 * result.pixel.auroc if result.pixel else np.nan,
        "aupro": 100 * result.pixel.aupro if result.pixel else np.nan,
        "hit": 100 * float(np.mean(hits)) if hits else np.nan,
        "found": 100 * result.confusion.recall if decides else np.nan,
        "alarms": 100 * alarms.rate if decides else np.nan,
        "promised": 100 * alarms.promised,
        "kept": 100 * is_kept,
        "fit_seconds": seconds,
        "image_ms": 1000 * seconds_per_image(detector, [sample.path for sample in dataset.test]),
        "load": os.getloadavg()[0],
    }


def is_hit(values: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the highest value lies on the mask, or within 2 % of the side of it."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    rows, columns = np.nonzero(mask)
    distance = np.hypot(rows - row, columns - column).min()
    return bool(distance <= _NEAR * max(values.shape))


def seconds_per_image(detector: Any, paths: list[Path], count: int = 15) -> float:
    """Measure the median time of one image, from its file to its result."""
    times = []
    for path in [*paths, *paths][: count + 2]:
        began = time.perf_counter()
        detector.predict(path)
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:]))


def measure_missing(
    label: str,
    sets: dict[str, Path],
    seeds: list[int],
    file: Path,
    measure_one: Callable[[Path, int], dict[str, float]],
) -> None:
    """Measure each set with each seed that the results file lacks, append, and print the table.

    Args:
        label: of the row.
        sets: folders by name.
        seeds: of the trainings.
        file: of the results.
        measure_one: of a folder and a seed.
    """
    results = load_results(file)
    for seed in seeds:
        for name, folder in sets.items():
            key = {"label": label, "set": name, "seed": seed}
            if any(key.items() <= result.items() for result in results):
                continue
            result = {**key, **measure_one(folder, seed)}
            append_result(file, result)
            results.append(result)
    of_label = [r for r in results if r["label"] == label and r["set"] in sets]
    print(build_table(of_label, label))
    print(f"\nload average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def choose_sets(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, Path]:
    """Find the sets that are asked for."""
    sets = find_sets(arguments.data)
    names = arguments.sets or (list(sets) if arguments.all else [])
    if not names or set(names) - set(sets):
        parser.error(f"give --all or --sets; {arguments.data} has {', '.join(sets) or 'no sets'}")
    return {name: sets[name] for name in names}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured and where the results are."""
    parser.add_argument("--all", action="store_true", help="every set of the folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))


def parse_settings(preset: str, values: list[str], method: list[str]) -> Settings:
    """Build settings from a preset and `NAME=VALUE` pairs."""
    given = dict(text.split("=", 1) for text in values)
    changes = {name: Settings.parse(name, value) for name, value in given.items()}
    inner = {}
    for text in method:
        name, value = text.split("=", 1)
        inner[name] = json.loads(value) if value[:1] in "[0123456789tf" else value
    return Settings.preset(preset, **changes, method=inner)


def main() -> None:
    """Measure what is missing and print the table, or compare what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    add_options(parser)
    parser.add_argument("--images", type=int, metavar="N", help="good images to train on, at most")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--method", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--label", help="of the row; by default the preset and the values")
    parser.add_argument("--compare", nargs=2, metavar="LABEL")
    parser.add_argument("--choose", nargs="+", metavar="LABEL")
    parser.add_argument("--most-lost", type=float, default=0.5, metavar="POINTS")
    parser.add_argument("--quick", action="store_true", help="a small case, as in the tests")
    arguments = parser.parse_args()
    if arguments.compare or arguments.choose:
        names = arguments.compare or arguments.choose
        results = load_results(arguments.results)
        chosen = {name: select(results, name) for name in names}
        if arguments.choose:
            print(build_choice(chosen, arguments.most_lost))
        else:
            first, second = names
            print(build_comparison(chosen[first], chosen[second], f"{second} less {first}"))
        return
    parts = [arguments.preset, *arguments.settings, *arguments.method]
    if arguments.images:
        parts.append(f"{arguments.images} images")
    label = arguments.label or " ".join(parts)
    settings = parse_settings(arguments.preset, arguments.settings, arguments.method)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quick:
            arguments.data, arguments.all = Path(folder), True
            write_carpet(arguments.data / "carpet", train=4, good=2, per_defect=1, size=64)
            settings = Settings.preset("default", **QUICK)

        def measure_one(data: Path, seed: int) -> dict[str, float]:
            of_seed = Settings.from_dict({**settings.to_dict(), "seed": seed})
            return measure(data, of_seed, arguments.images)

        sets = choose_sets(parser, arguments)
        measure_missing(label, sets, arguments.seeds, arguments.results, measure_one)


if __name__ == "__main__":
    main()
