"""Speed, size and agreement of every exported format and precision.

    python benchmarks/runtimes.py DATA [--model FILE] [--size 256x256] [--only WAY ...]
                                  [--at 320x384]
    python benchmarks/runtimes.py --quick

Trains a detector on DATA, or takes `--model`, exports it every way, and measures in one process:
milliseconds for one image through the network (medians of interleaved rounds, in each of which a
way runs three times and the third counts; decoding and the map are the same code everywhere and
left out), the largest change of a score or map, image and pixel AUROC, and `flipped`, the test
images that are called good by one of this model and the trained one alone.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import torch
from common import build_parser, fit, markdown, open_data, race, report

from cflow_ad import Detector, evaluate
from cflow_ad.cflow.scorer import Scorer
from cflow_ad.data.layouts import Dataset
from cflow_ad.export.export import export_model
from cflow_ad.export.files import suffix_of
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.runtime.backends import energy_names

TRAINED = "trained model"
WAYS = [
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("onnx", "bf16"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("torch", "fp32"),
]
COLUMNS = (
    "median ms",
    "least ms",
    "MiB",
    "export s",
    "largest change",
    "image AUROC",
    "pixel AUROC",
    "flipped",
)


def measure_times(
    detector: Detector, exported: dict[str, RuntimeDetector], pixels: Any, rounds: int
) -> dict[str, dict[str, float]]:
    """Measure one canvas through every network, in rounds that take each in turn."""
    tensor, scorer = torch.from_numpy(pixels), Scorer(detector.model)
    names = energy_names(len(detector.settings.strides))
    encoder = scorer.folded.encoder
    ways: dict[str, Callable[[], object]] = {
        TRAINED: lambda: scorer(tensor),
        "its encoder alone": lambda: encoder(tensor),
    }
    for name, one in exported.items():
        ways[name] = lambda one=one: one.backend.run(pixels, names)
    times = race(ways, rounds=rounds, untimed=2)
    return {
        name: {"median ms": 1e3 * float(np.median(of)), "least ms": 1e3 * min(of)}
        for name, of in times.items()
    }


def measure_quality(detector: Any, dataset: Dataset) -> tuple[dict[str, str], list[bool]]:
    """Evaluate; returns the areas in percent, and which test images are called anomalous."""
    result = evaluate(detector, dataset)
    areas = {"image AUROC": f"{100 * result.image.auroc:.3f}"}
    if result.pixel:
        areas["pixel AUROC"] = f"{100 * result.pixel.auroc:.3f}"
    return areas, [record.is_anomalous for record in result.images]


def main() -> None:
    """Export and measure, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--model", type=Path, metavar="FILE")
    parser.add_argument("--size", help="of the trained model; unset, the default")
    parser.add_argument("--only", nargs="+", metavar="WAY", help="such as 'onnx int8'")
    parser.add_argument("--at", metavar="HxW", help="canvas to time; unset, an image of training")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    if options.quick:
        options.only, options.rounds = ["onnx fp32"], 2
    rows: dict[str, dict[str, Any]] = {TRAINED: {}}
    exported: dict[str, RuntimeDetector] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_data(options, train=4, good=1, per_defect=1) as (dataset, settings),
    ):
        if options.model:
            detector = Detector.load(options.model, device="cpu")
        else:
            changes = {"size": options.size} if options.size else {}
            changes |= {"resize": "stretch"} if options.quick else {}
            detector = fit(dataset, dataclasses.replace(settings, **changes), device="cpu")
        first = dataset.require_train()[0].path
        learnt = dataclasses.replace(dataset, test=())  # AUROC is measured below
        for format, precision in WAYS:
            name = f"{format} {precision}"
            if options.only and name not in options.only:
                continue
            path = Path(folder) / f"{precision}{suffix_of(format)}"
            began = time.perf_counter()
            done = export_model(
                detector,
                path,
                format=format,
                precision=precision,
                data=learnt,
                force=True,
            )
            rows[name] = {
                "MiB": done.n_bytes / 2**20,
                "export s": time.perf_counter() - began,
                "largest change": done.change.largest,
            }
            exported[name] = RuntimeDetector.load(path)
        pixels = detector.view.prepare(first).pixels[None].astype(np.float32)
        if options.at:
            height, width = map(int, options.at.split("x"))
            pixels = np.resize(pixels, (1, height, width, 3))
        for name, taken in measure_times(detector, exported, pixels, options.rounds).items():
            rows[name] = {**rows.get(name, {}), **taken}
        if dataset.defects:
            areas, before = measure_quality(detector, dataset)
            rows[TRAINED].update(areas)
            for name, one in exported.items():
                areas, after = measure_quality(one, dataset)
                flipped = sum(a != b for a, b in zip(before, after, strict=True))
                rows[name].update(areas, flipped=flipped)
        print(f"{dataset.name}\n")
    cells = [[name, *(row.get(column, "") for column in COLUMNS)] for name, row in rows.items()]
    print(markdown(["", *COLUMNS], cells))
    report(rows, options.json)


if __name__ == "__main__":
    main()
