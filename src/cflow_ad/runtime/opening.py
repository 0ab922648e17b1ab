"""A detector from any model file: as trained, or exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import SettingsError
from cflow_ad.runtime.backends import SUFFIXES, read_text
from cflow_ad.runtime.detector import PICTURES, Detector, parse_metadata

if TYPE_CHECKING:
    from cflow_ad import detector


def is_exported(path: Path) -> bool:
    """Whether a file is an exported model, by its name."""
    return path.suffix.lower() in SUFFIXES


def open_detector(
    path: Path,
    *,
    weights: str | None = None,
    device: str | None = None,
    tile: str | None = None,
) -> Detector | detector.Detector:
    """Load a model file of whatever format.

    Args:
        path: the file.
        weights: a file with the backbone's weights, for a trained model that lacks them.
        device: where to run.
        tile: instead of the model's own; see `Settings.tile`.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or newer.
        SettingsError: weights or a tile are given for an exported model, or there is no such
            device or tile.
    """
    if is_exported(path):
        if weights is not None:
            raise SettingsError(f"{path}: an exported model has its weights inside; leave them out")
        if tile is not None:
            raise SettingsError(f"{path}: an exported model encodes images whole; leave tile out")
        return Detector.load(path, device=device)
    from cflow_ad.detector import Detector as Trained

    trained = Trained.load(path, weights=weights, device=device)
    return trained if tile is None else trained.optimize(tile=tile)


def describe(path: Path) -> dict[str, Any]:
    """What a model file says of itself, as plain values.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or newer.
    """
    if is_exported(path):
        about = parse_metadata(read_text(path), str(path))
        about.pop(PICTURES, None)  # not to be read by people
        return about
    from cflow_ad.model.file import read_metadata

    return read_metadata(path)
