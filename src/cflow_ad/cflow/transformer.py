"""Vision transformers as backbones: the outputs of several of their blocks are the levels.

All blocks have one stride, that of the patches, and every position sees the whole image. Images may
have any size that is a multiple of the patch: timm resizes learned position embeddings, and
computes rotary ones, for the size at hand. Class and register tokens are left out.

References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021. Oquab et al., DINOv2, TMLR 2024.
    Darcet et al., Vision Transformers Need Registers, ICLR 2024. Siméoni et al., DINOv3, 2025.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from typing import Any, cast

import timm
import torch
from timm.models import model_entrypoint
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from cflow_ad.errors import SettingsError
from cflow_ad.settings import Settings

FAMILIES = ("vision_transformer", "deit", "eva")
"""timm's modules of vision transformers that take any size; DINOv3 is in `eva`."""

MOST_POSITIONS = 2**14
"""Of an image: the time of attention grows with the square of their number, and each block keeps
some 4 C numbers for each. At a patch of 14 an image of 1792x1792."""


def is_transformer(backbone: str) -> bool:
    """Whether a backbone is a vision transformer that takes images of any size."""
    if not timm.is_model(backbone):
        return False
    return model_entrypoint(backbone.partition(".")[0]).__module__.split(".")[-1] in FAMILIES


def choose_blocks(depth: int) -> tuple[int, ...]:
    """Choose the blocks whose outputs are the levels: those that end a quarter, half and three
    quarters of the depth, of 12 blocks 2, 5 and 8 (from 0).

    They are spread over the range from which Dinomaly (Guo et al., CVPR 2025) takes its blocks: 2
    to 9 of 12, 4 to 18 of 24.
    """
    return tuple(sorted({-(-depth * quarters // 4) - 1 for quarters in (1, 2, 3)}))


def resolve_blocks(settings: Settings) -> Settings:
    """Write down the blocks and strides of a vision transformer; other settings are unchanged.

    Raises:
        SettingsError: the blocks or strides that are given are not of this backbone.
    """
    backbone, blocks = settings.backbone, settings.transformer_blocks
    if not is_transformer(backbone):
        if blocks:
            raise SettingsError(
                f"transformer_blocks: {backbone} is not a vision transformer that takes any size; "
                "leave them out"
            )
        return settings
    with torch.device("meta"):
        network = cast(Any, create_transformer(backbone, None))
    depth, patch_size = len(network.model.blocks), network.feature_info.reduction()[0]
    blocks = blocks or choose_blocks(depth)
    if blocks[-1] >= depth:
        raise SettingsError(
            f"transformer_blocks: {backbone} has no block {blocks[-1]}; it has 0 to {depth - 1}"
        )
    strides = (patch_size,) * len(blocks)
    if settings.strides not in (Settings().strides, strides):
        raise SettingsError(
            f"strides: all maps of {backbone} have the stride {patch_size}; leave strides out, and "
            "give transformer_blocks"
        )
    return replace(settings, strides=strides, transformer_blocks=blocks)


def create_transformer(backbone: str, blocks: Sequence[int] | None) -> nn.Module:
    """Create a transformer that ends at its last block wanted: from `(B, 3, H, W)` to one
    `(B, C, H / patch, W / patch)` for each of the blocks; None keeps all of them.
    """
    options: dict[str, Any] = {"features_only": True, "dynamic_img_size": True}
    if blocks is not None:
        options["out_indices"] = tuple(blocks)
    network: nn.Module = timm.create_model(backbone, pretrained=False, **options)
    return network


def rename_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a transformer's weights timm's names, as they stand in `network`.

    Those that the authors of DINOv2 and DINOv3 publish have others, and position embeddings of
    another size of image are resized.
    """
    model = cast(Any, network).model
    given = {name.removeprefix("model."): value for name, value in weights.items()}
    family = importlib.import_module(type(model).__module__)
    rename = getattr(family, "checkpoint_filter_fn", checkpoint_filter_fn)
    # Those of another backbone are refused where they are matched. timm prints what it leaves out.
    errors = (KeyError, ValueError, RuntimeError, AttributeError, TypeError)
    with suppress(*errors), redirect_stdout(StringIO()):
        given = rename(given, model)
    return {f"model.{name}": value for name, value in given.items()}
