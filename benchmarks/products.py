"""Several products in one model, against a model for each.

    python benchmarks/products.py DATA DATA ... [--preset fast] [--folds N]
    python benchmarks/products.py --quick

For each product: false alarms on its good test images and misses of its defective ones, by its own
model and by the one of all. `taken for good` counts the good test images of the other products that
a model passes: a wrong part on the line. The warning about clusters is printed if there is one.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

from common import QUICK, build_parser, fit, markdown, report

from cflow_ad import Detector, Settings, open_dataset
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.clusters import describe_cluster, look_at_some
from cflow_ad.data.layouts import Dataset, Sample
from cflow_ad.evaluation.metrics import image_metrics


def score(detector: Detector, samples: Sequence[Sample]) -> dict[Path, float]:
    """Score images, without maps."""
    paths = [sample.path for sample in samples]
    found = detector.stream(paths, maps=False)
    return {path: prediction.score for path, prediction in zip(paths, found, strict=True)}


def measure(products: Sequence[Dataset], settings: Settings) -> list[dict[str, object]]:
    """Train a model for each product and one for all, and count."""
    everything = dataclasses.replace(
        products[0], name="all", train=tuple(sample for of in products for sample in of.train)
    )
    tests = [sample for of in products for sample in of.test]
    of_all = fit(everything, settings)
    joint = score(of_all, tests)
    rows: list[dict[str, object]] = []
    for product in products:
        own = fit(product, settings)
        defective = [not sample.is_good for sample in product.test]
        others = [s for s in tests if s.is_good and s not in product.test]
        for name, detector, scores in (
            ("its own", own, score(own, tests)),
            ("all", of_all, joint),
        ):
            alarms = [scores[s.path] > detector.threshold for s in product.test if s.is_good]
            misses = [scores[s.path] <= detector.threshold for s in product.test if not s.is_good]
            passed = [scores[s.path] <= detector.threshold for s in others]
            area = image_metrics([scores[s.path] for s in product.test], defective).auroc
            rows.append(
                {
                    "product": product.name,
                    "model of": name,
                    "false alarms": f"{sum(alarms)} of {len(alarms)}",
                    "misses": f"{sum(misses)} of {len(misses)}",
                    "image AUROC": f"{100 * area:.1f}",
                    "others' good parts taken for good": f"{sum(passed)} of {len(passed)}",
                }
            )
    return rows


def main() -> None:
    """Measure, and print a table."""
    parser = build_parser(__doc__)
    parser.add_argument("data", nargs="*", type=Path, metavar="DATA")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--folds", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.preset(options.preset, folds=options.folds)
        if options.quick:
            settings = Settings.preset("default", **QUICK)
            options.data = [Path(folder) / name for name in ("first", "second")]
            for seed, path in enumerate(options.data):
                write_carpet(path, train=8, good=2, per_defect=1, size=64, seed=seed)
        if len(options.data) < 2:
            raise SystemExit("name the data sets of several products, or give --quick")
        products = [open_dataset(path) for path in options.data]
        paths = [sample.path for of in products for sample in of.train]
        warning = describe_cluster(*look_at_some(paths))
        rows = measure(products, settings)
    print(f"warning: {warning or 'none'}\n")
    print(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    report({"warning": warning, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
