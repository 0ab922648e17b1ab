"""A flow and a memory folded for scoring: maps of whitened vectors to maps of log-likelihoods.

A flow over a feature map is a network of 1x1 convolutions, since each position's vector is mapped
by itself; so is a memory, but for the minimum. Of each coupling block the position's share of the
subnet is a table for the size of the map, and global scales, offsets and the factor of the subnet's
output are part of its weights. The last permutation changes no likelihood and is left out.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.flow import ConditionalFlow, CouplingBlock
from cflow_ad.cflow.memory import Memory

_AT_ONCE = 1024
"""Positions that are compared with a memory at once on a CPU: the distances stay in its caches."""


class FoldedBlock(nn.Module):
    """One coupling block. Its input is `y`, the flow's own variable being `scale * (y + offset)`.

    Args:
        block: as trained.
        scale: of `y`, shape `(C,)`.
        offset: of `y`, shape `(C,)`.
        is_last: leave the permutation out.
        dtype: of the subnet's products.
    """

    first: Tensor
    of_position: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    offset: Tensor
    mixing: Tensor | None
    mixing_bias: Tensor | None
    order: Tensor | None

    def __init__(
        self,
        block: CouplingBlock,
        scale: Tensor,
        offset: Tensor,
        *,
        is_last: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        n1 = block.n1
        self.n1, self.clamp = n1, block.clamp
        weight = block.first.weight.detach()
        of_x1, of_position = weight[:, :n1], weight[:, n1:]
        bias = block.first.bias.detach() + of_x1 @ (scale * offset)[:n1]
        second, second_bias = 0.1 * block.second.weight, 0.1 * block.second.bias
        # clamp * tanh(a) = 2 * clamp * sigmoid(2 a) - clamp: a sigmoid is far quicker.
        factor = torch.cat((torch.full_like(scale[n1:], 2.0), 1 / scale[n1:]))
        self.register_buffer("first", kernel((of_x1 * scale[:n1]).to(dtype)))
        self.register_buffer("of_position", of_position.contiguous())
        self.register_buffer("first_bias", bias.to(dtype))
        self.register_buffer("second", kernel((second * factor[:, None]).detach().to(dtype)))
        self.register_buffer("second_bias", (second_bias * factor).detach().to(dtype))
        self.register_buffer("offset", offset[n1:, None, None].contiguous())
        g, o = block.global_scale().detach(), block.offset.detach()
        scale = scale * g
        offset = torch.cat((offset[:n1], torch.zeros_like(offset[n1:]))) + o / scale
        self.register_buffer("mixing", None)
        self.register_buffer("mixing_bias", None)
        self.register_buffer("order", None)
        permutation = block.permutation
        if not is_last and permutation.is_floating_point():
            self.mixing = kernel(permutation * scale)
            self.mixing_bias = permutation @ (scale * offset)
            scale, offset = torch.ones_like(scale), torch.zeros_like(offset)
        elif not is_last:
            self.order = permutation
            scale, offset = scale[permutation], offset[permutation]
        self.after = scale, offset

    def term(self, row_code: Tensor, column_code: Tensor) -> Tensor:
        """Compute the position's share of the hidden layer, shape `(hidden, h, w)`, from the
        encodings of the rows, `(h, P / 2)`, and of the columns, `(w, P / 2)`.
        """
        of_column, of_row = self.of_position.chunk(2, dim=1)
        rows, columns = of_row @ row_code.T, of_column @ column_code.T
        return (rows[:, :, None] + columns[:, None, :]).to(self.first.dtype)

    def forward(self, y: Tensor, term: Tensor) -> tuple[Tensor, Tensor]:
        """Map `y`, shape `(B, C, h, w)`; returns the next `y` and the sum of the log-scales."""
        y1, y2 = y[:, : self.n1], y[:, self.n1 :]
        hidden = F.relu_(at_each_position(y1.to(term.dtype), self.first, self.first_bias) + term)
        a, shift = at_each_position(hidden, self.second, self.second_bias).float().chunk(2, dim=1)
        log_scale = torch.sigmoid(a) * (2 * self.clamp) - self.clamp
        changed = (y2 + self.offset) * log_scale.exp() + shift
        y = torch.cat((y1, changed), dim=1)
        if self.mixing is not None:
            y = at_each_position(y, self.mixing, self.mixing_bias)
        elif self.order is not None:
            y = _reordered(y, self.order)
        return y, log_scale.sum(1)


class FoldedFlow(nn.Module):
    """The coupling blocks of a flow.

    Args:
        flow: as trained.
        dtype: of the subnets' products.
    """

    last_scale: Tensor
    last_offset: Tensor

    def __init__(self, flow: ConditionalFlow, dtype: torch.dtype) -> None:
        super().__init__()
        self.channels = flow.channels
        couplings = [cast(CouplingBlock, block) for block in flow.blocks]
        first = couplings[0].offset
        scale, offset = torch.ones_like(first), torch.zeros_like(first)
        blocks = []
        for number, block in enumerate(couplings, start=1):
            is_last = number == len(couplings)
            folded = FoldedBlock(block, scale, offset, is_last=is_last, dtype=dtype)
            scale, offset = folded.after
            blocks.append(folded)
        self.blocks = nn.ModuleList(blocks)
        self.register_buffer("last_scale", scale[:, None, None])
        self.register_buffer("last_offset", offset[:, None, None])
        log_det = sum(float(block.global_scale().detach().log().sum()) for block in couplings)
        self.constant = log_det - 0.5 * self.channels * math.log(2 * math.pi)

    def terms(self, row_code: Tensor, column_code: Tensor) -> list[Tensor]:
        """Compute each block's `FoldedBlock.term`."""
        return [cast(FoldedBlock, block).term(row_code, column_code) for block in self.blocks]

    def forward(self, y: Tensor, terms: list[Tensor]) -> Tensor:
        """Compute log-likelihoods `(B, h, w)` of whitened vectors `(B, D, h, w)`."""
        log_det = torch.zeros_like(y[:, 0]) + self.constant
        for block, term in zip(self.blocks, terms, strict=True):
            y, log_scale = block(y, term)
            log_det = log_det + log_scale
        u = (y + self.last_offset) * self.last_scale
        return log_det - 0.5 * u.square().sum(1)


