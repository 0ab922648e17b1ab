"""Read a checkpoint of torch without running any code from it."""

from __future__ import annotations

import contextlib
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cflow_ad.errors import CflowError, ModelFileError, first_line

_IS_OBJECT = re.compile(r"\bGLOBAL\b|unrecognized function|Can only (build|create new)")
"""In torch's message on an intact file that holds more than plain values."""


def read_checkpoint(path: Path, *, instead: str) -> dict[str, Any]:
    """Read a file written by `torch.save`: tensors, on the CPU, and plain values.

    The error on a file with pickled objects says what to give instead.

    Raises:
        ModelFileError: the file is missing or damaged, holds pickled objects, or is not a
            dictionary.
    """
    if not path.is_file():
        what = "this is a folder" if path.is_dir() else "there is no such file"
        raise ModelFileError(f"{path}: {what}; give a checkpoint (.pt, .ckpt)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on files that are refused below
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged byte leads torch's reader to errors of any type
        message = str(error)
        if isinstance(error, pickle.UnpicklingError) and _IS_OBJECT.search(message):
            raise ModelFileError(
                f"{path}: holds pickled objects, which are not read because they can run code; "
                f"{instead}"
            ) from error
        # Some of torch's messages suggest turning the safeguard off.
        reason = "" if "weights_only" in message else f" ({first_line(error)})"
        raise ModelFileError(
            f"{path}: damaged, or not a checkpoint{reason}; copy it again from where it was made"
        ) from error
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{path}: not a checkpoint: it holds a {type(content).__name__}; give the file that "
            "training saved"
        )
    return content


@contextlib.contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Turn the errors of unexpected values into a `ModelFileError` that names the file."""
    try:
        yield
    except CflowError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(
            f"{path}: damaged: its contents do not fit together ({error}); copy it again from "
            "where it was made"
        ) from error


def select_tensors(values: object) -> dict[str, Tensor]:
    """Select the named tensors of a mapping; none where the values are not a mapping."""
    if not isinstance(values, Mapping):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
