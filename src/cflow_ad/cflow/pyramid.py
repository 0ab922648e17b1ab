"""A backbone's structure, cut down to the feature pyramid: without its weights, without its head.

timm gives the pyramid of most backbones. Of its EfficientNets and MobileNets several stages can
have one stride: they are tapped here, since timm gives the last of them alone. torchvision's
MobileNetV3-Large is here for the paper, which taps it inside its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import timm
import torch
import torchvision
from timm.data.config import resolve_data_config
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from cflow_ad.cflow.seeding import torch_seed
from cflow_ad.cflow.transformer import create_transformer
from cflow_ad.errors import SettingsError

Padding = Literal["zeros", "reflect"]

MOBILENET_V3 = "mobilenet_v3_large"
"""torchvision's name; timm's networks of this architecture have other weights and no such taps."""

_STAGED = (EfficientNetFeatures, MobileNetV3Features)
_PROBE = 64  # pixels
_MOBILENET_V3_TAPS = {8: (6, 40), 16: (12, 112), 32: (15, 160)}  # stride: block, channels


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """A network from `(B, 3, H, W)` to one `(B, C, H / stride, W / stride)` per map."""

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
    seed: int = 0,
) -> Pyramid:
    """Build the structure of a backbone up to the last map wanted, its weights drawn at random.

    Args:
        backbone: a timm model name, or `mobilenet_v3_large`.
        strides: of the maps wanted, in rising order. Where several stages have one stride the last
            is taken; a stride that is given `k` times takes the last `k`. Of a vision transformer
            that of its patches, once for each block.
        blocks: of a vision transformer, see `transformer`.
        padding: `zeros` is what backbones are trained with; `reflect` mirrors the feature maps in
            every convolution that pads, as the authors of CFLOW-AD do in their ResNets.
        seed: of the weights.

    Raises:
        SettingsError: there is no such backbone, no map of such a stride, or the convolutions
            cannot pad so.
    """
    with torch_seed(seed):
        if backbone == MOBILENET_V3:
            pyramid = _mobilenet_v3(strides)
        elif blocks:
            pyramid = _transformer_pyramid(backbone, strides, blocks)
        else:
            pyramid = _timm_pyramid(backbone, strides)
    if padding == "reflect":
        _reflect(pyramid.network, backbone)
    return pyramid


@dataclass(frozen=True, slots=True)
class Tap:
    """A feature map that a backbone can give."""

    name: str
    """Of the module whose output it is."""
    stride: int
    channels: int


def list_taps(backbone: str) -> list[Tap]:
    """The levels that a backbone can give, in rising order of their strides: the last map of each.

    Raises:
        SettingsError: there is no such backbone, or it gives no feature maps.
    """
    return list({tap.stride: tap for tap in _list_maps(backbone)}.values())


def join_strides(backbone: str, strides: Sequence[int]) -> list[tuple[int, ...]]:
    """List for each level of these strides the strides of the maps that are joined to it: its own,
    twice if the backbone has two maps of it or more; and to the first level's, before them, half of
    its own, if the backbone has a map of that.

    Raises:
        SettingsError: there is no such backbone, or it gives no feature maps.
    """
    available = [tap.stride for tap in _list_maps(backbone)]
    # One that is missing is named where the pyramid is built.
    joined = [(stride,) * max(1, min(2, available.count(stride))) for stride in strides]
    half = strides[0] // 2
    if half in available:
        joined[0] = (half, *joined[0])
    return joined


def _list_maps(backbone: str) -> list[Tap]:
    if backbone == MOBILENET_V3:
        return [
            Tap(f"features.{block}", stride, channels)
            for stride, (block, channels) in _MOBILENET_V3_TAPS.items()
        ]
    return [tap for _, tap in _outline(backbone)[1]]


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


class StagePyramid(nn.Module):
    """The outputs of stages of an EfficientNet or MobileNet of timm.

    Args:
        network: timm's pyramid of it.
        taps: numbers of the stages, in rising order; those after the last are left out.
    """

    def __init__(self, network: Any, taps: Sequence[int]) -> None:
        super().__init__()
        # Named as timm names them, since weights are found by these names.
        self.conv_stem, self.bn1 = network.conv_stem, network.bn1
        self.act1 = getattr(network, "act1", nn.Identity())
        self.blocks = network.blocks[: taps[-1] + 1]
        self.taps = tuple(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Shape `(B, 3, H, W)` to one map per tap."""
        x = self.act1(self.bn1(self.conv_stem(x)))
        maps = []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in self.taps:
                maps.append(x)
        return maps


