"""The evaluation as one HTML file that contains all it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cflow_ad._version import __version__
from cflow_ad.data.images import read_image
from cflow_ad.evaluation import _wording as wording
from cflow_ad.evaluation._charts import curve_chart, score_chart, tradeoff_chart
from cflow_ad.evaluation._examples import Example, PixelsOf, choose_examples, draw_example
from cflow_ad.evaluation._pages import Picture, render
from cflow_ad.evaluation.metrics import ScoreMetrics
from cflow_ad.evaluation.overlay import jet_table, map_scale
from cflow_ad.files import replacing, writing
from cflow_ad.scoring.prediction import Prediction

if TYPE_CHECKING:
    from cflow_ad.evaluation.evaluation import Evaluation, ImageRecord

_LONGEST, _LONGEST_OF_MANY, _MANY = 384, 320, 20
"""Pixels of a picture's longer side, and with more than `_MANY` images, for a page of a few MB."""


class Group(NamedTuple):
    """Examples of one kind."""

    title: str
    note: str
    examples: list[Example]


def write_report(
    evaluation: Evaluation,
    predict: Callable[[Path], Prediction],
    path: Path,
    *,
    examples: int = 12,
    pixels_of: PixelsOf = read_image,
) -> None:
    """Write the report. An interrupted write leaves an existing file unchanged.

    Args:
        evaluation: what to report.
        predict: gives the prediction of an image file; called once for each image shown.
        path: the HTML file; its folder must exist.
        examples: the most images to show of each kind: misses, false alarms, typical ones.
        pixels_of: gives the pixels of an image file.

    Raises:
        DataError: the file cannot be written.
    """
    page = render("report.html.j2", _content(evaluation, predict, examples, pixels_of))
    with writing("report", path), replacing(path) as new:
        # A file name may hold bytes that are not Unicode.
        new.write_text(page, encoding="utf-8", errors="replace")


