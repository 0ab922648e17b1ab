"""Charts as SVG text for the report. Every colour comes from a CSS class, so themes apply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from cflow_ad.evaluation._wording import number
from cflow_ad.evaluation.curves import Curve

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOG_BEYOND = 5.0  # times the threshold: further out, a linear axis leaves no room for the rest


@dataclass(frozen=True, eq=False)
class Line:
    """One curve of a chart."""

    name: str
    """A CSS class: `image` or `pixel`."""

    curve: Curve
    """Shares, in `[0, 1]`."""

    point: tuple[float, float] | None = None
    """A place on the curve to mark."""


def curve_chart(lines: Sequence[Line], *, x_name: str, y_name: str, title: str) -> Markup:
    """Curves of shares in percent; the x axis ends where the longest curve does.

    Args:
        lines: at least one, none of them empty.
        x_name: written below.
        y_name: written along the left side.
        title: read out in place of the picture.
    """
    limit = max(float(line.curve.x[-1]) for line in lines) or 1.0
    left, top, width, height = 46, 10, 288, 240

    def place(x: float, y: float) -> str:
        return f"{left + width * x / limit:.1f} {top + height * (1 - y):.1f}"

    parts = []
    for share in _ticks(0, limit, 5):
        x = left + width * share / limit
        parts.append(f'<path class="grid" d="M{x:.1f} {top}v{height}"/>')
        parts.append(_label(x, top + height + 17, f"{100 * share:g}", "middle"))
    for share in _ticks(0, 1, 5):
        y = top + height * (1 - share)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(_label(left - 8, y + 4, f"{100 * share:g}", "end"))
    for line in lines:
        curve = line.curve.thinned(300)
        steps = "L".join(place(x, y) for x, y in zip(curve.x, curve.y, strict=True))
        parts.append(f'<path class="line {escape(line.name)}" d="M{steps}"/>')
    for line in lines:
        if line.point is not None:
            x_at, y_at = place(*line.point).split()
            parts.append(
                f'<circle class="point {escape(line.name)}" cx="{x_at}" cy="{y_at}" r="4.5"/>'
            )
    parts.append(_label(left + width / 2, top + height + 36, f"{x_name}, %", "middle", "name"))
    y_middle = top + height / 2
    parts.append(
        f'<text class="name" text-anchor="middle" '
        f'transform="translate(11 {y_middle}) rotate(-90)">{escape(y_name)}, %</text>'
    )
    return _svg(left + width + 10, top + height + 44, title, parts)


def score_chart(
    good: NDArray[np.float64],
    defect: NDArray[np.float64],
    *,
    threshold: float,
    best: float,
    width: int,
    bins: int,
) -> Markup:
    """How many good and how many defective images have each score, one above the other.

    A bar never straddles the threshold: what is called wrongly lies on its wrong side.

    Args:
        good: scores `(n,)`; may be empty, but not both.
        defect: scores `(m,)`.
        threshold: in force.
        best: of best F1; not drawn where it is `nan`.
        width: of the drawing, in CSS pixels at its natural size.
        bins: about how many bars there may be.
    """
    axis = _ScoreAxis.around(np.concatenate([good, defect]), threshold, best, bins)
    rows = [(kind, of) for kind, of in (("good", good), ("defect", defect)) if of.size]
    left, top, row, gap = 40, 26, 96, 22
    across = width - left - 12
    bottom = top + len(rows) * (row + gap) - gap

    def place(score: float) -> float:
        return left + across * axis.position(score)

    parts = []
    for score, name in axis.ticks(5 if width < 500 else 9):
        x = place(score)
        parts.append(f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
        parts.append(_label(x, bottom + 17, name, "middle"))
    for index, (kind, scores) in enumerate(rows):
        base = top + row + index * (row + gap)
        counts = axis.count(scores)
        most = int(counts.max())
        for bar, count in enumerate(counts.tolist()):
            if not count:
                continue
            x = left + across * bar / len(counts)
            is_wrong = (bar >= axis.bars_below) == (kind == "good")
            tall = max(2.0, row * count / most)
            parts.append(
                f'<rect class="bar {kind}{" wrong" if is_wrong else ""}" x="{x + 0.5:.1f}" '
                f'y="{base - tall:.1f}" width="{across / len(counts) - 1:.1f}" '
                f'height="{tall:.1f}"/>'
            )
        parts.append(f'<path class="axis" d="M{left} {base}h{across}"/>')
        parts.append(_label(left - 8, base + 4, "0", "end"))
        parts.append(_label(left - 8, base - row + 10, f"{most:,}", "end"))
        name = "good" if kind == "good" else "defective"
        parts.append(
            f'<text class="name" text-anchor="middle" '
            f'transform="translate(10 {base - row / 2}) rotate(-90)">{name}</text>'
        )
    if math.isfinite(best):
        x = place(best)
        parts.append(f'<path class="best" d="M{x:.1f} {top - 4}V{bottom}"/>')
    x = place(threshold)
    parts.append(f'<path class="threshold" d="M{x:.1f} {top - 8}V{bottom}"/>')
    side = "start" if x < left + 50 else "end" if x > width - 62 else "middle"
    parts.append(_label(x, top - 13, f"threshold {number(threshold)}", side, "name"))
    kind = ", logarithmic" if axis.log else ""
    parts.append(_label(left + across / 2, bottom + 36, f"image score{kind}", "middle", "name"))
    title = f"Histogram of the scores of {len(good)} good and {len(defect)} defective images"
    return _svg(width, bottom + 44, title, parts)


def interval_chart(rate: float, interval: tuple[float, float], promised: float) -> Markup:
    """A measured rate with its interval, and the promised rate, on one axis from 0.

    Args:
        rate: measured, in `[0, 1]`.
        interval: its bounds.
        promised: in `[0, 1]`; not drawn where it is `nan`.
    """
    known = [value for value in (*interval, promised) if math.isfinite(value)]
    limit = min(1.0, max(1.15 * max(known), 0.01))
    left, top, width = 12, 24, 336

    def place(share: float) -> float:
        return left + width * share / limit

    parts = []
    for share in _ticks(0, limit, 5):
        parts.append(f'<path class="grid" d="M{place(share):.1f} {top}v44"/>')
        parts.append(_label(place(share), top + 60, f"{100 * share:.3g}%", "middle"))
    low, high = (place(bound) for bound in interval)
    parts.append(
        f'<rect class="interval" x="{low:.1f}" y="{top + 13}" '
        f'width="{max(high - low, 1):.1f}" height="18" rx="3"/>'
    )
    parts.append(f'<path class="axis" d="M{left} {top + 44}h{width}"/>')
    if math.isfinite(promised):
        at = place(promised)
        side = "start" if at < left + 60 else "end" if at > left + width - 60 else "middle"
        parts.append(f'<path class="threshold" d="M{at:.1f} {top}v44"/>')
        parts.append(_label(at, top - 8, "promised", side, "name"))
    parts.append(f'<circle class="dot" cx="{place(rate):.1f}" cy="{top + 22}" r="5"/>')
    return _svg(left + width + 20, top + 66, "False-alarm rate with its 95% interval", parts)


@dataclass(frozen=True, eq=False)
class _ScoreAxis:
    """Bars of equal width over scores or their logarithms, with an edge on the threshold."""

    log: bool
    edges: NDArray[np.float64]
    bars_below: int
    """How many bars lie below the threshold."""

    @classmethod
    def around(
        cls, scores: NDArray[np.float64], threshold: float, best: float, bins: int
    ) -> _ScoreAxis:
        values = np.append(scores, threshold)
        if math.isfinite(best):
            values = np.append(values, best)
        log = bool(values.min() > 0 and values.max() > _LOG_BEYOND * threshold)
        values = np.log(values) if log else values
        middle = float(np.log(threshold)) if log else threshold
        low, high = float(values.min()), float(values.max())
        step = (high - low) / (bins - 2) or 0.1 * abs(middle) or 0.1
        below = max(1, math.ceil((middle - low) / step + 1e-9))
        above = max(1, math.ceil((high - middle) / step - 1e-9))
        steps = np.arange(-below, above + 1, dtype=np.float64)
        return cls(log, middle + step * steps, below)

    def position(self, score: float) -> float:
        value = math.log(score) if self.log else score
        return float((value - self.edges[0]) / (self.edges[-1] - self.edges[0]))

    def count(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Scores in each bar. One that equals an edge is below it, as for the threshold."""
        values = np.log(scores) if self.log else scores
        bar = np.searchsorted(self.edges, values, side="left") - 1
        last = len(self.edges) - 2
        return np.bincount(np.clip(bar, 0, last), minlength=last + 1)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        low, high = float(self.edges[0]), float(self.edges[-1])
        if not self.log:
            return [(score, f"{score:.10g}") for score in _ticks(low, high, most)]
        low, high = math.exp(low), math.exp(high)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
            if len(found) <= most:
                break
        return [(score, f"{score:.10g}") for score in found]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most + 1` round numbers from `low` to `high`, evenly spaced."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s * power for s in _STEPS if span / (s * power) <= most + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _label(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> Markup:
    # Every part is drawn above from numbers, or has been escaped there.
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
