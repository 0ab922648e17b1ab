"""How time and memory grow with the number of images and with their size.

    python benchmarks/growth.py [--images 200 2000 20000] [--pixels 128 256 512 1024]
    python benchmarks/growth.py --quick

The images are generated carpet, repeated where more are wanted. The rows rise in size and are
measured in one process, so that its peak resident set shows how much memory each adds. The feature
budget is small enough to be reached by the smallest set.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

from common import QUICK, build_parser, fit, markdown, peak_memory, report

from cflow_ad import Settings
from cflow_ad.data.carpet import write_carpet
from cflow_ad.fitting.progress import Progress

SIDE = 64
"""Pixels along the sides of the images whose number grows."""

DIFFERENT = 40
"""Images; beyond that they repeat."""


def measure(images: Sequence[Path], settings: Settings) -> dict[str, float]:
    """Fit to images, and score them."""
    seconds: dict[str, float] = {}
    began: dict[str, float] = {}

    def watch(progress: Progress) -> None:
        # From a stage's own beginning: the encoder is built once, for however many images.
        now = time.perf_counter()
        seconds[progress.stage] = now - began.setdefault(progress.stage, now)

    detector = fit(images, settings, progress=watch)
    start = time.perf_counter()
    for prediction in detector.stream(images):
        _ = prediction.mask
    return {
        "encode s": seconds["encode"],
        "predict s": time.perf_counter() - start,
        "peak MiB so far": peak_memory(),
    }


def find_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Compute the power of the size that the time grows with, from the first to the last."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def show(title: str, rows: list[dict[str, float]], sizes: Sequence[float]) -> None:
    """Print a table, and how its times grow."""
    print(f"\n{title}\n\n{markdown(list(rows[0]), [list(row.values()) for row in rows])}")
    for stage in ("encode s", "predict s"):
        exponent = find_exponent(sizes, [row[stage] for row in rows])
        print(f"{stage} grows with the power {exponent:.2f}", flush=True)


def main() -> None:
    """Measure, and print two tables."""
    parser = build_parser(__doc__)
    parser.add_argument("--images", nargs="+", type=int, default=[200, 2000, 20000])
    parser.add_argument("--pixels", nargs="+", type=int, default=[128, 256, 512, 1024])
    options = parser.parse_args()
    settings = Settings(steps=50, false_alarm_rate=0.05, feature_budget=0.004)
    different = DIFFERENT
    if options.quick:
        options.images, options.pixels, different = [8, 16], [64, 96], 8
        settings = Settings.preset("default", **QUICK, feature_budget=1e-4)
    rows: dict[str, list[dict[str, float]]] = {"images": [], "pixels": []}
    with tempfile.TemporaryDirectory() as folder:

        def generate(side: int) -> list[Path]:
            root = Path(folder) / str(side)
            if not root.exists():
                write_carpet(root, train=different, good=0, per_defect=0, size=side)
            return sorted((root / "train" / "good").iterdir())

        def at(side: int) -> Settings:
            return dataclasses.replace(settings, size=f"{side}x{side}")

        measure(generate(SIDE), at(SIDE))  # what happens once is not timed
        for count in options.images:
            images = list(itertools.islice(itertools.cycle(generate(SIDE)), count))
            rows["images"].append({"images": count, **measure(images, at(SIDE))})
        for side in options.pixels:
            rows["pixels"].append({"side": side, **measure(generate(side), at(side))})
    show(f"images of {SIDE}x{SIDE}", rows["images"], options.images)
    show(f"{different} images, by their side", rows["pixels"], [n**2 for n in options.pixels])
    report(rows, options.json)


if __name__ == "__main__":
    main()
