"""The parts of a detector, to a model file and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from cflow_ad.cflow.building import empty_encoder, rebuild_encoder
from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.encoder import EncoderSpec
from cflow_ad.cflow.level import empty_level
from cflow_ad.cflow.model import CflowModel
from cflow_ad.errors import ModelFileError
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings
from cflow_ad.store.model_file import read_model, write_model

_PICTURE = "picture."  # before the names of tensors that hold the bytes of a PNG


class Parts(NamedTuple):
    """The parts of a detector, as it takes them."""

    model: CflowModel
    settings: Settings
    calibration: Calibration | None
    training: Mapping[str, Any]
    view: View
    bundled: bool = False
    """Whether its file holds the encoder's weights."""

    def hashes(self, of: Literal["trained_on", "excluded"]) -> list[str]:
        """Return the hashes of images that training had."""
        return list(self.training.get("hashes", {}).get(of, []))


def store(
    path: Path, model: CflowModel, view: View, about: Mapping[str, Any], *, bundle: bool
) -> None:
    """Write a model file, or overwrite it; with `bundle`, the encoder's weights too.

    The metadata `about` are plain values; see `Detector.info`.

    Raises:
        ModelFileError: the file cannot be written.
    """
    tensors = {
        k: v for k, v in model.state_dict().items() if bundle or not k.startswith("encoder.")
    }
    for name, data in view.pictures().items():
        tensors[_PICTURE + name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    write_model(path, tensors, {**about, "bundled": bundle})


def restore(path: Path, *, weights: str | None, device: str | torch.device | None) -> Parts:
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
    names = [name for name in tensors if name.startswith(_PICTURE)]
    pictures = {n.removeprefix(_PICTURE): tensors.pop(n).numpy().tobytes() for n in names}
    try:
        settings = Settings.from_dict(metadata["settings"])
        view = View.restore(settings, metadata["view"], pictures)
        found = metadata["calibration"]
        calibration = None if found is None else Calibration.from_dict(found)
        spec = EncoderSpec.from_dict(metadata["encoder"])
        training, bundled = dict(metadata["training"]), bool(metadata["bundled"])
        if bundled:
            encoder = empty_encoder(spec)
        else:
            weights, seed = weights or settings.weights, settings.seed
            encoder = rebuild_encoder(spec, weights=weights, seed=seed, model=path)
        levels = [empty_level(c, settings, number) for number, c in enumerate(spec.channels)]
        model = CflowModel(encoder, levels)
        missing, foreign = model.load_state_dict(tensors, strict=False, assign=True)
        if foreign or (bundled and missing) or any(not k.startswith("encoder.") for k in missing):
            raise KeyError((missing + foreign)[0])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelFileError(
            f"{path}: damaged: what it holds does not fit together ({error}); "
            "copy it again from where it was made"
        ) from error
    return Parts(model.to(pick_device(device)), settings, calibration, training, view, bundled)
