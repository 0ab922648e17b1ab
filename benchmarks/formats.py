"""The same pictures in other depths, files and arrays: are the areas the same?

    python benchmarks/formats.py DATA [--steps 200] [--only read|trained]
    python benchmarks/formats.py --quick

A model is trained on the data set as it is, and evaluated on its test images as they are, in 12
bits in PNG files of 16, in 16 bits, as P6 (PPM), and as arrays in the order blue, green, red. The
last row is a model that was trained on the files of 12 bits, and evaluated on them. Areas need no
threshold, so no folds are trained.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import cv2
import numpy as np
from common import build_parser, fit, markdown, open_data, report

from cflow_ad import Detector, Settings
from cflow_ad.data.arrays import ArrayImage
from cflow_ad.data.images import read_image
from cflow_ad.data.layouts import Dataset, Sample
from cflow_ad.data.masks import read_mask
from cflow_ad.evaluation.metrics import PixelMetrics, image_metrics


def write(samples: Sequence[Sample], folder: Path, suffix: str, bits: int) -> list[Path]:
    """Write images in another form."""
    folder.mkdir()
    paths = []
    for number, sample in enumerate(samples):
        pixels = read_image(sample.path)[..., ::-1]
        if bits > 8:
            pixels = np.rint(pixels * ((2**bits - 1) / 255)).astype(np.uint16)
        paths.append(folder / f"{number}.{suffix}")
        assert cv2.imwrite(str(paths[-1]), pixels)
    return paths


def areas(detector: Detector, samples: Sequence[Sample], sources: Sequence[Any]) -> list[float]:
    """Compute image AUROC, pixel AUROC and AUPRO, in percent."""
    pixels, scores = PixelMetrics(), []
    for sample, found in zip(samples, detector.stream(sources), strict=True):
        scores.append(found.score)
        if sample.is_good or sample.mask is not None:
            shape = found.anomaly_map.shape
            mask = read_mask(sample.mask, shape) if sample.mask else np.zeros(shape, np.bool_)
            pixels.update(found.anomaly_map, mask, found.inside)
    image = image_metrics(scores, [not sample.is_good for sample in samples])
    of_pixels = pixels.compute()
    return [100 * image.auroc, 100 * of_pixels.auroc, 100 * of_pixels.aupro]


def read_in_forms(dataset: Dataset, settings: Settings, folder: Path) -> dict[str, list[float]]:
    """Train on the images as they are, and evaluate each form."""
    test = dataset.test
    detector = fit(dataset, settings)
    ways: dict[str, tuple[int, Callable[[], Sequence[Any]]]] = {
        "as it is": (8, lambda: [sample.path for sample in test]),
        "12 bits in 16, PNG": (12, lambda: write(test, folder / "12", "png", 12)),
        "16 bits, PNG": (16, lambda: write(test, folder / "16", "png", 16)),
        "P6": (8, lambda: write(test, folder / "p6", "ppm", 8)),
        "arrays, BGR": (
            8,
            lambda: [ArrayImage(read_image(s.path)[..., ::-1], color="bgr") for s in test],
        ),
    }
    found = {}
    for name, (bits, sources) in ways.items():
        found[name] = areas(detector.read_as(bits=bits), test, sources())
    return found


def train_on_12_bits(dataset: Dataset, settings: Settings, folder: Path) -> dict[str, list[float]]:
    """Train on files of 12 bits in 16, and evaluate on such files."""
    train = write(dataset.train, folder / "train", "png", 12)
    deep = dataclasses.replace(dataset, train=tuple(Sample(path, "good") for path in train))
    detector = fit(dataclasses.replace(deep, root=folder / "train"), settings)
    assert detector.reading.bits == 12
    sources = write(dataset.test, folder / "test", "png", 12)
    return {"trained on 12 bits in 16": areas(detector, dataset.test, sources)}


def main() -> None:
    """Measure, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", choices=["read", "trained"], help="half of the rows")
    options = parser.parse_args()
    with (
        open_data(options, train=8, good=2, per_defect=1) as (dataset, settings),
        tempfile.TemporaryDirectory() as folder,
    ):
        if not options.quick:
            settings = dataclasses.replace(settings, steps=options.steps, folds=0)
        found = {}
        if options.only != "trained":
            found |= read_in_forms(dataset, settings, Path(folder))
        if options.only != "read":
            found |= train_on_12_bits(dataset, settings, Path(folder))
        print(f"{dataset.name}, size {settings.size}, {settings.steps} steps\n")
    head = ["", "image AUROC", "pixel AUROC", "AUPRO"]
    print(markdown(head, [[name, *(f"{v:.3f}" for v in row)] for name, row in found.items()]))
    report(found, options.json)


if __name__ == "__main__":
    main()
