"""The metrics' time and memory: streaming histograms beside scikit-learn and anomalib.

    python benchmarks/metrics.py [--maps 1000] [--side 512] [--anomalib PYTHON] [--json FILE]
    python benchmarks/metrics.py --quick

Each is a process of its own over the same generated maps; its memory is the most it ever had,
less what it had before the first map.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter


def maps(count: int, side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Smooth noise, hotter in a disc that every other image has; and where the disc is."""
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(side, side)), side / 64).astype(np.float32)
    noise /= noise.std()
    rows, columns = np.indices((side, side))
    for number in range(count):
        centre, radius = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.02, 0.1) * side
        inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        mask = inside & bool(number % 2)
        shifted = np.roll(noise, rng.integers(0, side, 2), (0, 1))
        yield shifted + rng.normal() * 0.3 + 1.5 * mask, mask


def ours(count: int, side: int) -> dict[str, float]:
    """The product's, one map after another."""
    from cflow_ad.evaluation.metrics import PixelMetrics

    metrics = PixelMetrics()
    for anomaly_map, mask in maps(count, side):
        metrics.update(anomaly_map, mask)
    result = metrics.compute()
    return {"pixel AUROC": result.auroc, "AUPRO": result.aupro}


def sklearn(count: int, side: int) -> dict[str, float]:
    """scikit-learn has no AUPRO."""
    from sklearn.metrics import roc_auc_score

    scores = np.empty((count, side, side), np.float32)
    masks = np.empty((count, side, side), np.bool_)
    for number, (anomaly_map, mask) in enumerate(maps(count, side)):
        scores[number], masks[number] = anomaly_map, mask
    return {"pixel AUROC": float(roc_auc_score(masks.ravel(), scores.ravel()))}


def anomalib(count: int, side: int) -> dict[str, float]:
    """Anomalib's AUPRO and AUROC classes, updated one map after another."""
    import torch
    from anomalib.metrics.aupro import _AUPRO
    from torchmetrics.classification import BinaryAUROC

    pro, roc = _AUPRO(fpr_limit=0.3), BinaryAUROC()
    for anomaly_map, mask in maps(count, side):
        scores, truth = torch.from_numpy(anomaly_map)[None], torch.from_numpy(mask)[None].int()
        pro.update(scores, truth)
        roc.update(scores.flatten(), truth.flatten())
    return {"pixel AUROC": float(roc.compute()), "AUPRO": float(pro.compute())}


def nothing(count: int, side: int) -> dict[str, float]:
    """Making the maps."""
    for _ in maps(count, side):
        pass
    return {}


KINDS = {"making the maps": nothing, "cflow-ad": ours, "scikit-learn": sklearn}


def in_a_process(kind: str, count: int, side: int, python: str = sys.executable) -> dict[str, Any]:
    """One measurement."""
    command = [python, __file__, "--measure", kind, str(count), str(side)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, and print the table."""
    if sys.argv[1:2] == ["--measure"]:
        kind, count, side = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        measured = {**KINDS, "anomalib": anomalib}[kind]
        measured(2, 64)  # imports
        before, began = _peak(), time.perf_counter()
        result = measured(count, side)
        seconds = time.perf_counter() - began
        print(json.dumps({**result, "seconds": seconds, "MiB": _peak() - before}))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--anomalib", metavar="PYTHON")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two minutes at the most")
    options = parser.parse_args()
    if options.quick:
        options.maps, options.side = 10, 64
    results = {kind: in_a_process(kind, options.maps, options.side) for kind in KINDS}
    if options.anomalib:
        results["anomalib"] = in_a_process("anomalib", options.maps, options.side, options.anomalib)
    from sidebyside import markdown, report

    making = results["making the maps"]["seconds"]
    rows = [
        [
            kind,
            *(f"{found[area]:.6f}" if area in found else "" for area in ("pixel AUROC", "AUPRO")),
            found["seconds"] - (0 if kind == "making the maps" else making),
            found["MiB"],
        ]
        for kind, found in results.items()
    ]
    head = ["", "pixel AUROC", "AUPRO", "seconds, less the making", "MiB"]
    print(f"{options.maps} maps of {options.side}x{options.side}\n\n{markdown(head, rows)}")
    report({"results": results}, options.json)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
