"""Checkpoints of anomalib's `Cflow`.

A Lightning checkpoint has the tensors (`model.encoder.feature_extractor...`, timm's names, and
`model.decoders.N...`, FrEIA's), the constructor's arguments, and since anomalib 2.7 the
pre-processor as plain values. Earlier ones hold it as pickled objects, which are not read; a state
dict alone is. Then anomalib's defaults hold: stretched to 256x256, ImageNet's mean and deviation.

References:
    anomalib 2.7.0, `anomalib.models.image.cflow` and `anomalib.pre_processing`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cflow_ad.cflow.encoder import fill_encoder
from cflow_ad.detector import Detector
from cflow_ad.errors import ModelFileError
from cflow_ad.importers.assembly import assemble
from cflow_ad.importers.authors import CLAMP, SIZE
from cflow_ad.importers.backbones import choose_backbone, choose_strides
from cflow_ad.importers.freia import flow_of
from cflow_ad.importers.reading import only_tensors, read_checkpoint, sound

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class _Images:
    """How images come into the network."""

    size: str | None = None
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)


def import_anomalib(
    path: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    size: str | None = None,
    device: str | torch.device | None = None,
) -> Detector:
    """Read a checkpoint of anomalib's `Cflow`.

    Args:
        path: a Lightning checkpoint, or a state dict of the model.
        backbone: a timm model name; unset, what the checkpoint or its tensors say.
        size: of the network's input, `HEIGHTxWIDTH`; unset, what the checkpoint says, else
            256x256.
        device: where to run; unset, a GPU if there is one.

    Returns:
        A detector that is not calibrated yet.

    Raises:
        ModelFileError: the file is missing, damaged, or no such checkpoint; or its images were
            prepared in a way that cflow-ad has not.
        WeightsError: the encoder's weights are not of the backbone.
        SettingsError: the size is none.
    """
    path = Path(path)
    content = read_checkpoint(
        path,
        instead="give a Lightning .ckpt of anomalib 2.7 or later, or, in the environment that "
        "made it, save torch.save(model.state_dict(), FILE) and give that",
    )
    with sound(path):
        return _import(path, content, backbone, size, device)


def _import(
    path: Path,
    content: Mapping[str, Any],
    backbone: str | None,
    size: str | None,
    device: str | torch.device | None,
) -> Detector:
    tensors = only_tensors(content.get("state_dict", content))
    decoders = _decoders(path, tensors, content)
    encoder_tensors = _below(tensors, "encoder.feature_extractor")
    if not encoder_tensors:
        raise ModelFileError(f"{path}: it has no encoder; copy it again from where it was made")
    said = _mapping(content.get("hyper_parameters"))
    backbone = choose_backbone(path, encoder_tensors, said=backbone or said.get("backbone"))
    clamp = float(said.get("clamp_alpha", CLAMP))
    flows = [
        flow_of(decoder, clamp=clamp, where=f"{path}: decoder {number + 1}")
        for number, decoder in enumerate(decoders)
    ]
    layers = said.get("layers") or [None]
    names = layers if all(isinstance(name, str) for name in layers) else None
    strides = choose_strides(path, backbone, [flow.channels for flow in flows], names)
    images = _images(path, content)
    assumed = ""
    if images is None:
        images = _Images(SIZE, *_IMAGENET)
        assumed = f"{'' if size else f'input of {SIZE}, '}ImageNet's mean and deviation"
    if size is None and images.size is None:
        raise ModelFileError(
            f"{path}: its images are not stretched to one size; give --size HEIGHTxWIDTH"
        )
    encoder = fill_encoder(
        backbone,
        strides,
        encoder_tensors,
        source=path.name,
        mean=images.mean,
        std=images.std,
    )
    changes = {
        "size": size or images.size,
        "clamp": clamp,
        "interpolation": "bilinear",
        "learning_rate": float(said.get("lr", 1e-4)),
        "rotation": 0.0,
    }
    return assemble(
        path, encoder, flows, changes, origin="anomalib", assumed=assumed, device=device
    )


def _mapping(values: object) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {}


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one module, of the Lightning module's state dict or of the torch model's."""
    pattern = re.compile(rf"(?:model\.)?{re.escape(name)}\.(.+)")
    matches = [(pattern.fullmatch(key), value) for key, value in tensors.items()]
    return {match[1]: value for match, value in matches if match is not None}


def _decoders(
    path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, object]
) -> list[dict[str, Tensor]]:
    decoders: list[dict[str, Tensor]] = []
    while found := _below(tensors, f"decoders.{len(decoders)}"):
        decoders.append(found)
    if not decoders:
        advice = (
            "import it with `cflow-ad import authors`"
            if "decoder_state_dict" in content
            else "give a checkpoint of anomalib's Cflow"
        )
        raise ModelFileError(f"{path}: no checkpoint of anomalib's Cflow (no decoders); {advice}")
    return decoders


def _images(path: Path, content: Mapping[str, object]) -> _Images | None:
    """What the pre-processor does; None where the checkpoint does not say."""
    enabled = _mapping(content.get("anomalib_components_enabled")).get("pre_processor", True)
    config = content.get("anomalib_pre_processor_config")
    if enabled and not isinstance(config, Mapping):
        return None
    transform = _mapping(config).get("transform")
    if not enabled or not isinstance(transform, Mapping):
        raise ModelFileError(
            f"{path}: it does not say how its images were prepared (it was trained with a "
            "pre-processor of its own, or none); save its state dict alone, and anomalib's "
            "defaults are taken"
        )
    images = _Images()
    for step in _steps(transform):
        images = _after(path, images, step)
    return images


def _steps(transform: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A transform as a list, its compositions opened."""
    if not str(transform.get("class_path")).endswith(".Compose"):
        return [transform]
    inner = _mapping(transform.get("init_args")).get("transforms", [])
    return [step for part in inner for step in _steps(_mapping(part))]


def _after(path: Path, images: _Images, step: Mapping[str, Any]) -> _Images:
    name = str(step.get("class_path")).rpartition(".")[2]
    given = _mapping(step.get("init_args"))
    if name == "Normalize":
        return replace(images, mean=tuple(given["mean"]), std=tuple(given["std"]))
    if name == "Resize" and given.get("interpolation", "bilinear") == "bilinear":
        side = given.get("size")
        # One number is the shorter side, with the aspect ratio kept.
        if isinstance(side, Sequence) and len(side) == 2:
            return replace(images, size=f"{side[0]}x{side[1]}")
        return replace(images, size=None)
    raise ModelFileError(
        f"{path}: its images went through {name}"
        f"{' of another kernel than bilinear' if name == 'Resize' else ''}, which cflow-ad does "
        "not do; train with a plain Resize and Normalize"
    )
