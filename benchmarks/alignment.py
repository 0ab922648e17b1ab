"""What laying parts straight is worth: a drawn part, moved and turned, with a hole missing.

Prints image AUROC, pixel AUROC and AUPRO for each way of aligning.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.data.alignment import Motion
from cflow_ad.evaluation.metrics import PixelMetrics, image_metrics

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.data.parts import draw_part, hole_of

SIDE = 192
CASES = {
    "none": {},
    "shift": {"align": "shift"},
    "rigid": {"align": "rigid"},
    "rigid, foreground": {"align": "rigid", "foreground": "auto"},
}


def main() -> None:
    """Train and test each way."""
    warnings.simplefilter("ignore", CalibrationWarning)
    rng = np.random.default_rng(0)

    def moved(count: int, *, hole: bool = True) -> list[tuple[np.ndarray, Motion]]:
        motions = [Motion(*rng.uniform(-18, 18, 2), rng.uniform(-20, 20)) for _ in range(count)]
        return [(draw_part(rng, motion, SIDE, hole=hole), motion) for motion in motions]

    good, fine, bad = moved(30), moved(15), moved(15, hole=False)
    images, motions = zip(*fine, *bad, strict=True)
    is_bad = [False] * len(fine) + [True] * len(bad)
    print(f"{'':20}{'image':>8}{'pixel':>8}{'AUPRO':>8}")
    for name, changes in CASES.items():
        settings = Settings.preset("default", size=f"{SIDE}x{SIDE}", steps=60, **changes)
        detector = Detector.fit([image for image, _ in good], settings)
        scores, pixels = [], PixelMetrics()
        for found, motion, defective in zip(detector.stream(images), motions, is_bad, strict=True):
            mask = motion.give_back(hole_of(SIDE) & defective)
            scores.append(found.score)
            pixels.update(found.anomaly_map, mask, found.inside)
        image, pixel = image_metrics(scores, is_bad), pixels.compute()
        values = (image.auroc, pixel.auroc, pixel.aupro)
        print(f"{name:20}" + "".join(f"{100 * value:8.1f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
