"""Whether memory stays flat over images of random sizes, in torch, onnxruntime and OpenVINO.

    python benchmarks/memory.py [--images 3000] [--largest 768] [--runtimes torch onnx openvino]
    python benchmarks/memory.py --quick

A small model is trained, exported for any size, and scores generated images, each of a size drawn
at random from 64 to the largest side. Each runtime has a process of its own. Resident sets are
taken after a tenth of the images, which warms the runtime up, and later.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import QUICK, build_parser, fit, markdown, measure_alone, report

MARKS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the images after which the resident set is read."""


def resident() -> float:
    """Read the resident set of this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure(model: Path, images: int, largest: int) -> dict[str, float]:
    """Score images of random sizes, and read the resident set at each mark."""
    from cflow_ad.runtime.opening import open_detector

    detector = open_detector(model)
    rng = np.random.default_rng(0)
    sizes = rng.integers(64, largest + 1, (images, 2))
    sources = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    at = {max(1, round(mark * images)): f"{mark:.0%}" for mark in MARKS}
    found = {}
    for number, prediction in enumerate(detector.stream(sources), start=1):
        _ = prediction.score
        if number in at:
            found[at[number]] = resident()
    return found


def main() -> None:
    """Print a table."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
        return
    parser = build_parser(__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--largest", type=int, default=768)
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnx", "openvino"])
    options: argparse.Namespace = parser.parse_args()
    images, largest = options.images, options.largest
    if options.quick:  # exports take most of the time
        images, largest, options.runtimes = 20, 128, ["torch"]

    from cflow_ad import Settings
    from cflow_ad.data.carpet import write_carpet
    from cflow_ad.export.export import export_model

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_carpet(root / "carpet", train=8, good=0, per_defect=0, size=64)
        settings = Settings.preset("default", **QUICK | {"size": "native"})
        detector = fit(root / "carpet", settings)
        detector.save(root / "m.safetensors", bundle=True)
        for name in options.runtimes:
            suffix = {"torch": ".safetensors", "onnx": ".onnx", "openvino": ".xml"}[name]
            model = (root / "m").with_suffix(suffix)
            if name != "torch":
                export_model(detector, model, format=name, size="dynamic")
            results[name] = measure_alone(__file__, model, images, largest)
    head = ["resident MiB after", *next(iter(results.values()))]
    print(markdown(head, [[name, *found.values()] for name, found in results.items()]))
    report(results, options.json)


if __name__ == "__main__":
    main()
