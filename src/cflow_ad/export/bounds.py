"""How far a graph may differ from the trained model, and how slow it may be."""

from __future__ import annotations

from typing import Literal

from cflow_ad.errors import ExportError
from cflow_ad.export.check import Change
from cflow_ad.export.timing import Times

Precision = Literal["fp32", "fp16", "bf16", "int8"]

BOUNDS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15, "int8": 0.3}
"""How far scores may change, relative to a score of at least 1: at fp32 the largest change of any
score or pixel, at the others the mean change of the scores of good images."""

SLOWER = 1.1
"""How many times as long as fp32 a precision below it may take; less is lost in noise."""

AUROC_BOUND = 0.003
"""How far image and pixel AUROC may fall where defects are labelled."""


def check_change(change: Change, precision: Precision, *, force: bool) -> None:
    """Raise an ExportError if a graph changes more than `BOUNDS` allows."""
    bound = BOUNDS[precision]
    way_out = "keep the trained model, and report this with the model's settings"
    problems = []
    if precision == "fp32":
        if change.largest > bound:
            problems.append(f"a score or map changes by {change.largest:.2g} (allowed {bound:g})")
        if change.flipped:
            problems.append(f"{change.flipped} images change between good and anomalous")
    elif not force:
        way_out = "write it anyway with --force, or choose a higher precision"
        if change.mean > bound:
            problems.append(
                f"scores of good images change by {change.mean:.2g} on average (allowed {bound:g})"
            )
        for name, before, after in change.auroc:
            if before - after > AUROC_BOUND:
                problems.append(
                    f"{name} AUROC falls from {100 * before:.2f} to {100 * after:.2f} "
                    f"(allowed {100 * AUROC_BOUND:g} points)"
                )
    if problems:
        raise ExportError(
            f"the {precision} graph does not give the model's results: {'; '.join(problems)}; "
            + way_out
        )


def check_times(times: Times, precision: Precision, *, force: bool) -> None:
    """Raise an ExportError if a graph below fp32 is slower than that."""
    if precision != "fp32" and not force and times.ratio > SLOWER:
        raise ExportError(
            f"the {precision} graph is slower than fp32 on this machine: {times.own:.1f} ms for an "
            f"image, beside {times.other:.1f}; export fp32, or write it anyway with --force"
        )
