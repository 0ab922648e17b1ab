"""Recognise a backbone by its tensors, and find the levels that the decoders take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from cflow_ad.cflow.pyramid import MOBILENET_V3, Tap, list_taps
from cflow_ad.errors import ModelFileError, SettingsError

_RESNETS = {
    # blocks of each stage, shape of the first 3x3 convolution of a bottleneck
    ((2, 2, 2, 2), None): "resnet18",
    ((3, 4, 6, 3), None): "resnet34",
    ((3, 4, 6, 3), (64, 64)): "resnet50",
    ((3, 4, 6, 3), (128, 4)): "resnext50_32x4d",
    ((3, 4, 6, 3), (128, 128)): "wide_resnet50_2",
    ((3, 4, 23, 3), (64, 64)): "resnet101",
    ((3, 4, 23, 3), (128, 128)): "wide_resnet101_2",
}

_MOBILENET_PROJECTION = (160, 960, 1, 1)  # of its last inverted-residual block


def recognise(encoder: Mapping[str, Tensor]) -> str | None:
    """Recognise a backbone by the names and shapes of its tensors, or those of its first stages.

    Returns:
        Its name, without a tag of weights; None where it is not recognised.
    """
    stages = [0] * 4
    for name in encoder:
        if (match := re.match(r"layer([1-4])\.(\d+)\.", name)) is not None:
            stage = int(match[1]) - 1
            stages[stage] = max(stages[stage], int(match[2]) + 1)
    if "layer1.0.conv1.weight" in encoder:
        width = None
        if "layer1.0.conv3.weight" in encoder:
            width = tuple(encoder["layer1.0.conv2.weight"].shape[:2])
        used = 4 - stages.count(0)
        for (depths, of_first), backbone in _RESNETS.items():
            if of_first == width and list(depths[:used]) == stages[:used]:
                return backbone
        return None
    projection = re.compile(r"(features\.)?15\.block\.3\.0\.weight")
    for name, value in encoder.items():
        if projection.fullmatch(name) and tuple(value.shape) == _MOBILENET_PROJECTION:
            return MOBILENET_V3
    return None


def choose_backbone(
    path: Path, encoder: Mapping[str, Tensor], *, stated: str | None, tag: str = ""
) -> str:
    """Decide on the backbone: what the user or the checkpoint states, or the tensors show.

    The tag of the weights is appended to what is recognised of a ResNet.

    Raises:
        ModelFileError: it is neither stated nor recognised, or the tensors are of another one.
    """
    found = recognise(encoder)
    if stated is not None:
        if found is not None and stated.partition(".")[0] != found:
            raise ModelFileError(
                f"{path}: its encoder is a {found}, not a {stated}; leave --backbone out, or give "
                f"{found}"
            )
        return stated
    if found is None:
        what = "a backbone that is not recognised" if encoder else "no encoder"
        raise ModelFileError(f"{path}: it has {what}; name the backbone with --backbone")
    return found if found == MOBILENET_V3 else found + tag


def choose_strides(
    path: Path, backbone: str, channels: Sequence[int], names: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Find the levels of a backbone that decoders of so many channels take.

    The checkpoint may state the names of the modules whose outputs they take.

    Raises:
        ModelFileError: the backbone has no such levels.
    """
    try:
        taps = list_taps(backbone)
    except SettingsError as error:
        raise ModelFileError(f"{path}: {error}") from error
    levels: list[Tap | None]
    if names is None:
        # Of two levels with the same number of channels the coarser one.
        by_channels = {tap.channels: tap for tap in taps}
        levels = [by_channels.get(count) for count in channels]
    else:
        by_name = {tap.name: tap for tap in taps}
        levels = [by_name.get(name) for name in names]
    found = [tap for tap in levels if tap is not None]
    strides = tuple(tap.stride for tap in found)
    fits = [tap.channels for tap in found] == list(channels)
    if not fits or list(strides) != sorted(set(strides)):
        given = ", ".join(map(str, channels))
        offered = ", ".join(f"{tap.channels} ({tap.name})" for tap in taps)
        raise ModelFileError(
            f"{path}: its decoders take levels of {given} channels, and {backbone} has levels of "
            f"{offered}; give the right --backbone"
        )
    return strides
