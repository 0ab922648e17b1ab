"""The charts of the report, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cflow_ad.evaluation._pages import Picture, data_uri
from cflow_ad.evaluation._wording import number
from cflow_ad.evaluation.curves import Curve
from cflow_ad.evaluation.tradeoff import Tradeoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GOOD, _DEFECT, _WRONG = "#2f6fa7", "#c46a1b", "#b3261e"
_IMAGE, _PIXEL, _INK = "#4a4fb0", "#0d7a6b", "#1b2127"
_DPI = 160
_BINS = 50
_LOG_BEYOND = 5.0
"""Times the threshold. Where a score lies further out, a linear axis squeezes all others."""


def curve_chart(
    name: str,
    curves: Mapping[str, Curve],
    *,
    x_name: str,
    y_name: str,
    point: tuple[float, float] | None = None,
) -> Picture:
    """Draw curves in percent, by labels that start with `images` or `pixels`; and mark a point."""
    figure, axes = _axes(3.6, 3.2)
    for label, curve in curves.items():
        thinned = curve.thinned(300)
        colour = _PIXEL if label.startswith("pixels") else _IMAGE
        axes.plot(100 * thinned.x, 100 * thinned.y, color=colour, label=label)
    if point is not None and all(map(math.isfinite, point)):
        x, y = point
        axes.plot(100 * x, 100 * y, "o", color=_IMAGE, fillstyle="none", label="stored threshold")
    axes.set(xlabel=f"{x_name}, %", ylabel=f"{y_name}, %", ylim=(-2, 102))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    return _picture(figure, name, f"{name} curve")


def score_chart(
    good: NDArray[np.float64], defect: NDArray[np.float64], *, threshold: float, best: float
) -> Picture:
    """Draw the histograms of good and of defective images' scores, one of which may be empty.

    The threshold is an edge of the bins, so that images on its wrong side have bars of their own.
    `best` is the threshold with the best F1; `nan` where it is undefined.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(8.0, 2.8)
    scores = np.concatenate([good, defect])
    edges, is_log = _bin_edges(scores, threshold)
    is_above, widths = edges[:-1] >= threshold, np.diff(edges)
    for label, values, colour in (("good", good, _GOOD), ("defective", defect, _DEFECT)):
        if values.size:
            counts = np.histogram(values, edges)[0]
            axes.bar(edges[:-1], counts, widths, align="edge", label=label, color=colour, alpha=0.7)
            wrong = (is_above == (label == "good")) & (counts > 0)
            bars = edges[:-1][wrong], counts[wrong], widths[wrong]
            axes.bar(*bars, align="edge", color="none", edgecolor=_WRONG, linewidth=1.2, zorder=3)
    axes.axvline(threshold, color=_INK, label=f"stored threshold, {number(threshold)}")
    if math.isfinite(best):
        axes.axvline(best, color=_INK, ls="--", lw=1, label=f"best F1 at {number(best)}")
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="image score", ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=8)
    title = f"Histogram of the scores of {good.size} good and {defect.size} defective images"
    return _picture(figure, "Scores", title)


def tradeoff_chart(tradeoff: Tradeoff, *, threshold: float) -> Picture:
    """Draw the shares of defects found and of false alarms by threshold, with their intervals."""
    figure, axes = _axes(8.0, 2.8)
    at = tradeoff.operations
    thresholds = [one.threshold for one in at]
    for label, shares, bounds, colour in (
        (
            "defects found",
            [one.found / tradeoff.n_defects for one in at],
            [one.found_interval for one in at],
            _DEFECT,
        ),
        (
            "false alarms",
            [one.alarms / tradeoff.n_good for one in at],
            [one.alarm_interval for one in at],
            _GOOD,
        ),
    ):
        low, high = 100 * np.array(bounds).T
        marker = "." if len(at) < 2 else None
        axes.plot(thresholds, 100 * np.array(shares), color=colour, label=label, marker=marker)
        axes.fill_between(thresholds, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axvline(threshold, color=_INK, label=f"stored threshold, {number(threshold)}")
    if max(thresholds) > _LOG_BEYOND * threshold > 0 and min(thresholds) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="threshold", ylabel="%", ylim=(-2, 102))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=8)
    title = "Shares of defects found and of false alarms by threshold, with 95% intervals"
    return _picture(figure, "Thresholds", title)


def _bin_edges(scores: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.float64], bool]:
    """Edges of equal or, for scores far beyond the threshold, of equal logarithmic width."""
    low, high = min(scores.min(), threshold), max(scores.max(), threshold)
    is_log = bool(low > 0 and high > _LOG_BEYOND * threshold)
    if is_log:
        low, high, middle = np.log([low, high, threshold])
    else:
        middle = threshold
    step = (high - low) / _BINS or 0.1 * abs(middle) or 0.1
    below, above = math.ceil((middle - low) / step) or 1, math.ceil((high - middle) / step) or 1
    edges = middle + step * np.arange(-below, above + 1)
    edges = np.exp(edges) if is_log else edges
    # A score that equals the threshold lies below it; the outer edges hold every score.
    edges[below] = np.nextafter(threshold, np.inf)
    edges[0], edges[-1] = min(edges[0], scores.min()), max(edges[-1], scores.max())
    return edges, is_log


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of a size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e2e5e9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    return figure, axes


def _picture(figure: Figure, caption: str, description: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Picture(data_uri(buffer.getvalue(), "image/png"), caption, description)
