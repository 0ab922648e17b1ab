"""Time to a given quality: the product, the paper's schedule over FrEIA, and anomalib.

    python benchmarks/training.py DATA [--passes 4] [--anomalib PYTHON --epochs 3] [--json FILE]
    python benchmarks/training.py --quick

All have the same backbone, weights, images and threads. The clock runs while training alone does,
encoding included; the test images are scored between, by each program's own way. The paper's
schedule is 25 x 8 passes: where it is not run to its end, its time is that of the passes run,
extrapolated. The product is trained once for each number of steps, so that its last step is
measured each time; the quality in a row is that at its end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import safetensors.torch
import torch
from freia_loop import FreiaLoop, anomaly_maps
from sidebyside import markdown, report, tuned

from cflow_ad import CalibrationWarning, Detector, Settings, evaluate, open_dataset
from cflow_ad.cflow.encoder import build_encoder
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.images import image_shape, read_image
from cflow_ad.data.layouts import Dataset
from cflow_ad.data.masks import read_mask
from cflow_ad.evaluation.metrics import PixelMetrics

TARGETS = (97.0, 98.0, 98.5)
PASSES = 200
IMAGES = 32  # in a batch of the paper's


@dataclass(frozen=True)
class Point:
    """A model on its way: what it cost, and what it is worth."""

    program: str
    done: str
    seconds: float
    pixel: float
    aupro: float


def measure_maps(dataset: Dataset, maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Pixel AUROC and AUPRO in percent, of maps brought to the images' own sizes."""
    metrics = PixelMetrics()
    for sample, values in zip(dataset.test, maps, strict=True):
        shape = image_shape(sample.path)
        mask = np.zeros(shape, np.bool_) if sample.mask is None else read_mask(sample.mask, shape)
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(np.asarray(values, np.float32))[None, None],
            size=shape,
            mode="bilinear",
        )
        metrics.update(resized[0, 0].numpy(), mask)
    result = metrics.compute()
    return 100 * result.auroc, 100 * result.aupro


def product(dataset: Dataset, settings: Settings, steps: Sequence[int]) -> Iterator[Point]:
    """cflow-ad."""
    for number in steps:
        changed = Settings.from_dict({**settings.to_dict(), "steps": number})
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            detector = Detector.fit(dataset, changed, device="cpu")
        seconds = time.perf_counter() - began
        pixel = evaluate(detector, dataset).pixel
        assert pixel is not None
        yield Point("cflow-ad", f"{number} steps", seconds, 100 * pixel.auroc, 100 * pixel.aupro)


def freia(dataset: Dataset, settings: Settings, passes: int, most: int | None) -> Iterator[Point]:
    """The paper's schedule, without its warm-up, which would only slow it down."""
    torch.manual_seed(0)
    loop = FreiaLoop(build_encoder(settings.backbone, settings.strides))
    train = [_pixels(sample.path, settings) for sample in dataset.train]
    test = [_pixels(sample.path, settings) for sample in dataset.test]
    seconds = 0.0
    for number in range(passes):
        began = time.perf_counter()
        order = torch.randperm(len(train)).tolist()
        for start in range(0, len(order) - len(order) % min(IMAGES, len(order)), IMAGES):
            batch = [train[i] for i in order[start : start + IMAGES]]
            loop.train_on(torch.from_numpy(np.stack(batch)), most=most)
        seconds += time.perf_counter() - began
        likelihoods = [loop.score(torch.from_numpy(pixels)[None]) for pixels in test]
        levels = [torch.cat(level) for level in zip(*likelihoods, strict=True)]
        size = (test[0].shape[0], test[0].shape[1])
        pixel, aupro = measure_maps(dataset, list(anomaly_maps(levels, size).numpy()))
        yield Point("paper's schedule, FrEIA", f"{number + 1} passes", seconds, pixel, aupro)


def _pixels(path: Path, settings: Settings) -> np.ndarray:
    return settings.sizing.prepare(read_image(path)).pixels


def anomalib(
    dataset: Dataset, settings: Settings, python: str, epochs: int, size: int
) -> Iterator[Point]:
    """Its own training and maps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = build_encoder(settings.backbone, settings.strides)
        weights = folder / "weights.safetensors"
        state = {k: v.contiguous() for k, v in encoder.network.state_dict().items()}
        safetensors.torch.save_file(state, weights)
        script = Path(__file__).with_name("anomalib_side.py")
        command = [python, str(script), "train", settings.backbone, str(size)]
        command += [str(dataset.root), str(weights), str(folder), str(epochs)]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=tuned(),
        )
        for epoch in range(1, epochs + 1):
            kept = np.load(folder / f"{epoch}.npz")
            of = dict(zip(kept["names"].tolist(), kept["maps"], strict=True))
            maps = [of[str(sample.path)] for sample in dataset.test]
            pixel, aupro = measure_maps(dataset, maps)
            yield Point("anomalib", f"{epoch} epochs", float(kept["seconds"]), pixel, aupro)


def reached(points: Sequence[Point], target: float) -> float | None:
    """Seconds of the quickest model that is good enough; None where there is none."""
    return min((point.seconds for point in points if point.pixel >= target), default=None)


def main() -> None:
    """Measure, and print what each reached and when."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 25, 50, 100, 200, 300])
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--anomalib", metavar="PYTHON")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two minutes at the most")
    options = parser.parse_args()
    settings, most = Settings(), None
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.data = Path(folder) / "carpet"
            write_carpet(options.data, train=6, good=2, per_defect=1, size=96)
            settings = Settings(size="64x64", strides=(8, 16), blocks=2)
            options.steps, options.passes, most = [0, 5], 2, 1
        if options.data is None:
            parser.error("name a data set, or give --quick")
        dataset = open_dataset(options.data)
        side = settings.sizing.height
        points = []
        runs = [
            product(dataset, settings, options.steps),
            freia(dataset, settings, options.passes, most),
        ]
        if options.anomalib:
            runs.append(anomalib(dataset, settings, options.anomalib, options.epochs, side))
        for run in runs:
            for point in run:
                points.append(point)
                print(
                    f"{point.program}, {point.done}: {point.seconds:.1f} s, "
                    f"pixel AUROC {point.pixel:.2f}, AUPRO {point.aupro:.2f}",
                    flush=True,
                )
    programs = list(dict.fromkeys(point.program for point in points))
    by_program = {name: [p for p in points if p.program == name] for name in programs}
    rows = []
    for name, own in by_program.items():
        best = max(own, key=lambda point: point.pixel)
        times = [reached(own, target) for target in TARGETS]
        cells = ["not reached" if seconds is None else f"{seconds:.1f} s" for seconds in times]
        rows.append([name, *cells, f"{best.pixel:.2f} after {best.seconds:.1f} s"])
    print("\n" + markdown(["", *[f"pixel AUROC {t:g}" for t in TARGETS], "its best"], rows))
    whole = by_program["paper's schedule, FrEIA"][-1].seconds / options.passes * PASSES
    ours = by_program["cflow-ad"][-1].seconds
    print(f"\n{PASSES} passes of the paper's schedule take {whole:.0f} s: {whole / ours:.0f} times")
    if "anomalib" in by_program:
        best = max(by_program["anomalib"], key=lambda point: point.pixel)
        first = reached(by_program["cflow-ad"], best.pixel)
        if first is not None:
            print(f"anomalib takes {best.seconds / first:.1f} times as long to its best")
    report({"points": [vars(point) for point in points]}, options.json)


if __name__ == "__main__":
    sys.exit(main())
