"""The first stages of an encoder in strips of rows: the same features in a fraction of the memory.

What a network needs most memory for are the widened maps of its first stages, which are large and
used once. A convolution sees only a few rows beyond its own, so such a stage can go over its input
strip by strip, exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

_AT_ONCE = 2**16  # cells of a strip, about
_ROWS = 16  # a strip begins and ends at multiples of this many rows
_PROBE = (256, 64)
_STAGES = 3  # beyond them maps are small


class Strips(nn.Module):
    """A stage that runs over a large map a strip at a time.

    Args:
        stage: from one map to another.
        margin: rows that a strip needs beyond its own.
        ratio: rows of the input for each of the output.
        at_once: cells of a strip, about; a map of twice as many is taken whole.
    """

    def __init__(self, stage: nn.Module, margin: int, ratio: int, at_once: int = _AT_ONCE) -> None:
        super().__init__()
        self.stage = stage
        self.margin = margin
        self.ratio = ratio
        self.at_once = at_once

    def forward(self, x: Tensor) -> Tensor:
        """Shape `(B, C, H, W)` to `(B, C', H / ratio, W / ratio)`."""
        height, width = x.shape[2:]
        if height * width <= 2 * self.at_once:
            return cast(Tensor, self.stage(x))
        rows = max(_ROWS, self.at_once // width // _ROWS * _ROWS)
        whole: Tensor | None = None  # filled as it comes: joining parts would need them twice
        for start in range(0, height, rows):
            top = max(0, start - self.margin)
            stop = min(height, start + rows)
            part = self.stage(x[:, :, top : min(height, stop + self.margin)])
            if whole is None:
                shape = (len(x), part.shape[1], height // self.ratio, part.shape[3])
                whole = torch.empty(
                    shape, dtype=x.dtype, device=x.device, memory_format=_layout(part)
                )
            first, rows_out = (start - top) // self.ratio, (stop - start) // self.ratio
            at = start // self.ratio
            whole[:, :, at : at + rows_out] = part[:, :, first : first + rows_out]
        return cast(Tensor, whole)


def _layout(x: Tensor) -> torch.memory_format:
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


@torch.no_grad()
def in_strips(network: nn.Module) -> nn.Module:
    """A network whose first stages go in strips where an image is large.

    Whether a stage allows it is found by trying: one that looks at the whole map, as to squeeze and
    excite channels, is left as it is.

    Args:
        network: in evaluation mode; changed.
    """
    like = next(network.parameters(), None)
    if like is None:
        return network
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = (inputs[0], output)

        return hook

    stages = dict(_stages(network))
    hooks = [stage.register_forward_hook(watch(name)) for name, stage in stages.items()]
    probe = torch.rand(1, 3, *_PROBE, generator=torch.Generator().manual_seed(0))
    # Dark above and bright below: a strip that is taken for the whole must not look like it.
    probe = (4 * probe * torch.linspace(-1, 1, _PROBE[0])[:, None]).to(like)
    try:
        network(probe)
    except (RuntimeError, TypeError, AttributeError, AssertionError):
        return network  # it takes images of one size alone
    finally:
        for hook in hooks:
            hook.remove()
    for name, stage in stages.items():
        strips = _tried(stage, *seen[name]) if name in seen else None
        if strips is not None:
            network.set_submodule(name, strips)
    return network


def _stages(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The first sequences of blocks by name, as timm's networks have them."""
    found = []
    for name, child in network.named_children():
        if not isinstance(child, nn.Sequential):
            continue
        inner = [(n, c) for n, c in child.named_children() if isinstance(c, nn.Sequential)]
        found += [(f"{name}.{n}", c) for n, c in inner] if inner else [(name, child)]
    yield from found[:_STAGES]


def _tried(stage: nn.Module, x: Tensor, expected: Tensor) -> Strips | None:
    if x.ndim != 4 or expected.ndim != 4:
        return None
    ratio = x.shape[2] // expected.shape[2]
    if expected.shape[2] * ratio != x.shape[2] or _ROWS % ratio:
        return None
    margin = -(-_reach(stage) // _ROWS) * _ROWS
    trial = Strips(copy.deepcopy(stage), margin, ratio, at_once=1)
    found = trial(x)
    # Within rounding; reflection at the border of a strip is not that of the map, and shows.
    if found.shape != expected.shape:
        return None
    near = (found - expected).abs().max() <= 1e-4 * expected.abs().max()  # not if it is NaN
    return Strips(stage, margin, ratio) if near else None


def _reach(stage: nn.Module) -> int:
    """Rows beyond its own that a stage can see at the most, each stride taken for an early one."""
    strides = reach = 1
    for module in stage.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, stride, dilation = (
                value if isinstance(value, int) else cast(int, value[0])
                for value in (module.kernel_size, module.stride, getattr(module, "dilation", 1))
            )
            reach += strides * (kernel // 2) * dilation
            strides = max(strides, stride)
    return reach * strides
