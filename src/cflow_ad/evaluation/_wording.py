"""The words of the report and of the printed tables: numbers, and sentences about the results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_ad.evaluation.tradeoff import select_operations

if TYPE_CHECKING:
    from cflow_ad.evaluation.evaluation import Evaluation

DASH = "–"


def number(value: float) -> str:
    """A score, to three digits.

    >>> number(1.8), number(0.01234), number(12345.6), number(0), number(float("nan"))
    ('1.80', '0.0123', '12,346', '0', '–')
    """
    if not math.isfinite(value):
        return DASH
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, with its sign; round numbers without decimals.

    >>> percent(0.0476), percent(0.05), percent(float("nan"))
    ('4.8%', '5%', '–')
    """
    if not math.isfinite(share):
        return DASH
    text = f"{100 * share:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if digits else text) + "%"


def metric(share: float | None) -> str:
    """A metric in percent, without the sign; a dash where it is undefined.

    >>> metric(0.98), metric(float("nan")), metric(None)
    ('98.00', '–', '–')
    """
    return DASH if share is None or math.isnan(share) else f"{100 * share:.2f}"


def count(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "good image"), count(1200, "good image")
    ('1 good image', '1,200 good images')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def plain(value: object) -> str:
    """Any value of a model's metadata, for a person to read.

    >>> plain([8, 16]), plain({"a": 0.25, "b": None}), plain(True)
    ('8, 16', 'a 0.25; b', 'yes')
    """
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(plain, value))
        case Mapping():
            return "; ".join(f"{name} {plain(each)}".rstrip() for name, each in value.items())
    return str(value)


_FOR_PROGRAMS = ("scores", "peaks", "defects", "hashes")
"""Long lists of a model's metadata."""


def sections(info: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """A model's metadata as text, by section and name; values outside a section are in `model`.

    >>> sections({"version": "1", "training": {"seconds": 2.5, "excluded": None}})
    {'model': {'version': '1'}, 'training': {'seconds': '2.5', 'excluded': ''}}
    """
    found: dict[str, dict[str, str]] = {"model": {}}
    for name, value in info.items():
        if isinstance(value, Mapping):
            found[name] = {
                str(key): plain(each) for key, each in value.items() if key not in _FOR_PROGRAMS
            }
        else:
            found["model"][name] = plain(value)
    return {name: values for name, values in found.items() if values}


def summarise(evaluation: Evaluation) -> str:
    """How many defects were found and how many false alarms there were, in one sentence."""
    confusion = evaluation.confusion
    n_defect, n_good = confusion.tp + confusion.fn, confusion.fp + confusion.tn
    alarms = count(confusion.fp, "false alarm")
    if not n_defect:
        return f"Raises {alarms} on {count(n_good, 'good image')}."
    share = "all" if confusion.tp == n_defect > 1 else f"{confusion.tp:,} of"
    found = f"Finds {share} {count(n_defect, 'defective image')}"
    return f"{found}, with {alarms} on {count(n_good, 'good image')}." if n_good else f"{found}."


def list_caveats(evaluation: Evaluation) -> list[str]:
    """What these test images cannot show, in sentences."""
    confusion = evaluation.confusion
    caveats = []
    if not confusion.fp + confusion.tn:
        caveats.append(
            "There are no good test images: the false-alarm rate and the areas of images are not "
            "defined."
        )
    if not confusion.tp + confusion.fn:
        caveats.append("There are no defective test images: recall and all areas are not defined.")
    elif evaluation.pixel is None:
        caveats.append("No defective test image has a mask: metrics of pixels are not defined.")
    if evaluation.trained_on:
        caveats.append(describe_trained(evaluation))
    if evaluation.skipped:
        n_skipped = count(len(evaluation.skipped), "unreadable image")
        caveats.append(f"{n_skipped} skipped, and not counted here.")
    return caveats


def describe_trained(evaluation: Evaluation) -> str:
    """That the model was trained on test images; empty where it was not."""
    known = evaluation.trained_on
    if not known:
        return ""
    first = evaluation.dataset.relative(Path(known[0]))
    return (
        f"The model was trained on {len(known):,} of these test images, such as {first}. They "
        "score lower than new images, so the figures are too good."
    )


def describe_lowest(evaluation: Evaluation) -> str:
    """The lowest score of a defective image, and the false alarms that finding it would cost."""
    of = evaluation.tradeoff
    if of is None:
        return ""
    image = evaluation.dataset.relative(Path(of.lowest_image))
    text = f"The lowest score of a defective image is {number(of.lowest)} ({image})"
    at = of.operations[0]
    if at.threshold >= evaluation.threshold:
        return f"{text}, above the threshold: no defective image is missed."
    if not of.n_good:
        return f"{text}; there are no good images to count false alarms of a threshold below it."
    low, high = map(percent, at.alarm_interval)
    rate = percent(at.alarms / of.n_good)
    return (
        f"{text}. A threshold below it would find all {of.n_defects}, with "
        f"{count(at.alarms, 'false alarm')} on {count(of.n_good, 'good image')} ({rate}, 95% "
        f"interval {low} to {high}); `cflow-ad calibrate --miss-nothing` sets one."
    )


def list_operations(evaluation: Evaluation) -> list[list[str]]:
    """The rows of the table of thresholds: threshold, found and false alarms with intervals."""
    of = evaluation.tradeoff
    if of is None:
        return []
    rows = []
    for at in select_operations(of):
        shares = []
        for n, total, (low, high) in (
            (at.found, of.n_defects, at.found_interval),
            (at.alarms, of.n_good, at.alarm_interval),
        ):
            shares += [f"{n:,} of {total:,}", f"{percent(low)} to {percent(high)}"]
        rows.append([f"{at.threshold:.3f}", *shares])
    return rows


def compare_alarms(evaluation: Evaluation) -> str:
    """The measured false-alarm rate with its interval, beside what the calibration promises."""
    alarms = evaluation.false_alarms
    if not alarms.trials:
        return ""
    low, high = alarms.interval
    measured = (
        f"On this test set {alarms.count:,} of {count(alarms.trials, 'good image')} were called "
        f"anomalous: {percent(alarms.rate)}, with a 95% interval of {percent(low)} to "
        f"{percent(high)}"
    )
    if math.isnan(alarms.promised):
        return measured + "."
    promised = f"the promised {percent(alarms.promised)}"
    if alarms.promised < low:
        return (
            f"{measured}. This is more than {promised}: these images differ from the calibration "
            "images in parts, light or camera."
        )
    agrees = alarms.promised <= high
    return f"{measured}, {'in agreement with' if agrees else 'less than'} {promised}."
