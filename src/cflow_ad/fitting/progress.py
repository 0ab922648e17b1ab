"""What training tells whoever is watching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["encode", "screen", "train", "passes", "calibrate"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one stage has come."""

    stage: Stage
    done: int
    """Images for `encode`, `screen`, which encodes those held out, and `calibrate`; optimiser steps
    over all levels for `train`; images passed for `passes`, which is training by the paper's
    schedule."""
    total: int
    loss: float | None = None
    """The latest training loss, a moving average."""
    stride: int | None = None
    """Of the level in training."""


ProgressCallback: TypeAlias = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Show nothing."""
