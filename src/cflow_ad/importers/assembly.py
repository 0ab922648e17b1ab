"""Build a detector from an imported encoder and imported flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cflow_ad.cflow.building import fill_encoder, list_levels
from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.flow import ConditionalFlow
from cflow_ad.cflow.level import Level
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.pyramid import Padding, Pyramid
from cflow_ad.cflow.whitening import raw_layer
from cflow_ad.detector import Detector
from cflow_ad.errors import ModelFileError
from cflow_ad.importers.freia import is_soft
from cflow_ad.settings import Settings
from cflow_ad.store.model_file import provenance


def assemble(
    path: Path,
    pyramid: Pyramid,
    weights: Mapping[str, Tensor],
    flows: Sequence[ConditionalFlow],
    *,
    backbone: str,
    source: str,
    padding: Padding = "zeros",
    clamp: float,
    interpolation: str,
    origin: str,
    assumed: str,
    device: str | torch.device | None,
    **changes: Any,
) -> Detector:
    """Build a detector that is not calibrated yet.

    Args:
        path: of the checkpoint.
        pyramid: the encoder's structure.
        weights: the encoder's.
        flows: one for each of the pyramid's levels.
        backbone: the encoder's timm name.
        source: where the weights came from, for people.
        padding: of the encoder's convolutions.
        clamp: of the flows.
        interpolation: the kernel that images were resized with.
        origin: the program that trained the model, for people.
        assumed: values that the checkpoint does not state; empty if it states all.
        device: where to run; unset, a GPU if there is one.
        changes: other settings that differ from those of the preset `paper`.

    Raises:
        ModelFileError: the flows differ in kind, or the input's sides are no multiples of the
            largest stride.
        SettingsError: a value is out of its range.
        WeightsError: the weights are not of the backbone.
    """
    levels = list_levels(pyramid, [(stride,) for stride in pyramid.strides])
    encoder = fill_encoder(
        pyramid, weights, backbone=backbone, levels=levels, source=source, padding=padding
    )
    kinds = {(len(flow.blocks), flow.condition_channels, is_soft(flow)) for flow in flows}
    if len(kinds) != 1:
        raise ModelFileError(
            f"{path}: its decoders differ in blocks, condition or permutation; cflow-ad needs the "
            "same for all levels"
        )
    blocks, position_channels, soft = kinds.pop()
    settings = Settings.preset(
        "paper",
        backbone=backbone,
        strides=pyramid.strides,
        folds=None,
        method={
            "padding": padding,
            "interpolation": interpolation,
            "blocks": blocks,
            "position_channels": position_channels,
            "permutation": "soft" if soft else "index",
            "clamp": clamp,
        },
        **changes,
    )
    sizing = settings.sizing
    box = (sizing.height, sizing.width)
    if sizing.canvas_shape(box) != box:
        raise ModelFileError(
            f"{path}: its input of {sizing.height}x{sizing.width} pixels is not a multiple of "
            f"{sizing.multiple}, which cflow-ad needs; give such a --size"
        )
    model = CflowModel(encoder, [Level(raw_layer(flow.channels), flow) for flow in flows])
    model = model.requires_grad_(False).to(pick_device(device))
    return Detector(
        model,
        settings=settings,
        calibration=None,
        training={"imported_from": origin, "file": path.name, "assumed": assumed, **provenance()},
        name=str(path),
        bundled=True,
    )
