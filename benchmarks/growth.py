"""How time and memory grow with the number of images and with their size.

    python benchmarks/growth.py [--images 200 2000 20000] [--pixels 128 256 512 1024] [--json FILE]
    python benchmarks/growth.py --quick

Each row is a process of its own: its peak is the most memory it ever had. The images are generated
carpet, a hundred of them, linked as often as it takes. The feature budget is small enough to be
reached by the smallest set, so that what grows with the number of images shows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sidebyside import markdown, report

from cflow_ad.data.carpet import write_carpet

BUDGET = 0.004  # GiB of features
DIFFERENT = 100  # images; beyond that they repeat


def measure(folder: Path, size: int, strides: str, budget: float) -> dict[str, float]:
    """Train and predict in this process."""
    from cflow_ad import CalibrationWarning, Detector, Settings, tune_process

    tune_process()  # as the command line does
    from cflow_ad.fitting.progress import Progress

    paths = sorted((folder / "train" / "good").iterdir())
    settings = Settings(
        size=f"{size}x{size}",
        feature_budget=budget,
        steps=50,
        blocks=4,
        strides=Settings.parse("strides", strides),
        false_alarm_rate=0.05,
    )
    seconds: dict[str, float] = {}
    began: dict[str, float] = {}

    def watch(progress: Progress) -> None:
        # From a stage's own beginning: building the encoder happens once, for however many images.
        now = time.perf_counter()
        seconds[progress.stage] = now - began.setdefault(progress.stage, now)

    import warnings

    warnings.simplefilter("ignore", CalibrationWarning)
    detector = Detector.fit(paths, settings, progress=watch)
    trained = _peak()
    start = time.perf_counter()
    for _ in detector.stream(paths):
        pass
    return {
        "encode s": seconds["encode"],
        "predict s": time.perf_counter() - start,
        "training peak MiB": trained,
        "peak MiB": _peak(),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(folder: Path, size: int, strides: str, budget: float) -> dict[str, float]:
    """The same, in a process of its own."""
    arguments = [str(folder), str(size), strides, str(budget)]
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *arguments],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def weave(folder: Path, images: int, pixels: int) -> Path:
    """A folder of good images, of which at most a hundred differ."""
    write_carpet(folder, train=min(images, DIFFERENT), good=0, per_defect=0, size=pixels)
    good = folder / "train" / "good"
    originals = sorted(good.iterdir())
    for number, original in zip(
        range(len(originals), images), itertools.cycle(originals), strict=False
    ):
        os.link(original, good / f"again-{number:06d}.png")
    return folder


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Of the power of the size that the time grows with, from the first to the last row."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def main() -> None:
    """Measure, and print two tables."""
    if sys.argv[1:2] == ["--measure"]:
        folder, size, strides, budget = sys.argv[2:]
        print(json.dumps(measure(Path(folder), int(size), strides, float(budget))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", type=int, default=[200, 2000, 20000])
    parser.add_argument("--pixels", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two minutes at the most")
    options = parser.parse_args()
    side, strides, budget = 64, "8,16,32", BUDGET
    if options.quick:
        options.images, options.pixels = [20, 40], [64, 96]
        side, strides, budget = 64, "8,16", BUDGET / 100
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for count in options.images:
            data = weave(Path(folder) / f"images-{count}", count, side)
            rows.append({"images": count, **in_a_process(data, side, strides, budget)})
        results["images"] = rows
        _show(rows, f"images of {side}x{side}", options.images)
        rows = []
        for pixels in options.pixels:
            data = weave(Path(folder) / f"pixels-{pixels}", 40, pixels)
            rows.append({"side": pixels, **in_a_process(data, pixels, strides, budget)})
        results["pixels"] = rows
        _show(rows, "40 images, by their side", [pixels**2 for pixels in options.pixels])
    report(results, options.json)


def _show(rows: list[dict[str, float]], title: str, sizes: list[int]) -> None:
    print(f"\n{title}\n\n{markdown(list(rows[0]), [list(row.values()) for row in rows])}")
    for stage in ("encode s", "predict s"):
        grown = exponent(sizes, [row[stage] for row in rows])
        print(f"{stage} grows with the power {grown:.2f}")
    print(f"largest peak / smallest: {rows[-1]['peak MiB'] / rows[0]['peak MiB']:.2f}", flush=True)


if __name__ == "__main__":
    main()
