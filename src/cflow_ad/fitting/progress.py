"""Progress of fitting and calibrating, for a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["encode", "screen", "train", "passes", "calibrate"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one stage."""

    stage: Stage
    done: int
    """For `encode`, `screen` (which encodes the calibration set) and `calibrate`, images; for
    `train`, optimiser steps over all levels; for `passes`, the paper's schedule, images over all
    passes."""
    total: int
    loss: float | None = None
    """Moving average of the training loss."""
    stride: int | None = None
    """Of the level that is trained, in pixels."""


ProgressCallback: TypeAlias = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Do nothing."""
