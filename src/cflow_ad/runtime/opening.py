"""Load a detector from any model file, trained or exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from cflow_ad.errors import SettingsError
from cflow_ad.runtime.backends import read_text
from cflow_ad.runtime.detector import PICTURES, Detector, parse_metadata
from cflow_ad.scoring.base import BaseDetector
from cflow_ad.store.schema import EXPORTED


def is_exported(path: Path) -> bool:
    """Return whether a file is an exported model, by its name."""
    return path.suffix.lower() in EXPORTED


def files_of(path: Path) -> list[Path]:
    """List the files of a model, the one that is named first: an OpenVINO model has two."""
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix.lower() == ".xml" and weights.exists() else [path]


def open_detector(
    path: Path,
    *,
    weights: str | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> BaseDetector:
    """Load a model file of any format.

    Args:
        path: the file.
        weights: a file with the backbone's weights, for a trained model that lacks them.
        device: where to run.
        precision: to score in, for a trained model; see `cflow_ad.Detector.load`.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of another version.
        SettingsError: weights or a precision are given for an exported model; or the device or the
            precision is unknown.
    """
    if is_exported(path):
        if weights is not None:
            raise SettingsError(f"{path}: an exported model has its weights inside; leave them out")
        if precision is not None:
            raise SettingsError(
                f"{path}: an exported model has a precision of its own; leave out --precision, or "
                "export it in another precision"
            )
        return Detector.load(path, device=device)
    from cflow_ad.detector import Detector as Trained
    from cflow_ad.settings import Precision

    return Trained.load(
        path, weights=weights, device=device, precision=cast("Precision | None", precision)
    )


def describe(path: Path) -> dict[str, Any]:
    """Read a model file's metadata, as plain values.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of another version.
    """
    if is_exported(path):
        about = parse_metadata(read_text(path), str(path))
        about.pop(PICTURES, None)  # PNG files, in base 64
        return about
    from cflow_ad.store.model_file import read_metadata

    return read_metadata(path)
