"""Checkpoints of anomalib's `Cflow`.

A Lightning checkpoint holds the tensors (`model.encoder.feature_extractor...`, timm's names, and
`model.decoders.N...`, FrEIA's), the constructor's arguments, and since anomalib 2.7 the
pre-processor as plain values. Earlier versions pickle it, and such files are not read. A state dict
alone is read with anomalib's defaults: stretched to 256x256, ImageNet's mean and deviation.

References:
    anomalib 2.7.0, `anomalib.models.image.cflow` and `anomalib.pre_processing`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cflow_ad.cflow.pyramid import build_pyramid
from cflow_ad.detector import Detector
from cflow_ad.errors import ModelFileError
from cflow_ad.importers.assembly import assemble
from cflow_ad.importers.authors import CLAMP, SIZE
from cflow_ad.importers.backbones import choose_backbone, choose_strides
from cflow_ad.importers.freia import convert_decoders
from cflow_ad.importers.reading import name_file_in_errors, read_checkpoint, select_tensors

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class _Input:
    """How images are prepared for the network."""

    size: str | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


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
        ModelFileError: the file is missing, damaged, or not such a checkpoint; or its images were
            prepared in a way that cflow-ad does not support.
        WeightsError: the encoder's weights are not of the backbone.
        SettingsError: the size cannot be read.
    """
    path = Path(path)
    content = read_checkpoint(
        path,
        instead="give a Lightning .ckpt of anomalib 2.7 or later, or, in the environment that "
        "made it, save torch.save(model.state_dict(), FILE) and give that",
    )
    with name_file_in_errors(path):
        tensors = select_tensors(content.get("state_dict", content))
        decoders = _decoders(path, tensors, content)
        weights = _below(tensors, "encoder.feature_extractor")
        if not weights:
            raise ModelFileError(f"{path}: it has no encoder; copy it again from where it was made")
        stated = _mapping(content.get("hyper_parameters"))
        backbone = choose_backbone(path, weights, stated=backbone or stated.get("backbone"))
        clamp = float(stated.get("clamp_alpha", CLAMP))
        flows = convert_decoders(path, decoders, clamp=clamp)
        layers = stated.get("layers") or [None]
        names = layers if all(isinstance(name, str) for name in layers) else None
        strides = choose_strides(path, backbone, [flow.channels for flow in flows], names)
        given = _read_input(path, content)
        assumed = ""
        if given is None:
            given = _Input(SIZE, *_IMAGENET)
            assumed = f"{'' if size else f'input of {SIZE}, '}ImageNet's mean and deviation"
        if size is None and given.size is None:
            raise ModelFileError(
                f"{path}: its images are not stretched to one size; give --size HEIGHTxWIDTH"
            )
        return assemble(
            path,
            replace(build_pyramid(backbone, strides), mean=given.mean, std=given.std),
            weights,
            flows,
            backbone=backbone,
            source=path.name,
            clamp=clamp,
            interpolation="bilinear",
            origin="anomalib",
            assumed=assumed,
            device=device,
            size=size or given.size,
            learning_rate=float(stated.get("lr", 1e-4)),
            paper={"rotation": 0.0},
        )


def _mapping(values: object) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {}


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Select the tensors of one module, from a state dict of the Lightning or the torch module."""
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
        raise ModelFileError(
            f"{path}: not a checkpoint of anomalib's Cflow (no decoders); {advice}"
        )
    return decoders


def _read_input(path: Path, content: Mapping[str, object]) -> _Input | None:
    """Read what the pre-processor does; None where the checkpoint does not state it."""
    enabled = _mapping(content.get("anomalib_components_enabled")).get("pre_processor", True)
    config = content.get("anomalib_pre_processor_config")
    if enabled and not isinstance(config, Mapping):
        return None
    transform = _mapping(config).get("transform")
    if not enabled or not isinstance(transform, Mapping):
        raise ModelFileError(
            f"{path}: it does not state how its images were prepared (it was trained with a "
            "custom pre-processor, or none); save its state dict alone to use anomalib's defaults"
        )
    return functools.reduce(functools.partial(_apply, path), _list_steps(transform), _Input())


def _list_steps(transform: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the steps of a transform, those of compositions included."""
    if not str(transform.get("class_path")).endswith(".Compose"):
        return [transform]
    inner = _mapping(transform.get("init_args")).get("transforms", [])
    return [step for part in inner for step in _list_steps(_mapping(part))]


def _apply(path: Path, before: _Input, step: Mapping[str, Any]) -> _Input:
    name = str(step.get("class_path")).rpartition(".")[2]
    given = _mapping(step.get("init_args"))
    if name == "Normalize":
        return replace(before, mean=tuple(given["mean"]), std=tuple(given["std"]))
    if name == "Resize" and given.get("interpolation", "bilinear") == "bilinear":
        side = given.get("size")
        # One number is the shorter side, with the aspect ratio kept.
        if isinstance(side, Sequence) and len(side) == 2:
            return replace(before, size=f"{side[0]}x{side[1]}")
        return replace(before, size=None)
    raise ModelFileError(
        f"{path}: its images were prepared by {name}"
        f"{' with a kernel other than bilinear' if name == 'Resize' else ''}, which cflow-ad does "
        "not support; train with a plain Resize and Normalize"
    )
