"""Few good images: how good is the model, and does its threshold keep the stated rate?

    python benchmarks/few.py DATA [--images 1 4 8 16] [--copies 8] [--seeds 0 1 2]
    python benchmarks/few.py --quick

For each seed some of the good images are drawn, and a model is trained on them, without and with
augmented copies; the last row has all images. The rate that the threshold promises holds for good
images like those it was set on, in the mean over draws, so false alarms are counted on good
training images that were not drawn; good test images may differ from them. With fewer than four
images the threshold is set on the training images and promises nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import build_parser, fit, markdown, open_data, report, with_spread

from cflow_ad import Settings, evaluate
from cflow_ad.data.layouts import Dataset

NOT_DRAWN = 100
"""Good training images that were not drawn are scored up to this many."""

COLUMNS = (
    "image AUROC",
    "pixel AUROC",
    "AUPRO",
    "promised",
    "alarms, not drawn",
    "alarms, test",
    "found",
)


def measure(dataset: Dataset, settings: Settings, count: int | None) -> dict[str, float]:
    """Train on some of the images, or all, and evaluate; in percent, NaN where undefined."""
    images = dataset.require_train()
    order = np.random.default_rng([settings.seed, count or 0]).permutation(len(images))
    drawn = sorted(order[:count].tolist())
    others = [] if count is None else order[count:][:NOT_DRAWN].tolist()
    own = dataclasses.replace(dataset, train=tuple(images[i] for i in drawn))
    detector = fit(own, settings)
    result = evaluate(detector, own)
    stream = detector.stream([images[i].path for i in others], maps=False)
    alarms = [prediction.is_anomalous for prediction in stream]
    pixel = result.pixel
    values = (
        result.image.auroc,
        pixel.auroc if pixel else np.nan,
        pixel.aupro if pixel else np.nan,
        result.false_alarms.promised,
        np.mean(alarms) if alarms else np.nan,
        result.false_alarms.rate,
        result.confusion.recall,
    )
    return {name: 100 * float(value) for name, value in zip(COLUMNS, values, strict=True)}


def main() -> None:
    """Measure, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.quick:
        options.images, options.copies, options.seeds = [4], 1, [0]
    results: list[dict[str, Any]] = []
    with open_data(options, train=6, good=2, per_defect=1) as (dataset, settings):
        cases = [(count, copies) for count in options.images for copies in (0, options.copies)]
        for count, copies in [*cases, (None, 0)]:
            runs = [
                measure(
                    dataset, dataclasses.replace(settings, seed=seed, augment_copies=copies), count
                )
                for seed in options.seeds
            ]
            results.append({"images": count, "copies": copies, "runs": runs})
        name = dataset.name
    rows = []
    for result in results:
        copies = f" + {result['copies']} copies each" if result["copies"] else ""
        columns = [with_spread([run[column] for run in result["runs"]]) for column in COLUMNS]
        rows.append([f"{result['images'] or 'all'}{copies}", *columns])
    print(f"{name}, in percent, seeds {' '.join(map(str, options.seeds))}\n")
    print(markdown(["good images", *COLUMNS], rows))
    report(results, options.json)


if __name__ == "__main__":
    main()
