"""The evaluation as one HTML file that needs nothing else: to read, to mail, to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from cflow_ad._version import __version__
from cflow_ad.errors import DataError
from cflow_ad.evaluation import _wording as wording
from cflow_ad.evaluation._charts import Line, curve_chart, interval_chart, score_chart
from cflow_ad.evaluation._examples import choose, show
from cflow_ad.evaluation._pages import render
from cflow_ad.evaluation.metrics import PixelResult, ScoreMetrics
from cflow_ad.evaluation.overlay import jet_table, map_scale
from cflow_ad.files import replacing
from cflow_ad.scoring.prediction import Prediction

if TYPE_CHECKING:
    from cflow_ad.evaluation.evaluate import Evaluation

_SECTIONS = ("calibration", "settings", "training", "encoder")  # of Detector.info, in this order
_NAMES = {
    "sha256": "SHA-256 of its weights",
    "achieved_rate": "promised false-alarm rate",
    "false_alarm_rate": "requested false-alarm rate",
    "fingerprint": "fingerprint of its images",
    "n_images": "images",
    "schema": "model file schema",
    "version": "written by cflow-ad",
}
_RATES = ("achieved_rate", "false_alarm_rate")

# Pixels of a picture: what a screen shows of it, as far as a page of a few MB has room.
_LONGEST, _LONGEST_OF_MANY, _MANY = 384, 320, 20


def write_report(
    evaluation: Evaluation,
    predict: Callable[[Path], Prediction],
    path: Path,
    *,
    examples: int = 12,
) -> None:
    """Write the report. An interrupted write leaves a file that was there before as it was.

    Args:
        evaluation: what to report.
        predict: what the detector says of an image file; called once for each image shown.
        path: the HTML file; its folder must exist.
        examples: the most images to show of each kind: misses, false alarms, typical ones.

    Raises:
        DataError: the file cannot be written.
    """
    page = render("report.html.j2", _content(evaluation, predict, examples))
    try:
        with replacing(path) as new:
            # Of all that is in it, a file name alone may be no Unicode.
            new.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: the report cannot be written ({error.strerror})") from error


def _content(
    evaluation: Evaluation, predict: Callable[[Path], Prediction], examples: int
) -> dict[str, Any]:
    """All that the template fills in."""
    dataset, confusion = evaluation.dataset, evaluation.confusion
    scale = map_scale(evaluation.threshold)
    chosen = choose(evaluation.images, examples)
    longest = _LONGEST if chosen.n_shown <= _MANY else _LONGEST_OF_MANY
    pictures = {
        kind: [
            show(record, predict, root=dataset.root, scale=scale, longest=longest)
            for record in records
        ]
        for kind, records in (
            ("misses", chosen.misses),
            ("false_alarms", chosen.false_alarms),
            ("typical", chosen.typical),
        )
    }
    return {
        "name": dataset.name,
        "verdict": wording.verdict(evaluation),
        "promise": wording.promise(evaluation),
        "realised": wording.realised(evaluation),
        "caveats": wording.caveats(evaluation),
        "tiles": _tiles(evaluation),
        "metrics": _metrics(evaluation),
        "has_reference": evaluation.reference is not None,
        "why": _reasons(evaluation),
        "threshold": wording.number(evaluation.threshold),
        "alarms": evaluation.false_alarms,
        "promised": wording.percent(wording.promised_rate(evaluation)),
        "interval": _interval(evaluation),
        "confusion": confusion,
        "ratios": ", ".join(
            f"{name} {wording.percent(getattr(confusion, name))}"
            for name in ("accuracy", "precision", "recall")
            if math.isfinite(getattr(confusion, name))
        ),
        "n_defect": confusion.tp + confusion.fn,
        "n_good": confusion.fp + confusion.tn,
        "defects": _defects(evaluation),
        "histograms": _histograms(evaluation),
        "best_threshold": wording.number(evaluation.image.best_f1_threshold),
        "curves": _curves(evaluation),
        "chosen": chosen,
        "pictures": pictures,
        "scale": tuple(wording.number(end) for end in scale),
        "gradient": ", ".join("#{:02x}{:02x}{:02x}".format(*jet_table()[i]) for i in _STOPS),
        "skipped": [
            (_relative(path, dataset.root), why.removeprefix(f"{path}: "))
            for path, why in evaluation.skipped
        ],
        "details": _details(evaluation),
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "percent": wording.percent,
        "count": wording.count,
        "dash": wording.DASH,
    }


_STOPS = [round(255 * share / 16) for share in range(17)]


@dataclass(frozen=True)
class Cell:
    """One value of a table, and why it has none."""

    text: str
    why: str = ""
    share: float | None = None
    """Drawn as a bar behind the text, in `[0, 1]`."""


def _tiles(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """The first numbers to look at: name, value, what it stands for."""
    confusion, pixel = evaluation.confusion, evaluation.pixel
    n_defect, n_good = confusion.tp + confusion.fn, confusion.fp + confusion.tn
    tiles = []
    if n_defect:
        of = f"{confusion.tp:,} of {wording.count(n_defect, 'defective image')}"
        tiles.append(("Found", wording.percent(confusion.recall), of))
    if n_good:
        of = f"{confusion.fp:,} of {wording.count(n_good, 'good image')}"
        tiles.append(("False alarms", wording.percent(confusion.false_alarm_rate), of))
    shown = [("Image AUROC", evaluation.image.auroc, "which image is defective")]
    if pixel is not None:
        shown.append(("Pixel AUROC", pixel.auroc, "which pixel is defective"))
        shown.append(("AUPRO", pixel.aupro, "how much of each defect"))
    tiles += [
        (name, f"{wording.metric(value)}%", of) for name, value, of in shown if math.isfinite(value)
    ]
    return tiles


def _metrics(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    rows = []
    of_kind: list[tuple[str, ScoreMetrics | PixelResult | None]] = [
        ("Images", evaluation.image),
        ("Pixels", evaluation.pixel),
    ]
    if (reference := evaluation.reference) is not None:
        of_kind += [
            ("Images, reference", reference.image),
            ("Pixels, reference", reference.pixel),
        ]
    for name, result in of_kind:
        is_pixel = name.startswith("Pixels")
        why = wording.why_undefined(evaluation, pixel=is_pixel)
        cells = [Cell(*_value(result, key, why)) for key in ("auroc", "average_precision")]
        cells.append(Cell(*_value(result, "best_f1", why)))
        threshold = math.nan if result is None else result.best_f1_threshold
        cells.append(Cell(wording.number(threshold), why))
        aupro_why = why or ("" if is_pixel else "it is defined for pixels only")
        cells.append(Cell(*_value(result, "aupro", aupro_why)))
        rows.append((name, cells))
    return rows


def _value(result: ScoreMetrics | PixelResult | None, name: str, why: str) -> tuple[str, str]:
    """A metric in percent, without the sign, and the reason where it has no value."""
    value = getattr(result, name, math.nan)
    return wording.metric(value), "" if math.isfinite(value) else why


def _reasons(evaluation: Evaluation) -> list[str]:
    """Why metrics of the whole test set have no value, in sentences."""
    reasons = [wording.why_undefined(evaluation, pixel=pixel) for pixel in (False, True)]
    if reasons[0] == reasons[1] and reasons[0]:
        return [f"Not defined ({wording.DASH}): {reasons[0]}."]
    return [
        f"Not defined for {kind} ({wording.DASH}): {reason}."
        for kind, reason in zip(("images", "pixels"), reasons, strict=True)
        if reason
    ]


def _interval(evaluation: Evaluation) -> Markup | None:
    alarms = evaluation.false_alarms
    if not alarms.trials:
        return None
    return interval_chart(alarms.rate, alarms.interval, wording.promised_rate(evaluation))


def _defects(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    rows = []
    for name, result in evaluation.per_defect.items():
        found = round(result.recall * result.n_images) if math.isfinite(result.recall) else 0
        image_why = wording.why_undefined(evaluation, result, pixel=False)
        pixel_why = wording.why_undefined(evaluation, result, pixel=True)
        cells = [
            Cell(f"{result.n_images:,}"),
            Cell(f"{found:,} ({wording.percent(result.recall, 0)})", share=result.recall),
            Cell(*_value(result.image, "auroc", image_why)),
            Cell(*_value(result.image, "average_precision", image_why)),
            Cell(*_value(result.pixel, "auroc", pixel_why)),
            Cell(*_value(result.pixel, "average_precision", pixel_why)),
            Cell(*_value(result.pixel, "aupro", pixel_why)),
        ]
        rows.append((name, cells))
    return rows


def _histograms(evaluation: Evaluation) -> list[Markup]:
    """A wide one and a narrow one; the page shows the one that fits."""
    if not evaluation.images:
        return []
    good = np.array([r.score for r in evaluation.images if r.sample.is_good], dtype=np.float64)
    defect = np.array([r.score for r in evaluation.images if not r.sample.is_good], np.float64)
    return [
        score_chart(
            good,
            defect,
            threshold=evaluation.threshold,
            best=evaluation.image.best_f1_threshold,
            width=width,
            bins=bins,
        )
        for width, bins in ((1000, 60), (360, 28))
    ]


def _curves(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Each chart with its name and legend; without a chart where nothing is defined."""
    image, pixel, confusion = evaluation.image, evaluation.pixel, evaluation.confusion
    at_roc = (confusion.false_alarm_rate, confusion.recall)
    at_pr = (confusion.recall, confusion.precision)
    charts: list[dict[str, Any]] = []
    for name, x_name, y_name, attribute, area in (
        ("ROC", "false positive rate", "true positive rate", "roc", "auroc"),
        (
            "Precision and recall",
            "recall",
            "precision",
            "precision_recall",
            "average_precision",
        ),
        ("Per-region overlap", "false positive rate", "overlap", "pro", "aupro"),
    ):
        point = {"roc": at_roc, "precision_recall": at_pr}.get(attribute)
        lines, legend = [], []
        for kind, result in (("image", image), ("pixel", pixel)):
            curve = getattr(result, attribute, None)
            if curve is None or not curve.x.size:
                continue
            marked = kind == "image" and point is not None and all(map(math.isfinite, point))
            lines.append(Line(kind, curve, point if marked else None))
            value = wording.metric(getattr(result, area))
            unit = {"auroc": "AUROC", "average_precision": "AP", "aupro": "AUPRO"}[area]
            legend.append((kind, f"{kind}s, {unit} {value}%"))
        if attribute == "pro":
            why = wording.why_undefined(evaluation, pixel=True)
        else:
            why = wording.why_undefined(evaluation, pixel=False)
        charts.append(
            {
                "name": name,
                "chart": curve_chart(lines, x_name=x_name, y_name=y_name, title=f"{name} curve")
                if lines
                else None,
                "legend": legend,
                "marked": any(line.point for line in lines),
                "why": why,
            }
        )
    return charts


