"""A new light on the same product: `calibrate` alone, or `update`?

    python benchmarks/variants.py DATA [--preset fast] [--folds N] [--share 0.2]
    python benchmarks/variants.py --quick

A share of the good training images is kept back and made the new variant: 25 % darker, and warmer,
as under another lamp. A model is trained on the others. Then it is calibrated on the new images,
or updated with them. Good and defective test images are scored under both lights.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
import warnings
from pathlib import Path

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import build_parser, markdown, open_data, report
from PIL import Image

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.data.images import read_image
from cflow_ad.data.layouts import Dataset, Sample

LIGHT = np.array([0.825, 0.75, 0.6], np.float32)
"""What the new lamp leaves of red, green and blue."""


def relight(samples: tuple[Sample, ...], folder: Path) -> tuple[Sample, ...]:
    """Write images as they look under the new lamp."""
    folder.mkdir()
    made = []
    for number, sample in enumerate(samples):
        path = folder / f"{number}.png"
        pixels = np.rint(read_image(sample.path).astype(np.float32) * LIGHT)
        Image.fromarray(pixels.astype(np.uint8)).save(path, compress_level=1)
        made.append(dataclasses.replace(sample, path=path))
    return tuple(made)


def count(detector: Detector, samples: tuple[Sample, ...]) -> tuple[str, str]:
    """Count the false alarms and the misses."""
    found = detector.stream([sample.path for sample in samples], maps=False)
    pairs = [(s.is_good, p.is_anomalous) for s, p in zip(samples, found, strict=True)]
    good = [is_anomalous for is_good, is_anomalous in pairs if is_good]
    defective = [not is_anomalous for is_good, is_anomalous in pairs if not is_good]
    return f"{sum(good)} of {len(good)}", f"{sum(defective)} of {len(defective)}"


def measure(
    dataset: Dataset, settings: Settings, share: float, folder: Path
) -> list[dict[str, object]]:
    """Train, calibrate and update, and count on both lights."""
    order = np.random.default_rng(settings.seed).permutation(len(dataset.train))
    kept = [dataset.train[i] for i in order[: round(share * len(order))]]
    new = relight(tuple(kept), folder / "train")
    tests = {"old": dataset.test, "new": relight(dataset.test, folder / "test")}
    of_old = dataclasses.replace(
        dataset, train=tuple(sample for sample in dataset.train if sample not in kept)
    )
    of_new = dataclasses.replace(dataset, train=new, root=folder / "train")
    rows: list[dict[str, object]] = []
    detector: Detector | None = None
    for name in ("the first model", "calibrate", "update"):
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            if detector is None:
                made = detector = Detector.fit(of_old, settings)
            else:
                made = (
                    detector.calibrate(of_new) if name == "calibrate" else detector.update(of_new)
                )
        row: dict[str, object] = {"": name, "seconds": time.perf_counter() - began}
        row["threshold"] = made.threshold
        for light, samples in tests.items():
            alarms, misses = count(made, samples)
            row |= {f"false alarms, {light}": alarms, f"misses, {light}": misses}
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--folds", type=int)
    parser.add_argument("--share", type=float, default=0.2, help="of the good images, for the new")
    options = parser.parse_args()
    with (
        open_data(options, train=20, good=4, per_defect=1) as (dataset, settings),
        tempfile.TemporaryDirectory() as folder,
    ):
        if not options.quick:
            settings = Settings.preset(options.preset, folds=options.folds)
        rows = measure(dataset, settings, options.share, Path(folder))
        print(f"{dataset.name}, {len(dataset.train)} good images for training\n")
    print(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    report(rows, options.json)


if __name__ == "__main__":
    main()
