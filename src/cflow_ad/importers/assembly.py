"""Put an imported encoder and imported flows together to a detector that is not calibrated yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.flow import ConditionalFlow
from cflow_ad.cflow.model import CflowNetwork, Level
from cflow_ad.cflow.whitening import InputLayer
from cflow_ad.detector import Detector
from cflow_ad.errors import ModelFileError
from cflow_ad.importers.freia import is_soft
from cflow_ad.settings import Settings
from cflow_ad.store.model_file import provenance


def assemble(
    path: Path,
    encoder: Encoder,
    flows: Sequence[ConditionalFlow],
    changes: Mapping[str, Any],
    *,
    origin: str,
    assumed: str,
    device: str | torch.device | None,
) -> Detector:
    """Build the detector.

    Args:
        path: of the checkpoint.
        encoder: frozen.
        flows: in the order of its strides.
        changes: settings that are not those of the paper, beside what encoder and flows say.
        origin: what trained it, for people.
        assumed: what the checkpoint does not say and was taken to be so; empty if nothing.
        device: where to run; unset, a GPU if there is one.

    Raises:
        ModelFileError: the flows are not alike, or the network's input has sides that it cannot
            divide.
        SettingsError: a change has a value that it cannot have.
    """
    kinds = {(len(flow.blocks), flow.position_channels, is_soft(flow)) for flow in flows}
    if len(kinds) != 1:
        raise ModelFileError(
            f"{path}: its decoders have other numbers of blocks, conditions or permutations from "
            "one another; cflow-ad has one for all levels"
        )
    blocks, position_channels, soft = kinds.pop()
    settings = Settings.preset(
        "paper",
        backbone=encoder.spec.backbone,
        strides=encoder.spec.strides,
        padding=encoder.spec.padding,
        blocks=blocks,
        position_channels=position_channels,
        permutation="soft" if soft else "index",
        calibration_fraction=Settings().calibration_fraction,
        **changes,
    )
    sizing = settings.sizing
    box = (sizing.height, sizing.width)
    if sizing.canvas_shape(box) != box:
        raise ModelFileError(
            f"{path}: its input of {sizing.height}x{sizing.width} pixels is no multiple of "
            f"{sizing.multiple}, which cflow-ad needs; give such a --size"
        )
    levels = [
        Level(InputLayer(torch.zeros(flow.channels), torch.ones(flow.channels)), flow)
        for flow in flows
    ]
    about = {"imported_from": origin, "file": path.name, "assumed": assumed, **provenance()}
    return Detector(
        CflowNetwork(encoder, levels).requires_grad_(False).to(pick_device(device)),
        settings=settings,
        calibration=None,
        training=about,
        name=str(path),
        bundled=True,
    )