def _mobilenet_v3(strides: Sequence[int]) -> Pyramid:
    _choose(MOBILENET_V3, strides, list(_MOBILENET_V3_TAPS))
    taps = [_MOBILENET_V3_TAPS[stride] for stride in strides]
    blocks = [number for number, _ in taps]
    whole: Any = torchvision.models.mobilenet_v3_large(weights=None)
    return Pyramid(
        network=ProjectionPyramid(whole.features[: blocks[-1] + 1], blocks),
        strides=tuple(strides),
        channels=tuple(channels for _, channels in taps),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def _timm_network(backbone: str, **taps: Any) -> nn.Module:
    """Build timm's pyramid of a backbone: with `out_indices` as the taps, else with all."""
    if not timm.is_model(backbone):
        near = ", ".join(timm.list_models(f"*{backbone.split('_')[0]}*")[:5])
        raise SettingsError(
            f"backbone {backbone!r}: timm {timm.__version__} has no such model"
            + (f"; it has {near}" if near else "")
        )
    try:
        network: nn.Module = timm.create_model(
            backbone, features_only=True, pretrained=False, **taps
        )
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise SettingsError(f"backbone {backbone!r}: timm gives no feature maps for it") from error
    return network


def _timm_pyramid(backbone: str, strides: Sequence[int]) -> Pyramid:
    outline, available = _outline(backbone)
    chosen = _choose(backbone, strides, [tap.stride for _, tap in available])
    numbers = tuple(available[at][0] for at in chosen)
    channels = tuple(available[at][1].channels for at in chosen)
    if isinstance(outline, _STAGED):
        network: nn.Module = StagePyramid(_timm_network(backbone), numbers)
    else:
        network = _timm_network(backbone, out_indices=numbers)
    return Pyramid(network, tuple(strides), channels, *_pixel_scale(outline))


def _transformer_pyramid(backbone: str, strides: Sequence[int], blocks: Sequence[int]) -> Pyramid:
    network = create_transformer(backbone, blocks)
    channels = tuple(cast(Any, network).feature_info.channels())
    return Pyramid(network, tuple(strides), channels, *_pixel_scale(network), tuple(blocks))


@lru_cache(maxsize=8)
def _outline(backbone: str) -> tuple[nn.Module, tuple[tuple[int, Tap], ...]]:
    """Build a network of timm without weights, and list its maps; see `_number_taps`."""
    with torch.device("meta"):
        network = _timm_network(backbone)
        return network, tuple(_number_taps(network))


def _number_taps(network: nn.Module) -> list[tuple[int, Tap]]:
    """List the maps of a network of timm, and their numbers there, in the order of computing."""
    if isinstance(network, _STAGED):
        stages = StagePyramid(network, range(len(network.blocks))).eval()
        with torch.no_grad():
            maps = stages(torch.zeros(1, 3, _PROBE, _PROBE))
        return [
            (number, Tap(f"blocks.{number}", _PROBE // one.shape[2], one.shape[1]))
            for number, one in enumerate(maps)
        ]
    info = cast(Any, network.feature_info)
    # timm numbers some networks' maps from 1.
    columns = zip(info.module_name(), info.reduction(), info.channels(), strict=True)
    return list(zip(info.out_indices, (Tap(*column) for column in columns), strict=True))


def _pixel_scale(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels that a network of timm was trained on."""
    config: dict[str, Any] = resolve_data_config(model=network)  # type: ignore[no-untyped-call]
    return tuple(config["mean"]), tuple(config["std"])


def _choose(backbone: str, strides: Sequence[int], available: Sequence[int]) -> list[int]:
    """Find the places of the maps wanted among those available, by their strides."""
    found = []
    for stride in dict.fromkeys(strides):
        places = [at for at, one in enumerate(available) if one == stride]
        count = list(strides).count(stride)
        if len(places) < count:
            raise SettingsError(
                f"strides: {backbone} has no level of stride {stride}; it has "
                + ", ".join(map(str, sorted(set(available))))
            )
        found += places[-count:]
    return found


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
