"""Train and evaluate on every data set of a folder, and print one table.

    python benchmarks/quality.py --all [--data FOLDER] [--sets NAME ...] [--seeds 0 1 2]
                                 [--preset NAME] [NAME=VALUE ...] [--method NAME=VALUE ...]
                                 [--label NAME] [--results FILE.jsonl]
    python benchmarks/quality.py --compare LABEL LABEL [--results FILE.jsonl]

A row is the mean over the seeds, and its spread (standard deviation) where there are several. `hit`
is the share of defective images with a mask whose highest map value lies on the defect or within
2 % of the image's side of it. `found` and `alarms` are the shares of defective and of good images
above the stored threshold. The model is the last step's; nothing is selected on the test data.
Each result is appended to the results file, and what is there already is not measured again.
`--compare` prints the differences of two labels, set by set; `*` marks those beyond the seeds'
spread.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np

from cflow_ad import CalibrationWarning, Detector, Prediction, Settings, evaluate, open_dataset
from cflow_ad.data.masks import read_mask

COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "hit": "hit",
    "found": "found",
    "alarms": "alarms",
    "promised": "promised",
    "fit_seconds": "fit s",
    "image_ms": "image ms",
}
"""Of a result, and their headings; shares and areas in percent."""

_NEAR = 0.02  # of an image's longer side


def find_sets(folder: Path) -> dict[str, Path]:
    """Find the data sets of a folder, at most two levels deep, by name."""
    found = sorted(path.parent.parent for path in folder.glob("*/train/good"))
    found += sorted(path.parent.parent for path in folder.glob("*/*/train/good"))
    return {path.name: path for path in found}


def measure(data: Path, settings: Settings) -> dict[str, float]:
    """Train and evaluate once; a metric that the set's labels do not allow is NaN."""
    dataset = open_dataset(data)
    masks = {str(sample.path): sample.mask for sample in dataset.test if sample.mask}
    hits: list[bool] = []

    def watched(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            if (mask := masks.get(prediction.source)) is not None:
                shape = prediction.anomaly_map.shape
                hits.append(is_hit(prediction.anomaly_map, read_mask(mask, shape)))
            yield prediction

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        began = time.perf_counter()
        detector = Detector.fit(dataset, settings)
        seconds = time.perf_counter() - began
    stream = detector.stream
    detector.stream = lambda *args, **options: watched(stream(*args, **options))
    result = evaluate(detector, dataset)
    del detector.stream
    return {
        "image_auroc": 100 * result.image.auroc,
        "pixel_auroc": 100 * result.pixel.auroc if result.pixel else float("nan"),
        "aupro": 100 * result.pixel.aupro if result.pixel else float("nan"),
        "hit": 100 * float(np.mean(hits)) if hits else float("nan"),
        "found": 100 * result.confusion.recall,
        "alarms": 100 * result.false_alarms.rate,
        "promised": 100 * result.false_alarms.promised,
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


def seconds_per_image(detector: Detector, paths: list[Path], count: int = 15) -> float:
    """Measure the median time of one image, from its file to its result."""
    times = []
    for path in paths[: count + 2]:
        began = time.perf_counter()
        detector.predict(path)
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:]))


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read a results file; none where it is not there yet."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def append_result(path: Path, result: Mapping[str, Any]) -> None:
    """Append a result as a line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def table(results: list[dict[str, Any]], label: str) -> str:
    """Format the results of a label: a row for each set, and their mean."""
    names = list(dict.fromkeys(result["set"] for result in results if result["label"] == label))
    lines = [
        f"| {label} | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    means = []
    for name in names:
        values = _values(results, label, name)
        means.append(_mean(values))
        spread = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.zeros(len(COLUMNS))
        cells = [
            _cell(mean, of_spread if number < 3 else 0)
            for number, (mean, of_spread) in enumerate(zip(means[-1], spread, strict=True))
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    mean = _mean(np.array(means))
    lines.append("| mean | " + " | ".join(_cell(value, 0) for value in mean) + " |")
    return "\n".join(lines)


def comparison(results: list[dict[str, Any]], first: str, second: str) -> str:
    """Format the differences of two labels, set by set and in the mean."""
    areas = list(COLUMNS)[:4]
    lines = [
        f"| {second} less {first} | " + " | ".join(COLUMNS[key] for key in areas) + " |",
        "|---" * (len(areas) + 1) + "|",
    ]
    of_second = [result["set"] for result in results if result["label"] == second]
    both = [
        name
        for name in dict.fromkeys(r["set"] for r in results if r["label"] == first)
        if name in of_second
    ]
    differences = []
    for name in both:
        one, other = (_values(results, label, name)[:, :4] for label in (first, second))
        difference = _mean(other) - _mean(one)
        several = min(len(one), len(other)) > 1
        spread = np.hypot(*(np.std(v, axis=0, ddof=1) for v in (one, other))) if several else 0
        marks = ["*" if several and mark else "" for mark in np.abs(difference) > spread]
        differences.append(difference)
        cells = [_signed(d) + mark for d, mark in zip(difference, marks, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    mean = _mean(np.array(differences))
    lines.append("| mean | " + " | ".join(map(_signed, mean)) + " |")
    return "\n".join(lines)


def _values(results: list[dict[str, Any]], label: str, name: str) -> np.ndarray:
    """The results of a label on a set, shape `(seeds, columns)`."""
    own = [result for result in results if (result["label"], result["set"]) == (label, name)]
    return np.array([[result[key] for key in COLUMNS] for result in own], float)


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are all NaN
        return np.nanmean(values, axis=0)


def _cell(mean: float, spread: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.1f} ± {spread:.1f}" if spread else f"{mean:.1f}"


def _signed(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.1f}"


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
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--all", action="store_true", help="every set of the folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--method", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--label", help="of the row; by default the preset and the values")
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument("--compare", nargs=2, metavar="LABEL")
    arguments = parser.parse_args()
    results = load_results(arguments.results)
    if arguments.compare:
        print(comparison(results, *arguments.compare))
        return
    sets = find_sets(arguments.data)
    if not (arguments.all or arguments.sets) or not sets:
        parser.error(f"give --all or --sets; {arguments.data} has {', '.join(sets) or 'no sets'}")
    label = arguments.label or " ".join([arguments.preset, *arguments.settings, *arguments.method])
    settings = parse_settings(arguments.preset, arguments.settings, arguments.method)
    for seed in arguments.seeds:
        for name in arguments.sets or sets:
            key = {"label": label, "set": name, "seed": seed}
            if any(key.items() <= result.items() for result in results):
                continue
            changed = Settings.from_dict({**settings.to_dict(), "seed": seed})
            result = {**key, **measure(sets[name], changed)}
            append_result(arguments.results, result)
            results.append(result)
    print(table(results, label))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
