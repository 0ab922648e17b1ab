"""Checkpoints of the authors' code (github.com/gudovskiy/cflow-ad).

A dictionary of two: `encoder_state_dict`, torchvision's names, and `decoder_state_dict`, one state
dict of FrEIA for each level. What the tensors do not say, the authors hold fixed: stretched to a
square by Lanczos, ImageNet's mean and deviation, clamp 1.9, and in their ResNets, reflection
instead of zeros beyond the border. The square's side stands in the file's name, as in
`mvtec_wide_resnet50_2_freia-cflow_pl3_cb8_inp512_run0_carpet_2021-09-01-10:20:30.pt`.

References:
    Gudovskiy et al., CFLOW-AD, WACV 2022, and its code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cflow_ad.cflow.encoder import fill_encoder
from cflow_ad.cflow.pyramid import MOBILENET_V3, Padding
from cflow_ad.cflow.weights import download_weights, read_weights
from cflow_ad.detector import Detector
from cflow_ad.errors import ModelFileError
from cflow_ad.importers.assembly import assemble
from cflow_ad.importers.backbones import choose_backbone, choose_strides
from cflow_ad.importers.freia import flow_of
from cflow_ad.importers.reading import only_tensors, read_checkpoint, sound

CLAMP = 1.9
SIZE = "256x256"
"""What their code trains at where nothing else is asked for."""

_DEFAULT_TAG = ".tv_in1k"  # timm's name of torchvision's weights, which the authors start from
_STC = ((0.5,) * 3, (0.225,) * 3)  # their mean and deviation for the video set


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
        backbone: unset, what the encoder's tensors are of.
        size: of the network's input, `HEIGHTxWIDTH`; unset, what the file's name says, else
            256x256.
        weights: a file with the encoder's weights, for a checkpoint without them.
        later_clamp: trained with a FrEIA later than 0.2, whose soft clamp is another formula. The
            tensors do not show it.
        device: where to run; unset, a GPU if there is one.

    Returns:
        A detector that is not calibrated yet.

    Raises:
        ModelFileError: the file is missing, damaged, or no such checkpoint.
        WeightsError: the encoder's weights are not to be had, or not of the backbone.
        SettingsError: the size is none.
    """
    path = Path(path)
    content = read_checkpoint(
        path, instead="give a checkpoint of state dicts, as the authors' code saves it"
    )
    with sound(path):
        return _import(path, content, backbone, size, weights, later_clamp, device)


def _import(
    path: Path,
    content: Mapping[str, object],
    backbone: str | None,
    size: str | None,
    weights: str | None,
    later_clamp: bool,
    device: str | torch.device | None,
) -> Detector:
    tensors, source = only_tensors(content.get("encoder_state_dict")), path.name
    decoders = _decoders(path, content)
    if not tensors and weights is not None:
        tensors, source = read_weights(Path(weights)), Path(weights).name
    backbone = choose_backbone(path, tensors, said=backbone, tag=_DEFAULT_TAG)
    flows = [
        flow_of(
            decoder, clamp=CLAMP, later_clamp=later_clamp, where=f"{path}: decoder {number + 1}"
        )
        for number, decoder in enumerate(decoders)
    ]
    strides = choose_strides(path, backbone, [flow.channels for flow in flows])
    padding: Padding = "zeros" if backbone == MOBILENET_V3 else "reflect"
    mean, std = _STC if path.name.startswith("stc_") else (None, None)
    if not tensors:
        tensors, source = dict(download_weights(backbone)), "timm"
    encoder = fill_encoder(
        backbone, strides, tensors, source=source, padding=padding, mean=mean, std=std
    )
    named = re.search(r"_inp(\d+)_", path.name)
    assumed = "" if size or named else f"input of {SIZE}"
    return assemble(
        path,
        encoder,
        flows,
        {"size": size or (named[1] if named else SIZE), "clamp": CLAMP},
        origin="the authors' code",
        assumed=assumed,
        device=device,
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
            f"{path}: no checkpoint of the authors' code (no list of decoders under "
            f"decoder_state_dict); {advice}"
        )
    return [only_tensors(decoder) for decoder in found]
