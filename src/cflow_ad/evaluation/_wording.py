"""What the report says in words: numbers, the verdict, and what the threshold promises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cflow_ad.evaluation.metrics import PixelResult
from cflow_ad.scoring.threshold import images_needed

if TYPE_CHECKING:
    from cflow_ad.evaluation.evaluate import DefectResult, Evaluation

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


def metric(share: float) -> str:
    """A metric in percent, without the sign.

    >>> metric(0.98), metric(float("nan"))
    ('98.00', '–')
    """
    return f"{100 * share:.2f}" if math.isfinite(share) else DASH


def count(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "good image"), count(1200, "good image")
    ('1 good image', '1,200 good images')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def verdict(evaluation: Evaluation) -> str:
    """What happened to the test images, in one sentence."""
    confusion = evaluation.confusion
    n_defect, n_good = confusion.tp + confusion.fn, confusion.fp + confusion.tn
    alarms = count(confusion.fp, "false alarm")
    if n_defect and n_good:
        found = f"Finds {_found(confusion.tp, n_defect)}"
        return f"{found}, with {alarms} on {count(n_good, 'good one')}."
    if n_defect:
        return f"Finds {_found(confusion.tp, n_defect)}."
    if n_good:
        return f"Raises {alarms} on {count(n_good, 'good image')}."
    return "No image was evaluated."


def caveats(evaluation: Evaluation) -> list[str]:
    """What the test images cannot tell, in sentences."""
    confusion = evaluation.confusion
    said = []
    if not confusion.fp + confusion.tn:
        said.append(
            "There are no good images in the test set, so this page does not show how often the "
            "detector raises a false alarm."
        )
    if not confusion.tp + confusion.fn:
        said.append(
            "There are no defective images in the test set, so this page does not show what the "
            "detector finds."
        )
    elif evaluation.pixel is None:
        said.append(
            "No defective image has a ground-truth mask, so this page does not show how well "
            "defects are outlined."
        )
    if evaluation.skipped:
        said.append(
            f"{count(len(evaluation.skipped), 'image')} could not be read and "
            f"{'is' if len(evaluation.skipped) == 1 else 'are'} not counted."
        )
    return said


def promise(evaluation: Evaluation) -> str:
    """What the threshold promises for good images, and what was asked of it."""
    calibration = section(evaluation.detector, "calibration")
    asked = _share(calibration.get("false_alarm_rate"))
    promised = promised_rate(evaluation)
    n = calibration.get("n_images")
    images = count(n, "good image") if isinstance(n, int) else "good images"
    threshold = f"The stored threshold, {number(evaluation.threshold)},"
    if not _is_held_out(evaluation):
        return (
            f"{threshold} was set on the {images} that the model learned from, because none were "
            "held out of training. It promises no false-alarm rate."
        )
    if not math.isfinite(promised):
        return f"{threshold} promises no false-alarm rate."
    rate = f"at most {percent(promised)} of good images like those it was set on"
    if not math.isfinite(asked) or promised <= asked * (1 + 1e-9):
        wish = "" if not math.isfinite(asked) else f"; {percent(asked)} was asked for"
        return (
            f"{threshold} promises to call {rate} anomalous. It was set on {images} held out of "
            f"training{wish}."
        )
    return (
        f"{threshold} promises to call {rate} anomalous. That is more than the {percent(asked)} "
        f"asked for: the {images} held out of training allow no less, and "
        f"{percent(asked)} takes {images_needed(asked):,} or more."
    )


def promised_rate(evaluation: Evaluation) -> float:
    """The false-alarm rate that the threshold promises; `nan` where it promises none."""
    return evaluation.false_alarms.promised if _is_held_out(evaluation) else math.nan


def realised(evaluation: Evaluation) -> str:
    """What became of the promise on this test set."""
    alarms = evaluation.false_alarms
    if not alarms.trials:
        return ""
    low, high = alarms.interval
    of = f"{alarms.count:,} of {count(alarms.trials, 'good image')}"
    measured = (
        f"On this test set {of} {'was' if alarms.count == 1 else 'were'} called anomalous: "
        f"{percent(alarms.rate)}, and with 95% confidence between {percent(low)} and "
        f"{percent(high)}"
    )
    promised = promised_rate(evaluation)
    if not math.isfinite(promised):
        return measured + "."
    if promised < low:
        return (
            measured + ". That is more than promised: these good images differ from those that the "
            "threshold was set on, by the parts, the light or the camera."
        )
    if promised > high:
        return measured + ", less than promised."
    return measured + ", which agrees with the promise."


def why_undefined(
    evaluation: Evaluation, result: DefectResult | None = None, *, pixel: bool
) -> str:
    """Why a metric has no value, or an empty text where it has one.

    Args:
        evaluation: of all images.
        result: of one defect type instead.
        pixel: whether pixels are meant, or images.
    """
    of: Evaluation | DefectResult = evaluation if result is None else result
    confusion = evaluation.confusion
    if not confusion.tp + confusion.fn:
        return "there are no defective test images"
    if pixel and of.pixel is None:
        return "no defective image has a mask" if result is None else "its images have no masks"
    if pixel and of.pixel is not None and math.isnan(of.pixel.auroc):
        return _empty_pixels(of.pixel)
    if not pixel and math.isnan(of.image.auroc):
        return "there are no good test images to tell them from"
    return ""


def section(detector: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One part of what a detector says of itself; empty where it is missing."""
    part = detector.get(name)
    return part if isinstance(part, Mapping) else {}


def _empty_pixels(pixel: PixelResult) -> str:
    if not pixel.n_defect_pixels:
        return "the masks are empty"
    return "no pixel is good"


def _is_held_out(evaluation: Evaluation) -> bool:
    return section(evaluation.detector, "calibration").get("held_out") is not False


def _found(found: int, n: int) -> str:
    if found == n == 1:
        return "the one defective image"
    return f"{'all' if found == n else f'{found:,} of'} {n:,} defective images"


def _share(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
