"""The parts of a detector, to a model file and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.encoder import EncoderSpec, empty_encoder, rebuild_encoder
from cflow_ad.cflow.level import empty_level
from cflow_ad.cflow.model import CflowModel
from cflow_ad.errors import ModelFileError
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings
from cflow_ad.store.model_file import read_model, take_pictures, with_pictures, write_model


class Stored(NamedTuple):
    """The parts of a detector."""

    model: CflowModel
    settings: Settings
    calibration: Calibration | None
    training: dict[str, Any]
    view: View
    bundled: bool
    """Whether the file holds the encoder's weights."""


def store(
    path: Path, model: CflowModel, view: View, about: Mapping[str, Any], *, bundle: bool
) -> None:
    """Write a model file, or overwrite it; with `bundle`, the encoder's weights too.

    The metadata `about` are plain values; see `Detector.info`.

    Raises:
        ModelFileError: the file cannot be written.
    """
    tensors = model.state_dict()
    if not bundle:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("encoder.")}
    tensors = with_pictures(tensors, view.pictures())
    write_model(path, tensors, {**about, "bundled": bundle})


def restore(path: Path, *, weights: str | None, device: str | torch.device | None) -> Stored:
    """Read a model file.

    Args:
        path: the file.
        weights: a file with the backbone's weights, for a model that does not carry them.
        device: where the network goes; unset, a GPU if there is one.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of another version.
        WeightsError: the backbone's weights are not on this machine, or are not those of training.
    """
    metadata, tensors = read_model(path)
    pictures = take_pictures(tensors)
    try:
        settings = Settings.from_dict(metadata["settings"])
        view = View.restore(settings, metadata["view"], pictures)
        of_file = metadata["calibration"]
        calibration = None if of_file is None else Calibration.from_dict(of_file)
        spec = EncoderSpec.from_dict(metadata["encoder"])
        training, bundled = dict(metadata["training"]), bool(metadata["bundled"])
        encoder = (
            empty_encoder(spec)
            if bundled
            else rebuild_encoder(
                spec, weights=weights or settings.weights, seed=settings.seed, model=path
            )
        )
        levels = [
            empty_level(level.channels, settings, number)
            for number, level in enumerate(spec.levels)
        ]
        model = CflowModel(encoder, levels)
        missing, foreign = model.load_state_dict(tensors, strict=False, assign=True)
        if foreign or (bundled and missing) or any(not k.startswith("encoder.") for k in missing):
            raise KeyError((missing + foreign)[0])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelFileError(
            f"{path}: damaged: what it holds does not fit together ({error}); "
            "copy it again from where it was made"
        ) from error
    model = model.to(pick_device(device))
    return Stored(model, settings, calibration, training, view, bundled)
