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
"""In what torch says of a sound file that holds more than plain values."""


def read_checkpoint(path: Path, *, instead: str) -> dict[str, Any]:
    """Read a file written by `torch.save`.

    Args:
        path: the file.
        instead: for the error, what to give instead of a file that holds more than plain values.

    Returns:
        Tensors, on the CPU, and plain values.

    Raises:
        ModelFileError: the file is missing or damaged, holds objects that only code could restore,
            or is no dictionary.
    """
    if not path.is_file():
        what = "this is a folder" if path.is_dir() else "there is no such file"
        raise ModelFileError(f"{path}: {what}; give a checkpoint (.pt, .ckpt)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of files that are about to be refused
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged byte leads torch's reader to errors of any type
        said = str(error)
        if isinstance(error, pickle.UnpicklingError) and _IS_OBJECT.search(said):
            raise ModelFileError(
                f"{path}: holds pickled objects, which are not read because they can run code; "
                f"{instead}"
            ) from error
        # Some of what torch says would have the reader turn the safeguard off.
        reason = "" if "weights_only" in said else f" ({first_line(error)})"
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
def sound(path: Path) -> Iterator[None]:
    """Turn the errors of values that are not as they should be into one of ours.

    Args:
        path: of the checkpoint that the block takes apart.

    Raises:
        ModelFileError: what it holds does not fit together.
    """
    try:
        yield
    except CflowError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(
            f"{path}: damaged: what it holds does not fit together ({error}); copy it again from "
            "where it was made"
        ) from error


def only_tensors(values: object) -> dict[str, Tensor]:
    """The named tensors among some values; none where they are no mapping."""
    if not isinstance(values, Mapping):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
