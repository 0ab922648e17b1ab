"""Metrics: time and memory of streaming histograms, beside scikit-learn's and anomalib's.

    python benchmarks/metrics.py [--maps 1000] [--side 512] [--anomalib PYTHON]
    python benchmarks/metrics.py --quick

Each is a process of its own over the same generated maps. Its memory is the peak less that before
the first map, its time less that of generating the maps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np
from common import build_parser, markdown, measure_alone, peak_memory, report
from scipy.ndimage import gaussian_filter


def generate_maps(count: int, side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generate smooth noise, higher in a disc that every other image has, and the disc's mask."""
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


def by_product(count: int, side: int) -> dict[str, float]:
    """Compute cflow-ad's metrics, updated one map after another."""
    from cflow_ad.evaluation.metrics import PixelMetrics

    metrics = PixelMetrics()
    for anomaly_map, mask in generate_maps(count, side):
        metrics.update(anomaly_map, mask)
    result = metrics.compute()
    return {"pixel AUROC": result.auroc, "AUPRO": result.aupro}


def by_sklearn(count: int, side: int) -> dict[str, float]:
    """Compute scikit-learn's AUROC; it has no AUPRO."""
    from sklearn.metrics import roc_auc_score

    scores = np.empty((count, side, side), np.float32)
    masks = np.empty((count, side, side), np.bool_)
    for number, (anomaly_map, mask) in enumerate(generate_maps(count, side)):
        scores[number], masks[number] = anomaly_map, mask
    return {"pixel AUROC": float(roc_auc_score(masks.ravel(), scores.ravel()))}


def by_anomalib(count: int, side: int) -> dict[str, float]:
    """Compute anomalib's metrics, updated one map after another."""
    import torch
    from anomalib.metrics.aupro import _AUPRO
    from torchmetrics.classification import BinaryAUROC

    pro, roc = _AUPRO(fpr_limit=0.3), BinaryAUROC()
    for anomaly_map, mask in generate_maps(count, side):
        scores, truth = torch.from_numpy(anomaly_map)[None], torch.from_numpy(mask)[None].int()
        pro.update(scores, truth)
        roc.update(scores.flatten(), truth.flatten())
    return {"pixel AUROC": float(roc.compute()), "AUPRO": float(pro.compute())}


def by_none(count: int, side: int) -> dict[str, float]:
    """Generate the maps alone."""
    for _ in generate_maps(count, side):
        pass
    return {}


GENERATING = "generating the maps"
PROGRAMS = {GENERATING: by_none, "cflow-ad": by_product, "scikit-learn": by_sklearn}


def measure(program: str, count: int, side: int) -> dict[str, float]:
    """Measure one program in this process, which is a fresh one."""
    compute = {**PROGRAMS, "anomalib": by_anomalib}[program]
    compute(2, 64)  # imports
    before, began = peak_memory(), time.perf_counter()
    result = compute(count, side)
    return {**result, "seconds": time.perf_counter() - began, "MiB": peak_memory() - before}


def main() -> None:
    """Measure, and print the table."""
    if sys.argv[1:2] == ["--measure"]:
        program, count, side = sys.argv[2:]
        print(json.dumps(measure(program, int(count), int(side))))
        return
    parser = build_parser(__doc__)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--anomalib", metavar="PYTHON")
    options = parser.parse_args()
    if options.quick:
        options.maps, options.side = 10, 64
    results = {name: measure_alone(__file__, name, options.maps, options.side) for name in PROGRAMS}
    if options.anomalib:
        results["anomalib"] = measure_alone(
            __file__, "anomalib", options.maps, options.side, python=options.anomalib
        )
    generating = results[GENERATING]["seconds"]
    rows = [
        [
            name,
            *(f"{found[area]:.6f}" if area in found else "" for area in ("pixel AUROC", "AUPRO")),
            found["seconds"] - (0 if name == GENERATING else generating),
            found["MiB"],
        ]
        for name, found in results.items()
    ]
    print(f"{options.maps} maps of {options.side}x{options.side}\n")
    print(markdown(["", "pixel AUROC", "AUPRO", "seconds", "MiB"], rows))
    report(results, options.json)


if __name__ == "__main__":
    main()