class FoldedMemory(nn.Module):
    """The vectors of a memory, never in half precision: distances are differences of products.

    Args:
        memory: as fitted.
    """

    vectors: Tensor
    squares: Tensor

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.register_buffer("vectors", kernel(-2 * memory.vectors))
        self.register_buffer("squares", memory.squares)

    def terms(self, row_code: Tensor, column_code: Tensor) -> list[Tensor]:
        """Return nothing: a memory does not depend on the position."""
        return []

    def forward(self, y: Tensor, terms: list[Tensor]) -> Tensor:
        """Compute the same as `Memory.log_prob`, as `FoldedFlow.forward`."""
        if is_accelerator(y.device) or torch.compiler.is_compiling():
            least = self._least(y)
        else:
            rows = max(1, _AT_ONCE // (y.shape[0] * y.shape[3]))
            least = torch.cat([self._least(some) for some in torch.split(y, rows, dim=2)], dim=1)
        nearest = least + y.square().sum(1)
        return 0 - nearest.clamp(min=0).sqrt()

    def _least(self, y: Tensor) -> Tensor:
        return at_each_position(y, self.vectors, self.squares).amin(1)


def is_accelerator(device: torch.device) -> bool:
    return device.type != "cpu"


def layout(device: torch.device) -> torch.memory_format:
    """Return how maps lie in memory: on accelerators, the channels of a position together."""
    return torch.channels_last if is_accelerator(device) else torch.contiguous_format


def at_each_position(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply the vector of each position by a matrix: a 1x1 convolution. On accelerators it is
    one product, which reads some of the channels where they are.
    """
    if not is_accelerator(x.device):
        return F.conv2d(x, kernel, bias)
    batch, channels, height, width = x.shape
    vectors = x.permute(0, 2, 3, 1).reshape(-1, channels)
    matrix = kernel[:, :, 0, 0].T
    product = vectors @ matrix if bias is None else torch.addmm(bias, vectors, matrix)
    return product.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _reordered(y: Tensor, order: Tensor) -> Tensor:
    """Reorder the channels; the layout in memory stays."""
    if not is_accelerator(y.device):
        return y.index_select(1, order)
    return y.permute(0, 2, 3, 1).index_select(3, order).permute(0, 3, 1, 2)


def kernel(matrix: Tensor) -> Tensor:
    """Turn a matrix into a 1x1 convolution's weight."""
    return matrix.detach().contiguous()[:, :, None, None]
