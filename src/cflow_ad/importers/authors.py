"""Checkpoints of the authors' code (github.com/gudovskiy/cflow-ad).

A checkpoint has two entries: `encoder_state_dict`, torchvision's names, and `decoder_state_dict`, a
list of FrEIA's state dicts, one for each level. The rest is fixed in the authors' code: images
stretched to a square by Lanczos, ImageNet's mean and deviation, clamp 1.9, and in their ResNets,
padding by reflection. The square's side is part of the file's name, as in
`mvtec_wide_resnet50_2_freia-cflow_pl3_cb8_inp512_run0_carpet_2021-09-01-10:20:30.pt`.

References:
    Gudovskiy et al., CFLOW-AD, WACV 2022, and its code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cflow_ad.cflow.pyramid import MOBILENET_V3, Padding, build_pyramid
from cflow_ad.cflow.weights import download_weights, read_weights
from cflow_ad.detector import Detector
from cflow_ad.errors import ModelFileError, SettingsError
from cflow_ad.importers.assembly import assemble
from cflow_ad.importers.backbones import choose_backbone, choose_strides
from cflow_ad.importers.freia import convert_decoders
from cflow_ad.importers.reading import name_file_in_errors, read_checkpoint, select_tensors

CLAMP = 1.9
SIZE = "256x256"
"""The default input of their code."""

_DEFAULT_TAG = ".tv_in1k"  # timm's tag of torchvision's weights, which the authors use
_STC = ((0.5,) * 3, (0.225,) * 3)  # their mean and deviation for the video data set


def import_authors(
    path: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    size: str | None = None,
    weights: str | None = None,
    later_clamp: bool = False,
    device: str | torch.device | None = None,
) -> Detector:
    """Read a checkpoint of the authors' code.

    Args:
        path: the file.
        backbone: its name; unset, it is recognised by the encoder's tensors.
        size: of the network's input, `HEIGHTxWIDTH`; unset, that in the file's name, else 256x256.
        weights: a file with the encoder's weights, for a checkpoint without them.
        later_clamp: trained with a FrEIA later than 0.2, whose soft clamp has another formula; the
            tensors are alike.
        device: where to run; unset, a GPU if there is one.

    Returns:
        A detector that is not calibrated yet.

    Raises:
        ModelFileError: the file is missing, damaged, or not such a checkpoint.
        WeightsError: the encoder's weights are missing, or not of the backbone.
        SettingsError: the size cannot be read, or `weights` is given and not needed.
    """
    path = Path(path)
    content = read_checkpoint(
        path, instead="give a checkpoint of state dicts, as the authors' code saves it"
    )
    with name_file_in_errors(path):
        tensors, source = select_tensors(content.get("encoder_state_dict")), path.name
        decoders = _decoders(path, content)
        if tensors and weights is not None:
            raise SettingsError(
                f"{path}: it holds its encoder, and needs no other weights; leave --weights out"
            )
        if weights is not None:
            tensors, source = read_weights(Path(weights)), Path(weights).name
        backbone = choose_backbone(path, tensors, stated=backbone, tag=_DEFAULT_TAG)
        flows = convert_decoders(path, decoders, clamp=CLAMP, later_clamp=later_clamp)
        strides = choose_strides(path, backbone, [flow.channels for flow in flows])
        padding: Padding = "zeros" if backbone == MOBILENET_V3 else "reflect"
        pyramid = build_pyramid(backbone, strides, padding=padding)
        if path.name.startswith("stc_"):
            pyramid = replace(pyramid, mean=_STC[0], std=_STC[1])
        if not tensors:
            tensors, source = dict(download_weights(backbone)), "timm"
        named = re.search(r"_inp(\d+)_", path.name)
        return assemble(
            path,
            pyramid,
            tensors,
            flows,
            backbone=backbone,
            source=source,
            padding=padding,
            clamp=CLAMP,
            interpolation="lanczos",
            origin="the authors' code",
            assumed="" if size or named else f"input of {SIZE}",
            device=device,
            size=size or (named[1] if named else SIZE),
        )


def _decoders(path: Path, content: Mapping[str, object]) -> list[dict[str, Tensor]]:
    found = content.get("decoder_state_dict")
    if not isinstance(found, list) or not found:
        advice = (
            "import it with `cflow-ad import anomalib`"
            if "state_dict" in content
            else "give the file that the authors' code saved"
        )
        raise ModelFileError(
            f"{path}: not a checkpoint of the authors' code (no list of decoders under "
            f"decoder_state_dict); {advice}"
        )
    return [select_tensors(decoder) for decoder in found]
