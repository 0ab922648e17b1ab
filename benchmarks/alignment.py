"""What aligning is worth: a generated part, shifted and rotated, with a hole missing.

    python benchmarks/alignment.py
    python benchmarks/alignment.py --quick

Trains on good parts and tests on others, for each way of aligning.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import QUICK, build_parser, fit, markdown, report

from cflow_ad import Settings
from cflow_ad.evaluation.metrics import PixelMetrics, image_metrics
from cflow_ad.scoring.motion import Motion

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.data.parts import draw_part, hole_of

CASES = {
    "none": {},
    "shift": {"align": "shift"},
    "rigid": {"align": "rigid"},
    "rigid, foreground": {"align": "rigid", "foreground": "auto"},
}
Parts = list[tuple[np.ndarray, Motion]]


def draw_parts(count: int, side: int, rng: np.random.Generator, *, hole: bool = True) -> Parts:
    """Draw parts, shifted by up to 9 % of the image's side and rotated by up to 20 degrees."""
    most = 3 * side / 32
    motions = [Motion(*rng.uniform(-most, most, 2), rng.uniform(-20, 20)) for _ in range(count)]
    return [(draw_part(rng, motion, side, hole=hole), motion) for motion in motions]


def measure(train: Parts, good: Parts, defective: Parts, settings: Settings) -> dict[str, float]:
    """Train on good parts, and test on others; in percent."""
    detector = fit([image for image, _ in train], settings)
    images, motions = zip(*good, *defective, strict=True)
    is_defect = [False] * len(good) + [True] * len(defective)
    scores, pixels = [], PixelMetrics()
    for found, motion, missing in zip(detector.stream(images), motions, is_defect, strict=True):
        mask = motion.give_back(hole_of(len(found.anomaly_map)) & missing)
        scores.append(found.score)
        pixels.update(found.anomaly_map, mask, found.inside)
    image, pixel = image_metrics(scores, is_defect), pixels.compute()
    areas = {"image AUROC": image.auroc, "pixel AUROC": pixel.auroc, "AUPRO": pixel.aupro}
    return {name: 100 * value for name, value in areas.items()}


def main() -> None:
    """Train and test each way, and print a table."""
    options = build_parser(__doc__).parse_args()
    changes: dict[str, Any] = {"size": "192x192", "steps": 60}
    side, train, test = 192, 30, 15
    if options.quick:
        changes, side, train, test = dict(QUICK), 64, 4, 2
    rng = np.random.default_rng(0)
    parts = (
        draw_parts(train, side, rng),
        draw_parts(test, side, rng),
        draw_parts(test, side, rng, hole=False),
    )
    results = {
        name: measure(*parts, Settings.preset("default", **changes, **case))
        for name, case in CASES.items()
    }
    rows = [[name, *result.values()] for name, result in results.items()]
    print(markdown(["align", *results["none"]], rows))
    report(results, options.json)


if __name__ == "__main__":
    main()