def _content(
    evaluation: Evaluation,
    predict: Callable[[Path], Prediction],
    examples: int,
    pixels_of: PixelsOf,
) -> dict[str, Any]:
    """The values of the template."""
    dataset, reference = evaluation.dataset, evaluation.reference
    scale = map_scale(evaluation.map_threshold)
    metrics = [_row("Images", evaluation.image), _row("Pixels", evaluation.pixel)]
    if reference is not None:
        metrics.append(_row("Images, reference", reference.image))
        metrics.append(_row("Pixels, reference", reference.pixel))
    return {
        "name": dataset.name,
        "summary": wording.summarise(evaluation),
        "promise": wording.sections(evaluation.detector).get("calibration", {}).get("note", ""),
        "alarms": wording.compare_alarms(evaluation),
        "caveats": wording.list_caveats(evaluation),
        "tiles": _tiles(evaluation),
        "metrics": metrics,
        "has_reference": reference is not None,
        "threshold": wording.number(evaluation.threshold),
        "map_threshold": wording.number(evaluation.map_threshold),
        "confusion": evaluation.confusion,
        "defects": _defects(evaluation),
        "histogram": _histogram(evaluation),
        "curves": _curves(evaluation),
        "operations": wording.list_operations(evaluation),
        "lowest": wording.describe_lowest(evaluation),
        "tradeoff": _tradeoff(evaluation),
        "groups": _groups(evaluation, predict, pixels_of, scale, examples),
        "scale": tuple(wording.number(end) for end in scale),
        "gradient": ", ".join("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in jet_table()[::15]),
        "skipped": [
            (_relative(Path(path), dataset.root), why.removeprefix(f"{path}: "))
            for path, why in evaluation.skipped
        ],
        "details": _details(evaluation),
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _tiles(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """The most important numbers: name, value, meaning."""
    confusion, pixel = evaluation.confusion, evaluation.pixel
    defects = wording.count(confusion.tp + confusion.fn, "defective image")
    good = wording.count(confusion.fp + confusion.tn, "good image")
    shares = [
        ("Found", confusion.recall, f"{confusion.tp:,} of {defects}"),
        ("False alarms", confusion.false_alarm_rate, f"{confusion.fp:,} of {good}"),
    ]
    areas = [("Image AUROC", evaluation.image.auroc, "defective against good images")]
    if pixel is not None:
        areas.append(("Pixel AUROC", pixel.auroc, "defective against good pixels"))
        areas.append(("AUPRO", pixel.aupro, "mean share found of a defect"))
    tiles = [(name, wording.percent(value), of, value) for name, value, of in shares]
    tiles += [(name, f"{wording.metric(value)}%", of, value) for name, value, of in areas]
    return [(name, text, of) for name, text, of, value in tiles if math.isfinite(value)]


def _row(name: str, result: ScoreMetrics | None) -> tuple[str, list[str]]:
    """One row of the table of metrics, in the order of its columns."""
    names = ("auroc", "average_precision", "best_f1")
    cells = [wording.metric(getattr(result, each, None)) for each in names]
    threshold = math.nan if result is None else result.best_f1_threshold
    return name, [*cells, wording.number(threshold), wording.metric(getattr(result, "aupro", None))]


def _defects(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """One row for each defect type."""
    rows = []
    for name, result in evaluation.per_defect.items():
        found = f"{round(result.recall * result.n_images):,} ({wording.percent(result.recall, 0)})"
        (_, image), (_, pixel) = _row("", result.image), _row("", result.pixel)
        rows.append((name, [f"{result.n_images:,}", found, *image[:2], *pixel[:2], pixel[-1]]))
    return rows


def _histogram(evaluation: Evaluation) -> Picture | None:
    if not evaluation.images:
        return None
    good, defect = (
        np.array([r.score for r in evaluation.images if r.sample.is_good == is_good], np.float64)
        for is_good in (True, False)
    )
    best = evaluation.image.best_f1_threshold
    return score_chart(good, defect, threshold=evaluation.threshold, best=best)


def _tradeoff(evaluation: Evaluation) -> Picture | None:
    of = evaluation.tradeoff
    if of is None or not of.n_good:
        return None
    return tradeoff_chart(of, threshold=evaluation.threshold)


def _curves(evaluation: Evaluation) -> list[Picture]:
    """The charts whose curves are defined."""
    confusion = evaluation.confusion
    points = {
        "roc": (confusion.false_alarm_rate, confusion.recall),
        "precision_recall": (confusion.recall, confusion.precision),
    }
    charts = []
    for name, field, area, unit, x_name, y_name in (
        ("ROC", "roc", "auroc", "AUROC", "false positive rate", "true positive rate"),
        ("Precision-recall", "precision_recall", "average_precision", "AP", "recall", "precision"),
        ("Per-region overlap", "pro", "aupro", "AUPRO", "false positive rate", "overlap"),
    ):
        curves = {}
        for kind, result in (("images", evaluation.image), ("pixels", evaluation.pixel)):
            curve = getattr(result, field, None)
            if curve is not None and curve.x.size:
                curves[f"{kind}, {unit} {wording.metric(getattr(result, area))}%"] = curve
        if curves:
            point = points.get(field)
            charts.append(curve_chart(name, curves, x_name=x_name, y_name=y_name, point=point))
    return charts


def _groups(
    evaluation: Evaluation,
    predict: Callable[[Path], Prediction],
    pixels_of: PixelsOf,
    scale: tuple[float, float],
    most: int,
) -> list[Group]:
    misses, alarms, typical = choose_examples(evaluation.images, most)
    n_shown = len(misses) + len(alarms) + len(typical)
    longest = _LONGEST if n_shown <= _MANY else _LONGEST_OF_MANY

    def draw(records: Sequence[ImageRecord]) -> list[Example]:
        names = [_relative(record.sample.path, evaluation.dataset.root) for record in records]
        return [
            draw_example(record, predict, pixels_of, name=name, scale=scale, longest=longest)
            for name, record in zip(names, records, strict=True)
        ]

    def first(shown: Sequence[ImageRecord], of: int) -> str:
        return "." if len(shown) == of else f"; the first {len(shown)}."

    n_misses, n_alarms = evaluation.confusion.fn, evaluation.confusion.fp
    groups = [
        Group(
            wording.count(n_misses, "miss", "misses"),
            f"Defective images that passed, lowest score first{first(misses, n_misses)}",
            draw(misses),
        ),
        Group(
            wording.count(n_alarms, "false alarm"),
            f"Good images called anomalous, highest score first{first(alarms, n_alarms)}",
            draw(alarms),
        ),
        Group("Typical images", "From the middle of the scores of each kind.", draw(typical)),
    ]
    return [group for group in groups if group.examples]


def _details(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """Tables of names and values: the test data, then the model's metadata."""
    dataset, pixel = evaluation.dataset, evaluation.pixel
    data = {
        "name": dataset.name,
        "folder": str(dataset.root),
        "layout": str(dataset.layout),
        "training images": f"{len(dataset.train):,}",
        "test images": f"{len(evaluation.images):,}",
        "notes": " ".join(dataset.notes),
        "seconds": f"{evaluation.seconds:.1f}",
    }
    if pixel is not None:
        data |= {"test pixels": f"{pixel.n_pixels:,}", "defective regions": f"{pixel.n_regions:,}"}
    tables = {"test data": data, **wording.sections(evaluation.detector)}
    return {
        name.capitalize(): {key.replace("_", " "): value for key, value in rows.items() if value}
        for name, rows in tables.items()
    }


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
