"""What a model file holds, made whole again: the network, and what a detector knows beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.encoder import EncoderSpec, empty_encoder, rebuild_encoder
from cflow_ad.cflow.evidence import Evidence
from cflow_ad.cflow.model import CflowNetwork
from cflow_ad.errors import ModelFileError
from cflow_ad.fitting.likelihood import empty_level
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings
from cflow_ad.store.model_file import read_model, take_pictures, with_pictures, write_model


class Stored(NamedTuple):
    """The parts of a detector."""

    network: CflowNetwork
    settings: Settings
    calibration: Calibration | None
    training: dict[str, Any]
    view: View
    evidence: Evidence | None
    bundled: bool
    """Whether the file has the encoder's weights."""


def store(
    path: Path, network: CflowNetwork, view: View, about: Mapping[str, Any], *, bundle: bool
) -> None:
    """Write a model file.

    Args:
        path: overwritten if it exists.
        network: whose tensors it holds.
        view: whose pictures it holds.
        about: all else, plain values; see `Detector.info`.
        bundle: put the encoder's weights in.

    Raises:
        ModelFileError: the file cannot be written.
    """
    tensors = network.state_dict()
    if not bundle:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("encoder.")}
    tensors = with_pictures(tensors, view.pictures())
    write_model(path, tensors, {**about, "bundled": bundle})


def restore(path: Path, *, weights: str | None, device: str | torch.device | None) -> Stored:
    """Read a model file.

    Args:
        path: the file.
        weights: a file with the backbone's weights, for a model that does not carry them.
        device: where the network is to be; unset, a GPU if there is one.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or newer.
        WeightsError: the backbone's weights are not to be had, or are not those of training.
    """
    metadata, tensors = read_model(path)
    pictures = take_pictures(tensors)
    try:
        settings = Settings.restored(metadata["settings"])
        view = View.restore(settings, metadata.get("view", {}), pictures)
        said = metadata["calibration"]
        calibration = None if said is None else Calibration.from_dict(said)
        said = metadata.get("evidence")
        evidence = None if said is None else Evidence.from_dict(said)
        spec = EncoderSpec.from_dict(metadata["encoder"])
        training, bundled = dict(metadata["training"]), bool(metadata["bundled"])
        encoder = (
            empty_encoder(spec)
            if bundled
            else rebuild_encoder(
                spec, weights=weights or settings.weights, seed=settings.seed, model=path
            )
        )
        network = CflowNetwork(
            encoder,
            [
                empty_level(channels, settings, number)
                for number, channels in enumerate(spec.channels)
            ],
        )
        missing, foreign = network.load_state_dict(tensors, strict=False, assign=True)
        if foreign or (bundled and missing) or any(not k.startswith("encoder.") for k in missing):
            raise KeyError((missing + foreign)[0])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelFileError(
            f"{path}: damaged: what it holds does not fit together ({error}); "
            "copy it again from where it was made"
        ) from error
    network = network.to(pick_device(device))
    return Stored(network, settings, calibration, training, view, evidence, bundled)
