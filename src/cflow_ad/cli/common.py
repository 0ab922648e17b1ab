"""What commands share: errors and warnings as plain lines, and opening what they are given."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cflow_ad.errors import (
    CalibrationWarning,
    CflowError,
    DataError,
    DepthWarning,
    DeviceWarning,
    ElsewhereError,
    FolderError,
    ModelFileError,
    SettingsError,
    SpaceError,
    missing_library,
)
from cflow_ad.files import is_full
from cflow_ad.process import loading
from cflow_ad.settings import Settings

if TYPE_CHECKING:
    from cflow_ad.data.layouts import Dataset
    from cflow_ad.fitting.group import Group
    from cflow_ad.scoring.base import BaseDetector

FAILED = 2
"""Exit status of an error, and of a wrong command line."""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Print an error that a person can fix as one line and exit with 2; warnings likewise."""
    with warnings.catch_warnings():
        for kind in (CalibrationWarning, DepthWarning, DeviceWarning):
            warnings.simplefilter("always", kind)
        warnings.showwarning = lambda text, *_, **__: print_message(f"warning: {text}", "yellow")
        try:
            yield
        except KeyboardInterrupt:
            print_message("stopped", "yellow")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of the output has closed it, as `head` does.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except ElsewhereError:
            raise typer.Exit(FAILED) from None
        except Exception as error:
            if (text := _describe_error(error)) is None:
                raise
            print_message(f"error: {text}", "red")
            raise typer.Exit(FAILED) from None


@contextlib.contextmanager
def training_folder(
    model: Path, within: Path | None, *, resume: bool, group: Group | None = None
) -> Iterator[Path]:
    """Give the folder of features and checkpoints of a training that ends with `model` written.

    It is removed at the end, and where the disk is full; else what it holds is for `--resume`. The
    processes of a group that run on one machine share it.
    """
    from cflow_ad.fitting.fit import discard, work_folder
    from cflow_ad.fitting.group import ALONE

    group = group or ALONE
    work = work_folder(model, within)
    if not resume and group.is_first_here:
        discard(work)
    group.gather(None)
    try:
        yield work
        group.gather(None)
    except KeyboardInterrupt:
        if group.is_first_here:
            print_message("progress is kept: the same command with --resume continues")
        raise
    except ModelFileError:
        print_message("progress is kept: the same command with --resume writes the model")
        raise
    except (SpaceError, OSError) as error:
        if isinstance(error, SpaceError) or is_full(error):
            discard(work)
        raise
    if group.is_first_here:
        discard(work)


def _describe_error(error: Exception) -> str | None:
    """One line about an error that a person can fix; None for a fault of the program."""
    match error:
        case CflowError():
            return str(error)
        case ModuleNotFoundError():
            missing = missing_library(error)
            return None if missing is None else str(missing)
        case OSError():
            # Of two names, that of a copy is the one that lacks space.
            name = (is_full(error) and error.filename2) or error.filename
            where = f"{name}: " if name else ""
            return (
                f"{where}{error.strerror or error}; check the path, its permissions and the free "
                "space of the disk"
            )
    # Torch has an exception type for the memory of GPUs alone.
    full = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or full:
        return (
            "there is not enough memory; give a smaller --size or batch size, or another --device"
        )
    return None


def print_message(message: str, colour: str | None = None) -> None:
    """Print a message on standard error."""
    typer.secho(message, fg=colour, err=True)


def open_data(
    data: Path,
    layout: str | None,
    good: list[str] | None,
    bad: list[str] | None,
    masks: list[str] | None,
) -> Dataset:
    """Open a data set; an error about its folders' names shows the command that would work."""
    from cflow_ad.data.layouts import FolderNames, open_dataset

    try:
        return open_dataset(data, layout, FolderNames(good or (), bad or (), masks or ()))
    except FolderError as error:
        raise DataError(f"{error}, as in: {command_line(*error.options)}") from error


def command_line(*more: str) -> str:
    """Return the command that was given, with more arguments, as it is typed."""
    words = ["cflow-ad", *sys.argv[1:], *more]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def print_notes(dataset: Dataset) -> None:
    """Print remarks on how a data set was read."""
    for note in dataset.notes:
        print_message(f"{dataset.name}: {note}")


def open_model(
    path: Path, *, weights: str | None, device: str | None, precision: str | None, roi: str | None
) -> BaseDetector:
    """Load the detector of a model file of any format."""
    with loading():
        from cflow_ad.runtime.opening import open_detector

        detector = open_detector(path, weights=weights, device=device, precision=precision)
    return detector if roi is None else detector.look_in(roi)


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Parse settings given as `NAME=VALUE`."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals):
            raise SettingsError(f"--set {text}: write NAME=VALUE, as in --set steps=300")
        values[name] = Settings.parse(name, value.strip())
    return values
