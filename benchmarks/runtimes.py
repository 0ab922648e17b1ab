"""Speed and agreement of every runtime and precision, as rows of RESULTS.md.

    python benchmarks/runtimes.py DATA [--size 256x256] [--only WAY ...] [--quick] [--json FILE]

Trains a detector on DATA, or takes --model FILE, exports it every way, and measures on this
machine, in one process and one run: milliseconds for one image through the network (the median of
interleaved rounds, so that all rows see the same machine; decoding and the final map are the same
code everywhere and left out), the largest change of a score, and AUROC. `--quick` measures few
rounds and no AUROC.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import torch

from cflow_ad import CalibrationWarning, Detector, Settings, evaluate, open_dataset
from cflow_ad.data.layouts import Dataset
from cflow_ad.export.export import export_model
from cflow_ad.export.files import suffix_of
from cflow_ad.export.graph import ExportGraph
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.runtime.backends import normality_names
from cflow_ad.scoring.loading import load_batches

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


def main() -> None:
    """Measure, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--only", nargs="+", metavar="WAY", help="such as 'onnx int8'")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        detector = (
            Detector.load(arguments.model, device="cpu")
            if arguments.model
            else Detector.fit(dataset, Settings(size=arguments.size), device="cpu")
        )
    learnt = dataclasses.replace(dataset, test=())  # the test images are measured on below
    rows: dict[str, dict[str, Any]] = {}
    exported: dict[str, RuntimeDetector] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, precision in WAYS:
            name = f"{format} {precision}"
            if arguments.only and name not in arguments.only:
                continue
            path = Path(folder) / f"{precision}{suffix_of(format)}"
            began = time.perf_counter()
            report = export_model(
                detector, path, format=format, precision=precision, data=learnt, force=True
            )
            rows[name] = {
                "MiB": report.n_bytes / 2**20,
                "export s": time.perf_counter() - began,
                "largest change": report.change.largest,
                "threshold": report.calibration.threshold,
            }
            exported[name] = RuntimeDetector.load(path)
        for name, milliseconds in _times(detector, exported, dataset, arguments.quick).items():
            rows.setdefault(name, {}).update(milliseconds)
        if not arguments.quick and dataset.defects:
            judged = {}
            for name, one in {"torch": detector, **exported}.items():
                quality, judged[name] = _quality(one, dataset)
                flipped = sum(a != b for a, b in zip(judged["torch"], judged[name], strict=True))
                rows[name].update(quality, flipped=flipped)
                print(name, rows[name], flush=True)
    _print(rows, dataset)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _times(
    detector: Detector, exported: dict[str, RuntimeDetector], dataset: Dataset, quick: bool
) -> dict[str, dict[str, float]]:
    """Median and quickest milliseconds of each way, in rounds that take every way in turn."""
    sources = [sample.path for sample in dataset.require_train()[:1]]
    pixels = next(load_batches(sources, detector.view, batch_size=1)).pixels
    floats = pixels.astype(np.float32)
    tensor = torch.from_numpy(floats)
    height, width = pixels.shape[1:3]
    graph = ExportGraph(detector.network, (height, width), smoothing=detector.settings.smoothing)
    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: detector.network(tensor),
        "torch, encoder alone": lambda: detector.network.encoder(tensor),
    }
    if not quick:
        compiled = torch.compile(graph)
        ways["torch compiled"] = lambda: compiled(tensor)
    for name, one in exported.items():
        outputs = normality_names(one.settings.strides)
        ways[name] = lambda one=one, outputs=outputs: one.backend.run(floats, outputs)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for run in ways.values():
            run()
        for _ in range(5 if quick else 60):
            for name, run in ways.items():
                run()  # the caches are another way's
                began = time.perf_counter()
                run()
                taken[name].append(1e3 * (time.perf_counter() - began))
    return {
        name: {"ms": statistics.median(values), "least ms": min(values)}
        for name, values in taken.items()
    }


def _quality(detector: Any, dataset: Dataset) -> tuple[dict[str, float], list[bool]]:
    """The areas, and what was said of each test image."""
    result = evaluate(detector, dataset)
    areas = {
        "image AUROC": 100 * result.image.auroc,
        "pixel AUROC": 100 * result.pixel.auroc if result.pixel else float("nan"),
    }
    return areas, [record.is_anomalous for record in result.images]


def _print(rows: dict[str, dict[str, Any]], dataset: Dataset) -> None:
    columns = ["ms", "least ms", "MiB", "largest change"]
    columns += ["image AUROC", "pixel AUROC", "flipped"]
    print(f"{dataset.name}\n\n| way | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        cells = [f"{row[column]:.5g}" if column in row else "" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nload average {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
