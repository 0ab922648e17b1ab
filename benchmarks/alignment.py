"""What laying parts straight is worth: a drawn part, moved and turned, with a hole missing.

    python benchmarks/alignment.py [--json FILE]
    python benchmarks/alignment.py --quick

Prints image AUROC, pixel AUROC and AUPRO for each way of aligning. `--quick` draws a few small
parts and trains for a few steps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import numpy as np

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.evaluation.metrics import PixelMetrics, image_metrics
from cflow_ad.scoring.alignment import Motion

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.data.parts import draw_part, hole_of

CASES = {
    "none": {},
    "shift": {"align": "shift"},
    "rigid": {"align": "rigid"},
    "rigid, foreground": {"align": "rigid", "foreground": "auto"},
}
Moved = list[tuple[np.ndarray, Motion]]


def moved(count: int, side: int, rng: np.random.Generator, *, hole: bool = True) -> Moved:
    """Parts, by up to 9 % of the image's side and 20 degrees from their place."""
    most = 3 * side / 32
    motions = [Motion(*rng.uniform(-most, most, 2), rng.uniform(-20, 20)) for _ in range(count)]
    return [(draw_part(rng, motion, side, hole=hole), motion) for motion in motions]


def measure(good: Moved, fine: Moved, bad: Moved, settings: Settings) -> dict[str, float]:
    """Train on the good parts, and test on the others."""
    detector = Detector.fit([image for image, _ in good], settings)
    images, motions = zip(*fine, *bad, strict=True)
    is_bad = [False] * len(fine) + [True] * len(bad)
    scores, pixels = [], PixelMetrics()
    for found, motion, defective in zip(detector.stream(images), motions, is_bad, strict=True):
        mask = motion.give_back(hole_of(len(found.anomaly_map)) & defective)
        scores.append(found.score)
        pixels.update(found.anomaly_map, mask, found.inside)
    image, pixel = image_metrics(scores, is_bad), pixels.compute()
    return {"image AUROC": image.auroc, "pixel AUROC": pixel.auroc, "AUPRO": pixel.aupro}


def main() -> None:
    """Train and test each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", CalibrationWarning)
    preset, side, steps, good, test = ("default", 192, 60, 30, 15)
    if options.quick:
        preset, side, steps, good, test = ("fast", 96, 5, 10, 4)
    rng = np.random.default_rng(0)
    parts = moved(good, side, rng), moved(test, side, rng), moved(test, side, rng, hole=False)
    results = {}
    print("| | image AUROC | pixel AUROC | AUPRO |\n|---|---|---|---|")
    for name, changes in CASES.items():
        settings = Settings.preset(preset, size=f"{side}x{side}", steps=steps, **changes)
        results[name] = measure(*parts, settings)
        values = " | ".join(f"{100 * value:.1f}" for value in results[name].values())
        print(f"| {name} | {values} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
