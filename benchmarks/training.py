"""Training time and quality: cflow-ad, the paper's schedule over FrEIA's decoders, and anomalib.

    python benchmarks/training.py DATA [--steps 0 100 600] [--passes 1]
                                  [--anomalib PYTHON --epochs 1]
    python benchmarks/training.py --quick

All have the same backbone, weights, images and threads. Seconds are those of training alone,
encoding included; then the test images are scored, each program in its own way. The paper's
schedule has 25 x 8 passes, all of the same time; the time of those not run is extrapolated.
cflow-ad is trained once for each number of steps, so that its learning rate ends at 0.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import safetensors.torch
import torch
from common import build_parser, fit, markdown, open_data, report, tuned_environment
from freia_loop import FreiaLoop
from torch.nn import functional as F

from cflow_ad import Settings, evaluate
from cflow_ad.cflow.building import build_encoder
from cflow_ad.data.images import image_shape, read_image
from cflow_ad.data.layouts import Dataset
from cflow_ad.data.masks import read_mask
from cflow_ad.evaluation.metrics import PixelMetrics
from cflow_ad.evaluation.reference import reference_maps
from cflow_ad.method import PaperSchedule

PASSES = PaperSchedule().epochs * PaperSchedule().passes_per_epoch
IMAGES = PaperSchedule().images_per_batch


class Point(NamedTuple):
    """A model in training: its cost and its quality."""

    program: str
    after: str
    seconds: float
    pixel_auroc: float
    aupro: float


def measure_maps(dataset: Dataset, maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Compute pixel AUROC and AUPRO in percent, of maps enlarged to the images' own sizes."""
    metrics = PixelMetrics()
    for sample, values in zip(dataset.test, maps, strict=True):
        shape = image_shape(sample.path)
        mask = np.zeros(shape, np.bool_) if sample.mask is None else read_mask(sample.mask, shape)
        small = torch.from_numpy(np.asarray(values, np.float32))[None, None]
        metrics.update(F.interpolate(small, size=shape, mode="bilinear")[0, 0].numpy(), mask)
    result = metrics.compute()
    return 100 * result.auroc, 100 * result.aupro


def train_product(dataset: Dataset, settings: Settings, steps: Sequence[int]) -> Iterator[Point]:
    """Train cflow-ad, for each number of steps."""
    for number in steps:
        changed = Settings.from_dict({**settings.to_dict(), "steps": number})
        detector = fit(dataset, changed, device="cpu")
        pixel = evaluate(detector, dataset).pixel
        assert pixel is not None
        yield Point(
            "cflow-ad",
            f"at most {number} steps",
            detector.training["seconds"],
            100 * pixel.auroc,
            100 * pixel.aupro,
        )


def train_freia(
    dataset: Dataset, settings: Settings, passes: int, most: int | None
) -> Iterator[Point]:
    """Train FrEIA's decoders, without the warm-up of the learning rate, which costs no time."""
    torch.manual_seed(0)
    loop = FreiaLoop(build_encoder(as_paper(settings)))
    sizing = settings.sizing
    train, test = (
        [sizing.prepare(read_image(sample.path)).pixels for sample in samples]
        for samples in (dataset.train, dataset.test)
    )
    whole = len(train) - len(train) % min(IMAGES, len(train))
    seconds = 0.0
    for number in range(passes):
        began = time.perf_counter()
        order = torch.randperm(len(train)).tolist()
        for start in range(0, whole, IMAGES):
            batch = [train[i] for i in order[start : start + IMAGES]]
            loop.train_on(torch.from_numpy(np.stack(batch)), most=most)
        seconds += time.perf_counter() - began
        likelihoods = [
            [level[0].numpy() for level in loop.score(torch.from_numpy(pixels)[None])]
            for pixels in test
        ]
        maps = reference_maps(likelihoods, [pixels.shape[:2] for pixels in test])
        areas = measure_maps(dataset, list(maps))
        yield Point("the paper's schedule, FrEIA", f"{number + 1} passes", seconds, *areas)


def train_anomalib(
    dataset: Dataset, settings: Settings, python: str, epochs: int
) -> Iterator[Point]:
    """Train anomalib's Cflow with its own Engine."""
    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), Path(name) / "weights.safetensors"
        state = build_encoder(as_paper(settings)).network.state_dict()
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, weights)
        script = str(Path(__file__).with_name("anomalib_side.py"))
        command = [python, script, "train", settings.backbone, str(settings.sizing.height)]
        command += [str(dataset.root), str(weights), str(folder), str(epochs)]
        quiet = subprocess.DEVNULL
        subprocess.run(command, check=True, stdout=quiet, stderr=quiet, env=tuned_environment())
        for epoch in range(1, epochs + 1):
            kept = np.load(folder / f"{epoch}.npz")
            of = dict(zip(kept["names"].tolist(), kept["maps"], strict=True))
            maps = [of[str(sample.path)] for sample in dataset.test]
            areas = measure_maps(dataset, maps)
            yield Point("anomalib", f"{epoch} epochs", float(kept["seconds"]), *areas)


def as_paper(settings: Settings) -> Settings:
    """Take the backbone's feature maps as they are, in images of one size."""
    values = settings.to_dict()
    method = {**values["method"], "join": False, "average": ()}
    return Settings.from_dict({**values, "method": method})


def train_all(
    dataset: Dataset, settings: Settings, options: argparse.Namespace, most: int | None
) -> Iterator[Point]:
    """Train one program after another."""
    yield from train_product(dataset, settings, options.steps)
    yield from train_freia(dataset, settings, options.passes, most)
    if options.anomalib:
        yield from train_anomalib(dataset, settings, options.anomalib, options.epochs)


def main() -> None:
    """Train, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 100, 600])
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--anomalib", metavar="PYTHON")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    most = None
    if options.quick:
        options.steps, most = [5], 1
    with open_data(options, train=6, good=2, per_defect=1) as (dataset, settings):
        same = Settings.from_dict({**settings.to_dict(), "resize": "stretch"})
        points = list(train_all(dataset, same, options, most))
    head = ["", "after", "seconds", "pixel AUROC", "AUPRO"]
    rows = [
        [p.program, p.after, p.seconds, f"{p.pixel_auroc:.2f}", f"{p.aupro:.2f}"] for p in points
    ]
    print(markdown(head, rows))
    last = {point.program: point for point in points}
    a_pass = last["the paper's schedule, FrEIA"].seconds / options.passes
    times = PASSES * a_pass / last["cflow-ad"].seconds
    print(
        f"\n{PASSES} passes of the paper's schedule take {PASSES * a_pass:.0f} s, "
        f"{times:.0f} times the last row of cflow-ad"
    )
    report([point._asdict() for point in points], options.json)


if __name__ == "__main__":
    main()
