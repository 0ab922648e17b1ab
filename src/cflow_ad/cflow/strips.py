"""A backbone in strips of rows: the same maps of a large image in a fraction of the memory.

Most of a network's memory is in the widened maps between its feature maps, which are used once. A
convolution sees only a few rows beyond its own, so the modules between two feature maps can run
over their input strip by strip, with a margin of the rows that they see. The result is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

PIXELS_AT_ONCE = 2**20
"""Pixels of a strip of the image."""

_POSITIONS_AT_ONCE = 2**17  # of a strip of a feature map
_PROBE = (1024, 64)


class Segment(nn.Module):
    """The modules between one feature map and the next.

    Args:
        modules: run one after the other.
        ratio: rows of the input for each of the output.
        margin: rows of the input that an output row sees beyond its own, a multiple of `ratio`;
            unset where it sees all of them, so that the segment runs whole.
    """

    def __init__(self, modules: Sequence[nn.Module], ratio: int, margin: int | None) -> None:
        super().__init__()
        self.run = nn.Sequential(*modules)
        self.ratio = ratio
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of a map `(B, C, H, W)` strip by strip."""
        return self.over(x, axis=2, at_once=_POSITIONS_AT_ONCE)

    def over(
        self,
        x: Tensor,
        *,
        axis: int,
        at_once: int,
        prepare: Callable[[Tensor], Tensor] = lambda strip: strip,
    ) -> Tensor:
        """Compute the output strip by strip.

        Args:
            x: the input, its rows along `axis` and its columns along the next.
            axis: of the rows.
            at_once: positions of a strip, about.
            prepare: makes a map of a strip, such as the normalisation of pixels.
        """
        if self.margin is None:
            return cast(Tensor, self.run(prepare(x)))
        height, width = x.shape[axis], x.shape[axis + 1]
        rows = max(1, at_once // (width * self.ratio)) * self.ratio
        whole: Tensor | None = None  # filled strip by strip: joining parts would need them twice
        for start in range(0, height, rows):
            stop = min(height, start + rows)
            top = max(0, start - self.margin)
            strip = x.narrow(axis, top, min(height, stop + self.margin) - top)
            part = self.run(prepare(strip))
            if whole is None:
                shape = (len(part), part.shape[1], height // self.ratio, part.shape[3])
                whole = torch.empty(
                    shape,
                    dtype=part.dtype,
                    device=part.device,
                    memory_format=torch.channels_last,
                )
            first, count = (start - top) // self.ratio, (stop - start) // self.ratio
            whole.narrow(2, start // self.ratio, count).copy_(part.narrow(2, first, count))
        return cast(Tensor, whole)


@torch.no_grad()
def split_into_segments(network: nn.Module) -> list[Segment]:
    """Split a network into segments, one for each of its feature maps.

    That its modules run in their order, and which of them see only a few rows, is tested on a
    probe: attention and squeeze-and-excitation see the whole map.

    Args:
        network: in evaluation mode, `(B, 3, H, W)` to its feature maps.

    Returns:
        The segments; none where the network is not a plain sequence, which has to run whole.
    """
    parameter = next(network.parameters(), None)
    if parameter is None:
        return []
    x = torch.rand(1, 3, *_PROBE, generator=torch.Generator().manual_seed(0)).to(parameter)
    try:
        expected = list(network(x))
        segments: list[Segment] = []
        pending: list[nn.Module] = []
        before = x
        for module in _sequence(network):
            pending.append(module)
            x = module(x)
            if x.shape == expected[0].shape and torch.equal(x, expected[0]):
                segments.append(_build_segment(pending, before, x))
                pending, before = [], x
                expected.pop(0)
                if not expected:
                    return segments
    except (RuntimeError, TypeError, AttributeError, AssertionError, NotImplementedError):
        pass  # it takes images of one size alone, or is not a sequence of maps
    return []


def _sequence(network: nn.Module) -> list[nn.Module]:
    """List a network's modules in their order, stages of blocks expanded."""
    found: list[nn.Module] = []
    for child in network.children():
        found += list(child.children()) if isinstance(child, nn.Sequential) else [child]
    return found


def _build_segment(modules: Sequence[nn.Module], x: Tensor, output: Tensor) -> Segment:
    """Find the margin of a segment that maps `x` to `output`; it sees all rows where NaN in the
    lower half of the input reaches above the margin.
    """
    ratio = x.shape[2] // output.shape[2]
    margin = -(-_reach(modules) // ratio) * ratio
    half = x.shape[2] // 2
    below = x.clone()
    below[:, :, half:] = torch.nan
    above = nn.Sequential(*modules)(below)[:, :, : max(0, half - margin) // ratio]
    is_local = above.numel() > 0 and not bool(above.isnan().any())
    return Segment(modules, ratio, margin if is_local else None)


def _reach(modules: Sequence[nn.Module]) -> int:
    """Rows of the input that an output row sees beyond its own, at most."""
    stride = reach = 1
    for module in nn.Sequential(*modules).modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, step, dilation = (
                value if isinstance(value, int) else cast(int, value[0])
                for value in (module.kernel_size, module.stride, getattr(module, "dilation", 1))
            )
            reach += stride * (kernel // 2) * dilation
            stride *= step
    return reach
