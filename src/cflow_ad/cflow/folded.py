"""The model folded for scoring: the same function, with all that no image changes computed once.

This is the one form that images are scored in: by `Scorer` on a CPU or a GPU, and by every export.
A flow over a feature map is a network of 1x1 convolutions, since each position's vector is mapped
by itself. Of each coupling block the position's share of the subnet is a table for the size of the
map, and global scales, offsets and the factor of the subnet's output are part of its weights. The
last permutation changes no likelihood and is left out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.flow import CouplingBlock
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.level import Level
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.position import at_places, axis_places, encode_axis
from cflow_ad.cflow.precision import dtype_of
from cflow_ad.scoring.canvas import Shape
from cflow_ad.settings import Precision

_ALL = slice(None)


class Tables(NamedTuple):
    """What depends on the position alone, for the positions of a map or of some of its rows."""

    shift: Tensor
    """Added to a vector after whitening: minus its mean, `(C, h, w)` or `(C, 1, 1)`."""
    terms: list[Tensor]
    """For each block the position's share of the subnet's hidden layer, `(hidden, h, w)`."""
    location: Tensor
    """Of log-likelihoods, `(h, w)` or a scalar."""
    scale: Tensor
    """Of log-likelihoods, `(h, w)` or a scalar."""

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.shift, *self.terms, self.location, self.scale]

    def laid_out(self) -> Tables:
        """Arrange them in memory as maps are on their device."""
        layout = _layout(self.shift.device)
        shift, *terms = (
            of[None].contiguous(memory_format=layout)[0] for of in (self.shift, *self.terms)
        )
        return Tables(shift, terms, self.location, self.scale)


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
        self.register_buffer("first", _kernel((of_x1 * scale[:n1]).to(dtype)))
        self.register_buffer("of_position", of_position.contiguous())
        self.register_buffer("first_bias", bias.to(dtype))
        self.register_buffer("second", _kernel((second * factor[:, None]).detach().to(dtype)))
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
            self.mixing = _kernel(permutation * scale)
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
        hidden = F.relu_(_at_each_position(y1.to(term.dtype), self.first, self.first_bias) + term)
        a, shift = _at_each_position(hidden, self.second, self.second_bias).float().chunk(2, dim=1)
        log_scale = torch.sigmoid(a) * (2 * self.clamp) - self.clamp
        changed = (y2 + self.offset) * log_scale.exp() + shift
        y = torch.cat((y1, changed), dim=1)
        if self.mixing is not None:
            y = _at_each_position(y, self.mixing, self.mixing_bias)
        elif self.order is not None:
            y = _reordered(y, self.order)
        return y, log_scale.sum(1)


class FoldedLevel(nn.Module):
    """Features to log-likelihoods and energies.

    Args:
        level: fitted.
        dtype: of the subnets' products.
    """

    mean: Tensor
    whitening: Tensor | None
    location: Tensor
    scale: Tensor
    last_scale: Tensor
    last_offset: Tensor

    def __init__(self, level: Level, dtype: torch.dtype) -> None:
        super().__init__()
        level = _contiguous(level)
        flow = level.flow
        self.channels, self.frame, self.stride = flow.channels, level.frame, level.stride
        self.axis_channels = flow.condition_channels // 2
        self.means = level.means
        mean, matrix = level.input_layer.mean, level.input_layer.matrix
        if matrix is not None:  # of the means of places too: interpolation is linear
            mean = matrix @ mean
            if self.means is not None:
                self.means.tables = F.linear(self.means.tables, matrix)
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", None if matrix is None else _kernel(matrix))
        self.register_buffer("location", level.location)
        self.register_buffer("scale", level.scale)
        couplings = [cast(CouplingBlock, block) for block in flow.blocks]
        scale, offset = torch.ones_like(self.mean), torch.zeros_like(self.mean)
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
        self._is_fixed = False
        self.requires_grad_(False)

    def fix(self, grid: Shape) -> None:
        """Keep the tables of maps of `grid`, height and width, which are the only ones from now on,
        in the module.
        """
        for number, tensor in enumerate(self.tables(*grid).tensors):
            self.register_buffer(f"table{number}", tensor.clone())
        self._is_fixed = True

    def tables(self, height: int, width: int, rows: slice = _ALL) -> Tables:
        """Compute what depends on the position alone, for these rows of a map of `height x width`
        positions.
        """
        if self._is_fixed:
            shift, *terms, location, scale = (
                self.get_buffer(f"table{number}") for number in range(len(self.blocks) + 3)
            )
            return Tables(shift, terms, location, scale)
        row_places, column_places = (axis_places(side, self.frame) for side in (height, width))
        row_places = row_places[rows]
        row_code, column_code = (
            encode_axis(places, self.axis_channels, stride=self.stride).to(self.mean)
            for places in (row_places, column_places)
        )
        mean = self.mean[:, None, None]
        if self.means is not None:
            mean = mean + self.means(height, width, rows).permute(2, 0, 1)
        at = row_places[:, None].to(self.mean.device), column_places[None].to(self.mean.device)
        return Tables(
            -mean,
            [cast(FoldedBlock, block).term(row_code, column_code) for block in self.blocks],
            at_places(self.location, *at),
            at_places(self.scale, *at),
        )

    def log_likelihood(self, features: Tensor, tables: Tables) -> Tensor:
        """Compute the log-likelihood per dimension at every position, as `Level.forward`: features
        `(B, C, h, w)`, with the tables of their positions, to `(B, h, w)`.
        """
        y = features.float().contiguous(memory_format=_layout(features.device))
        if self.whitening is not None:
            y = _at_each_position(y, self.whitening)
        y = y + tables.shift
        log_det = torch.zeros_like(y[:, 0]) + self.constant
        for block, term in zip(self.blocks, tables.terms, strict=True):
            y, log_scale = block(y, term)
            log_det = log_det + log_scale
        u = (y + self.last_offset) * self.last_scale
        return (log_det - 0.5 * u.square().sum(1)) / self.channels

    def forward(self, features: Tensor, tables: Tables) -> Tensor:
        """Compute the energy at every position; as `log_likelihood`, then `Level.energy`."""
        value = self.log_likelihood(features, tables)
        return ((tables.location - value) / tables.scale).clamp(min=0)


class FoldedModel(nn.Module):
    """Pixels to the energies of every level.

    Copies what it needs: later changes to the model have no effect on it.

    Args:
        model: fitted.
        precision: `fp32`; `tf32`, in which a CUDA device computes products; or `bf16` for the
            encoder and the subnets, which are most of the work. Whitening, couplings and
            likelihoods stay in single precision.
    """

    def __init__(self, model: CflowModel, precision: Precision = "fp32") -> None:
        super().__init__()
        dtype = dtype_of(precision)
        self.encoder = FoldedEncoder(model.encoder, precision)
        self.levels = nn.ModuleList(FoldedLevel(level, dtype) for level in model)
        self.eval()

    def __iter__(self) -> Iterator[FoldedLevel]:
        return iter(cast(list[FoldedLevel], list(self.levels)))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute the energy of every position of every level.

        Args:
            pixels: shape `(B, H, W, 3)`, RGB in 0..255, sides multiples of the largest stride.

        Returns:
            For each level, shape `(B, H / stride, W / stride)`, at least 0.
        """
        pyramid = self.encoder(pixels)
        return [
            level(features, level.tables(*features.shape[2:]))
            for level, features in zip(self, pyramid, strict=True)
        ]


