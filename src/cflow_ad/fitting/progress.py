"""Progress of fitting and calibrating, for a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["encode", "train", "passes", "calibrate"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one stage."""

    stage: Stage
    done: int
    """For `encode` and `calibrate`, images; for `train`, optimiser steps over all levels; for
    `passes`, the paper's schedule, images over all passes. With folds, over all models."""
    total: int
    loss: float | None = None
    """Moving average of the training loss."""
    stride: int | None = None
    """Of the level that is trained, in pixels."""


ProgressCallback: TypeAlias = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Do nothing."""


def shift_progress(progress: ProgressCallback, before: int, parts: int) -> ProgressCallback:
    """Report the progress of one of several equal parts as that of the whole.

    Args:
        progress: called with the progress of the whole.
        before: how many parts are done.
        parts: how many there are.
    """

    def report(part: Progress) -> None:
        done = before * part.total + part.done
        progress(replace(part, done=done, total=parts * part.total))

    return report
