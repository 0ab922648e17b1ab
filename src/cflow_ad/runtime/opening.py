"""A detector from any model file: as trained, or exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

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
    precision: str | None = None,
    compiled: bool = False,
) -> Detector | detector.Detector:
    """Load a model file of whatever format.

    Args:
        path: the file.
        weights: a file with the backbone's weights, for a trained model that lacks them.
        device: where to run.
        tile: instead of the model's own; see `Settings.tile`.
        precision: to score in; see `cflow_ad.Detector.optimize`.
        compiled: whether to make code for this machine; see there.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or newer.
        SettingsError: something is given for an exported model that it has inside; or there is no
            such device, tile or precision, or nothing to compile with.
    """
    if is_exported(path):
        if weights is not None:
            raise SettingsError(f"{path}: an exported model has its weights inside; leave them out")
        if tile is not None:
            raise SettingsError(f"{path}: an exported model encodes images whole; leave tile out")
        if precision is not None or compiled:
            raise SettingsError(
                f"{path}: an exported model has a precision of its own and is compiled as it is "
                "loaded; leave out --precision and --compile, or export it in another precision"
            )
        return Detector.load(path, device=device)
    from cflow_ad.detector import Detector as Trained
    from cflow_ad.settings import Precision

    trained = Trained.load(path, weights=weights, device=device)
    if tile is None and precision is None and not compiled:
        return trained
    if precision not in (None, *get_args(Precision)):
        raise SettingsError(f"precision is {precision!r}: give {' or '.join(get_args(Precision))}")
    return trained.optimize(
        precision=cast("Precision | None", precision), compiled=compiled, tile=tile
    )


def describe(path: Path) -> dict[str, Any]:
    """What a model file says of itself, as plain values.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or newer.
    """
    if is_exported(path):
        about = parse_metadata(read_text(path), str(path))
        about.pop(PICTURES, None)  # not to be read by people
        return about
    from cflow_ad.store.model_file import read_metadata

    return read_metadata(path)