def _is_accelerator(device: torch.device) -> bool:
    return device.type != "cpu"


def _layout(device: torch.device) -> torch.memory_format:
    """Return how maps lie in memory: on accelerators, the channels of a position together."""
    return torch.channels_last if _is_accelerator(device) else torch.contiguous_format


def _at_each_position(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply the vector of each position by a matrix: a 1x1 convolution. On accelerators it is
    one product, which reads some of the channels where they are.
    """
    if not _is_accelerator(x.device):
        return F.conv2d(x, kernel, bias)
    batch, channels, height, width = x.shape
    vectors = x.permute(0, 2, 3, 1).reshape(-1, channels)
    matrix = kernel[:, :, 0, 0].T
    product = vectors @ matrix if bias is None else torch.addmm(bias, vectors, matrix)
    return product.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _reordered(y: Tensor, order: Tensor) -> Tensor:
    """Reorder the channels; the layout in memory stays."""
    if not _is_accelerator(y.device):
        return y.index_select(1, order)
    return y.permute(0, 2, 3, 1).index_select(3, order).permute(0, 3, 1, 2)


def _contiguous(level: Level) -> Level:
    """Copy a level into contiguous memory: strides decide how products round, and a model that is
    loaded scores bit for bit as the one that was saved.
    """
    copied = copy.deepcopy(level)
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.data = tensor.data.contiguous()
    return copied


def _kernel(matrix: Tensor) -> Tensor:
    """Turn a matrix into a 1x1 convolution's weight."""
    return matrix.detach().contiguous()[:, :, None, None]
