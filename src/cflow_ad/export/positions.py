"""The positions of a vision transformer in a form that can be traced for any size.

timm resizes learned position embeddings with torch's bicubic resampling, which ONNX has no
counterpart of, and builds the grid of rotary ones from numbers that a tracer takes for constants.
Here both are tensor operations with the same results.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import pos_embed_sincos
from torch import Tensor

from cflow_ad.cflow.transformer import FAMILIES

_ROTARY: Any = pos_embed_sincos
_build_timms_grid = _ROTARY._build_grid


@contextmanager
def exportable_positions() -> Iterator[None]:
    """Within this context timm's transformers use the functions of this module."""
    families = [importlib.import_module(f"timm.models.{family}") for family in FAMILIES]
    swapped: list[tuple[Any, str, Any]] = [
        *((family, "resample_abs_pos_embed", resize_positions) for family in families),
        (_ROTARY, "_build_grid", build_grid),
    ]
    before = [getattr(module, name) for module, name, _ in swapped]
    try:
        for module, name, own in swapped:
            setattr(module, name, own)
        yield
    finally:
        for (module, name, _), original in zip(swapped, before, strict=True):
            setattr(module, name, original)


def resize_positions(
    embeddings: Tensor, new_size: Sequence[int], old_size: Sequence[int], num_prefix_tokens: int = 1
) -> Tensor:
    """Resize learned position embeddings, as `timm.layers.resample_abs_pos_embed` does.

    Args:
        embeddings: shape `(1, prefix tokens + h * w, C)`.
        new_size: height and width, in positions.
        old_size: `h` and `w`.
        num_prefix_tokens: of class and register tokens, which are kept as they are.
    """
    prefix, grid = embeddings[:, :num_prefix_tokens], embeddings[:, num_prefix_tokens:]
    grid = grid.reshape(old_size[0], old_size[1], -1)
    down, across = (bicubic_matrix(*sides) for sides in zip(new_size, old_size, strict=True))
    resized = torch.einsum("Hh,Ww,hwc->HWc", down, across, grid.float())
    return torch.cat((prefix, resized.flatten(0, 1)[None].to(prefix)), dim=1)


def bicubic_matrix(new: int, old: int) -> Tensor:
    """Build the matrix `(new, old)` of bicubic resampling with antialiasing along one axis.

    The kernel is that of Keys (1981) with a = -0.5, widened where the axis shrinks.
    """
    step = old / _number(new)
    centre = (torch.arange(new) + 0.5) * step
    distance = (centre[:, None] - (torch.arange(old) + 0.5)).abs() / step.clamp(min=1)
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weight / weight.sum(1, keepdim=True)


def build_grid(feat_shape: Sequence[int], grid_type: str = "index", **options: Any) -> Tensor:
    """Build the coordinates of rotary embeddings, shape `(*feat_shape, 2)`, as timm's function of
    the same arguments does; those of DINOv3 here, others by timm.
    """
    is_dinov3 = grid_type == "centered" and options.get("grid_indexing", "ij") == "ij"
    if not is_dinov3 or options.get("normalize_coords", "separate") != "separate":
        grid: Tensor = _build_timms_grid(feat_shape, grid_type, **options)
        return grid
    offset = 0.5 + options.get("grid_offset", 0.0)
    axes = [(torch.arange(side).float() + offset) / _number(side) for side in feat_shape]
    return 2 * torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1) - 1


def _number(side: int) -> Tensor:
    """Make a tensor of a side, which may be unknown to the tracer."""
    return torch.full((), side, dtype=torch.float32)
