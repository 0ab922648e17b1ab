"""The model file: one `.safetensors` with the tensors, and JSON in its metadata.

Loading runs no code from the file. Without the encoder's weights, which many models share, a file
is the smaller by them; their hash is stored, and checked against the weights at hand.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cflow_ad._version import __version__
from cflow_ad.errors import ModelFileError
from cflow_ad.files import replacing, require_writable
from cflow_ad.store.schema import EXPORTED, SCHEMA, check_schema

_KEY = "cflow_ad"


def provenance() -> dict[str, str]:
    """Which versions make a model, and when: for its file."""
    return {
        "cflow_ad": __version__,
        "torch": torch.__version__,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def check_writable(path: Path, *, exported: bool = False) -> None:
    """See that a model file, trained or exported, can be written, before the work that makes it.

    Raises:
        ModelFileError: it is a folder, lies where nothing can be written, or is a trained model
            with the suffix of an exported one.
    """
    if not exported:
        _check_suffix(path)
    if path.is_dir():
        raise ModelFileError(
            f"{path}: this is a folder; name a file in it, such as model.safetensors"
        )
    require_writable(path, ModelFileError)


def _check_suffix(path: Path) -> None:
    """Refuse the suffixes of exported models, as which the file would be opened."""
    if path.suffix.lower() in EXPORTED:
        raise ModelFileError(
            f"{path}: {path.suffix} is for exported models; name a trained one "
            f"{path.with_suffix('.safetensors')}"
        )


def write_model(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a model file, or overwrite it, whole or not at all.

    The metadata are plain values, to which the schema's number is added.

    Raises:
        ModelFileError: the file cannot be written.
    """
    _check_suffix(path)
    text = json.dumps({"schema": SCHEMA, **metadata}, allow_nan=False)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            # Written by hand, since save_file makes files that only their owner may read.
            new.write_bytes(safetensors.torch.save(plain, metadata={_KEY: text}))
    except (OSError, safetensors.SafetensorError) as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> ModelFileError:
    """Build the error about a model file, trained or exported, that cannot be written."""
    return ModelFileError(
        f"{path}: the model cannot be written there ({error}); check the permissions and the free "
        "space of the disk, or choose another path"
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what a model file says of itself, without its tensors.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of another version.
    """
    return read_model(path, with_tensors=False)[0]


def read_model(
    path: Path, *, with_tensors: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a model file: metadata and tensors, as given to `write_model`.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of another version.
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: this is a folder; name a model file (.safetensors)")
    if not path.exists():
        raise ModelFileError(f"{path}: there is no such model file; train one, or check the path")
    if not os.access(path, os.R_OK):  # of which safetensors says that there is no such file
        raise ModelFileError(f"{path}: no permission to read it; change its permissions")
    if path.suffix.lower() in EXPORTED:
        raise ModelFileError(
            f"{path}: this is an exported model, which can only score images; name the trained "
            "model that it was made from (.safetensors), or load it by cflow_ad.runtime"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            names = list(file.keys()) if text is not None and with_tensors else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelFileError(
            f"{path}: damaged, or not a model file ({error}); copy it again from where it was made"
        ) from error
    if text is None:
        raise ModelFileError(
            f"{path}: a safetensors file, but not of cflow-ad; train a model with `cflow-ad train`"
        )
    try:
        metadata = json.loads(text)
        schema = metadata["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: damaged: its metadata cannot be read") from error
    check_schema(schema, str(path))
    return metadata, tensors