def _details(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of names and values: the data, then all that the detector says of itself."""
    dataset, detector = evaluation.dataset, evaluation.detector
    data = [
        ("name", dataset.name),
        ("folder", str(dataset.root)),
        ("layout", str(dataset.layout)),
        ("training images", f"{len(dataset.train):,}"),
        ("test images", f"{len(evaluation.images):,}"),
        ("evaluation took", f"{evaluation.seconds:.1f} s"),
    ]
    if evaluation.pixel is not None:
        data.insert(5, ("test pixels", f"{evaluation.pixel.n_pixels:,}"))
        data.insert(6, ("true regions", f"{evaluation.pixel.n_regions:,}"))
    data += [("note", note) for note in dataset.notes]
    plain = {key: value for key, value in detector.items() if not isinstance(value, Mapping)}
    parts = {key: value for key, value in detector.items() if isinstance(value, Mapping)}
    order = [key for key in _SECTIONS if key in parts] + sorted(set(parts) - set(_SECTIONS))
    tables = [("Test data", data), ("Model", _rows(plain))]
    tables += [(key.replace("_", " ").capitalize(), _rows(parts[key])) for key in order]
    return [(name, rows) for name, rows in tables if rows]


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = prefix + _NAMES.get(key, str(key).replace("_", " "))
        if isinstance(value, Mapping):
            rows += _rows(value, f"{name}, ")
        elif value is not None and value != "":
            rate = key in _RATES and isinstance(value, float)
            rows.append((name, wording.percent(value, 2) if rate else _plain(value, key)))
    return rows


def _plain(value: object, key: str = "") -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f} s" if key == "seconds" else f"{value:.6g}"
        case str():
            return value
        case Sequence():
            return ", ".join(_plain(item) for item in value)
    return str(value)


def _relative(path: str, root: Path) -> str:
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
