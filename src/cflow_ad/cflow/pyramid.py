"""A backbone's structure, cut down to the feature pyramid: without its weights, without its head.

timm gives the pyramid of most backbones. torchvision's MobileNetV3-Large is here for the paper,
which taps it inside its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import timm
import torch
import torchvision
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from cflow_ad.cflow.transformer import create_transformer
from cflow_ad.errors import SettingsError

Padding = Literal["zeros", "reflect"]

MOBILENET_V3 = "mobilenet_v3_large"
"""torchvision's name; timm's networks of this architecture have other weights and no such taps."""

_MOBILENET_V3_TAPS = {8: (6, 40), 16: (12, 112), 32: (15, 160)}  # stride: block, channels


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """A network from `(B, 3, H, W)` to one `(B, C, H / stride, W / stride)` per stride."""

    network: nn.Module
    strides: tuple[int, ...]
    """Of each of its maps."""
    channels: tuple[int, ...]
    """Of each of its maps."""
    mean: tuple[float, ...]
    """Of the images the backbone was trained on, per channel, of pixels in 0..1."""
    std: tuple[float, ...]
    """Per channel, of pixels in 0..1."""
    blocks: tuple[int, ...] = ()
    """Of a vision transformer, whose outputs are its maps, from 0; empty for other backbones."""


def build_pyramid(
    backbone: str,
    strides: Sequence[int],
    *,
    blocks: Sequence[int] = (),
    padding: Padding = "zeros",
    finer: bool = False,
) -> Pyramid:
    """Build the structure of a backbone up to the last level wanted.

    Args:
        backbone: a timm model name, or `mobilenet_v3_large`.
        strides: of the levels wanted, in rising order; the last tap of a stride is taken. Of a
            vision transformer that of its patches, once for each block.
        blocks: of a vision transformer, see `transformer`.
        padding: `zeros` is what backbones are trained with; `reflect` mirrors the feature maps in
            every convolution that pads, as the authors of CFLOW-AD do in their ResNets.
        finer: begin with a map of half the first stride, where the backbone has one.

    Raises:
        SettingsError: there is no such backbone, no level of such a stride, or the convolutions
            cannot pad so.
    """
    if backbone == MOBILENET_V3:
        pyramid = _mobilenet_v3(strides, finer)
    elif blocks:
        pyramid = _describe(create_transformer(backbone, blocks), strides, blocks)
    else:
        pyramid = _timm_pyramid(backbone, strides, finer)
    if padding == "reflect":
        _reflect(pyramid.network, backbone)
    return pyramid


@dataclass(frozen=True, slots=True)
class Tap:
    """A level that a backbone can give."""

    name: str
    """Of the module whose output it is."""
    stride: int
    channels: int


def list_taps(backbone: str) -> list[Tap]:
    """The levels that a backbone can give, in rising order of their strides.

    Raises:
        SettingsError: there is no such backbone, or it gives no feature maps.
    """
    if backbone == MOBILENET_V3:
        return [
            Tap(f"features.{block}", stride, channels)
            for stride, (block, channels) in _MOBILENET_V3_TAPS.items()
        ]
    info = cast(Any, _timm_network(backbone).feature_info)
    columns = zip(info.module_name(), info.reduction(), info.channels(), strict=True)
    deepest = {stride: Tap(name, stride, channels) for name, stride, channels in columns}
    return sorted(deepest.values(), key=lambda tap: tap.stride)


class ProjectionPyramid(nn.Module):
    """The outputs of the projection convolutions of some inverted-residual blocks, before batch
    normalisation and before the residual is added.

    Args:
        features: the network's blocks, up to the last one tapped.
        taps: their numbers, in rising order; the last is the last block.

    References:
        Gudovskiy et al., CFLOW-AD, WACV 2022: the taps of their MobileNetV3-Large.
    """

    def __init__(self, features: nn.Sequential, taps: Sequence[int]) -> None:
        super().__init__()
        self.features = features
        self.taps = tuple(taps)
        cast(Any, features[-1]).block[-1][1] = nn.Identity()  # beyond the last tap

    def forward(self, x: Tensor) -> list[Tensor]:
        """Shape `(B, 3, H, W)` to one map per tap."""
        levels = []
        for number, module in enumerate(self.features):
            if number not in self.taps:
                x = module(x)
                continue
            block: Any = module
            convolution, normalisation = block.block[-1]
            level = convolution(block.block[:-1](x))
            levels.append(level)
            projected = normalisation(level)
            x = x + projected if block.use_res_connect else projected
        return levels


def _mobilenet_v3(strides: Sequence[int], finer: bool) -> Pyramid:
    tapped = _strides_to_tap(MOBILENET_V3, strides, finer, list(_MOBILENET_V3_TAPS))
    taps = [_MOBILENET_V3_TAPS[stride] for stride in tapped]
    blocks = [number for number, _ in taps]
    whole: Any = torchvision.models.mobilenet_v3_large(weights=None)
    return Pyramid(
        network=ProjectionPyramid(whole.features[: blocks[-1] + 1], blocks),
        strides=tuple(tapped),
        channels=tuple(channels for _, channels in taps),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def _timm_network(backbone: str) -> nn.Module:
    """With all the taps that timm gives."""
    if not timm.is_model(backbone):
        near = ", ".join(timm.list_models(f"*{backbone.split('_')[0]}*")[:5])
        raise SettingsError(
            f"backbone {backbone!r}: timm {timm.__version__} has no such model"
            + (f"; it has {near}" if near else "")
        )
    try:
        network: nn.Module = timm.create_model(backbone, features_only=True, pretrained=False)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise SettingsError(f"backbone {backbone!r}: timm gives no feature maps for it") from error
    return network


def _timm_pyramid(backbone: str, strides: Sequence[int], finer: bool) -> Pyramid:
    info = cast(Any, _timm_network(backbone).feature_info)
    available = list(info.reduction())
    tapped = _strides_to_tap(backbone, strides, finer, available)
    # The last tap of a stride is the deepest one. timm numbers some networks' taps from 1.
    deepest = dict(zip(available, info.out_indices, strict=True))
    taps = tuple(deepest[stride] for stride in tapped)
    network = timm.create_model(backbone, features_only=True, pretrained=False, out_indices=taps)
    _truncate(network)
    return _describe(network, tapped)


def _describe(network: nn.Module, strides: Sequence[int], blocks: Sequence[int] = ()) -> Pyramid:
    """Build a pyramid of a network of timm with the maps wanted."""
    config: dict[str, Any] = resolve_data_config(model=network)  # type: ignore[no-untyped-call]
    channels = cast(Any, network).feature_info.channels()
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Pyramid(network, tuple(strides), tuple(channels), mean, std, tuple(blocks))


def _strides_to_tap(
    backbone: str, strides: Sequence[int], finer: bool, available: Sequence[int]
) -> list[int]:
    missing = [stride for stride in strides if stride not in available]
    if missing:
        raise SettingsError(
            f"strides: {backbone} has no level of stride {missing[0]}; it has "
            + ", ".join(map(str, sorted(set(available))))
        )
    half = strides[0] // 2
    return [half, *strides] if finer and half in available else list(strides)


def _truncate(network: Any) -> None:
    """Drop the stages after the last tap, which timm's EfficientNets would still compute."""
    last = network.feature_info.module_name()[-1].split(".")
    blocks = getattr(network, "blocks", None)
    if last[0] == "blocks" and len(last) == 2 and isinstance(blocks, nn.Sequential):
        network.blocks = blocks[: int(last[1]) + 1]


def _reflect(network: nn.Module, backbone: str) -> None:
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if type(module) is not nn.Conv2d:
            raise SettingsError(
                f"padding=reflect: {backbone} pads in its own way ({type(module).__name__}); "
                "leave padding at zeros, or take another backbone"
            )
        if any(cast(Sequence[int], module.padding)):
            module.padding_mode = "reflect"


def random_weights(
    backbone: str, strides: Sequence[int], seed: int, *, blocks: Sequence[int] = ()
) -> dict[str, Tensor]:
    """A backbone's weights as drawn before any training; arguments as for `build_pyramid`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_pyramid(backbone, strides, blocks=blocks).network
        state: dict[str, Tensor] = network.state_dict()
    return state
