"""The network as one graph of plain tensor operations, from pixels to the anomaly map and score.

It computes what `CflowNetwork` and `scoring.anomaly_map` compute, from the same parameters. What
those derive at each call (position terms, folded matrices, the constant part of the
log-determinant) is derived once here, so that an exported file holds numbers and not their making.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.evidence import CERTAIN, Evidence
from cflow_ad.cflow.flow import CouplingBlock, standard_normal_log_prob
from cflow_ad.cflow.model import CflowNetwork, Level
from cflow_ad.cflow.place_means import STEPS
from cflow_ad.cflow.position import FRAME, at_places, axis_places
from cflow_ad.scoring.anomaly_map import LEAST, gaussian_weights
from cflow_ad.scoring.canvas import Shape

_LEAST = float(LEAST)


class ExportGraph(nn.Module):
    """The whole of a detector's network, for canvases up to a given size.

    Args:
        network: in evaluation mode.
        box: height and width of the largest canvas, multiples of the largest stride.
        only: whether no other canvas will come.
        smoothing: standard deviation of the Gaussian over the map, in pixels of the canvas.
        weights: of the levels in the map; unset, all alike.
        evidence: that the map is brought to; unset, it is left as it is.
    """

    gaussian: Tensor

    def __init__(
        self,
        network: CflowNetwork,
        box: Shape,
        *,
        smoothing: float,
        weights: Sequence[float] | None = None,
        evidence: Evidence | None = None,
        only: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = _with_static_padding(network.encoder, box)
        grids = network.encoder.spec.grids(box)
        self.levels = nn.ModuleList(
            _ExportLevel(level, grid, only)
            for level, grid in zip(cast(list[Level], list(network.levels)), grids, strict=True)
        )
        self.weights = list(weights or [1.0] * len(grids))
        self.evidence = None if evidence is None else _ExportEvidence(evidence)
        self.register_buffer("gaussian", torch.from_numpy(gaussian_weights(smoothing)).float())
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score a batch.

        Args:
            image: shape `(B, H, W, 3)`, float32, RGB in 0..255; `H` and `W` multiples of the
                largest stride, at most the box's.

        Returns:
            The anomaly map, shape `(B, H, W)`; its highest value, shape `(B,)`; and for each level
            the normality, shape `(B, H / stride, W / stride)`.
        """
        pyramid = self.encoder(image)
        normalities = [level(z) for level, z in zip(self.levels, pyramid, strict=True)]
        enlarged = [
            weight
            * F.interpolate(
                grid[:, None], size=image.shape[1:3], mode="bilinear", align_corners=False
            )
            for grid, weight in zip(normalities, self.weights, strict=True)
            if weight
        ]
        mean = self._smooth(torch.stack(enlarged).sum(0) / sum(self.weights))[:, 0]
        # Twice, since with both bounds at once the exporter stumbles.
        anomaly_map = 0 - mean.clamp(min=_LEAST).clamp(max=1.0).log()
        score = anomaly_map.amax((1, 2))
        if self.evidence is not None:
            factor = self.evidence(normalities, score)
            anomaly_map, score = anomaly_map * factor[:, None, None], score * factor
        return anomaly_map, score, *normalities

    def _smooth(self, values: Tensor) -> Tensor:
        """Gaussian along either axis of `(B, 1, H, W)`; beyond the edge the values stay."""
        radius = len(self.gaussian) // 2
        if radius == 0:
            return values
        padded = F.pad(values, (radius,) * 4, mode="replicate")
        across = F.conv2d(padded, self.gaussian[None, None, None, :])
        return F.conv2d(across, self.gaussian[None, None, :, None])


class _ExportEvidence(nn.Module):
    """`Evidence.factor` for each image of a batch."""

    middle: Tensor
    deviation: Tensor

    def __init__(self, evidence: Evidence) -> None:
        super().__init__()
        self.register_buffer("middle", torch.tensor(evidence.middle))
        self.register_buffer("deviation", torch.tensor(evidence.deviation))
        self.joint = evidence.joint_middle, evidence.joint_deviation
        self.exponent = CERTAIN * evidence.relative

    def forward(self, normalities: Sequence[Tensor], score: Tensor) -> Tensor:
        """Shape `(B,)`, from each level's normality and the highest value of the map."""
        peaks = [0 - grid.amin((1, 2)).clamp(min=_LEAST).log() for grid in normalities]
        of_each = (torch.stack((*peaks, score), dim=1) - self.middle) / self.deviation
        joint = (of_each.mean(1) - self.joint[0]) / self.joint[1]
        told = (joint / CERTAIN).tanh() - (of_each[:, -1] / CERTAIN).tanh()
        return (self.exponent * told).exp()


class _ExportLevel(nn.Module):
    """`Level`, with all that does not depend on the image worked out for a grid of cells.

    Where positions are relative and canvases of several sizes may come, that is every place, of
    which each canvas takes its own.
    """

    mean: Tensor
    matrix: Tensor
    log_det: Tensor
    reference: Tensor
    spread: Tensor

    def __init__(self, level: Level, cells: Shape, only: bool) -> None:
        super().__init__()
        self.channels = level.flow.channels
        couplings = cast(list[CouplingBlock], list(level.flow.blocks))
        self.takes_places = level.flow.frame == "relative" and not only
        rows, columns = (
            (torch.arange(FRAME)[:, None], torch.arange(FRAME)[None])
            if self.takes_places
            else level.flow.places(*cells)
        )
        codes = [
            level.flow.axis_code(int(places.max()) + 1)[places.flatten()]
            for places in (columns, rows)
        ]
        self.blocks = nn.ModuleList(_ExportBlock(block, *codes) for block in couplings)
        log_det = sum(float(block.global_scale().log().sum()) for block in couplings)
        mean = level.input_layer.mean
        self.means = copy.deepcopy(level.means) if self.takes_places else None
        if level.means is not None and self.means is None:
            mean = mean + level.means(*cells)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("matrix", level.input_layer.matrix.clone())
        self.register_buffer("log_det", torch.tensor(float(log_det)))
        of_parts = self.takes_places or level.reference.ndim == 0
        for name, values in (("reference", level.reference), ("spread", level.spread)):
            known = values if of_parts else at_places(values, rows, columns)
            self.register_buffer(name, known.clone())

    def forward(self, z: Tensor) -> Tensor:
        """Normality of vectors `(B, h, w, C)`, shape `(B, h, w)`."""
        x = z - self.mean
        if self.means is not None:
            x = x - self._means_of(z.shape[1], z.shape[2])
        x = x * self.matrix if self.matrix.ndim == 1 else F.linear(x, self.matrix)
        log_det = self.log_det
        reference, spread = self.reference, self.spread
        rows: Tensor | slice = slice(z.shape[1])
        columns: Tensor | slice = slice(z.shape[2])
        if self.takes_places:
            rows, columns = (axis_places(side, "relative") for side in z.shape[1:3])
            reference, spread = (
                at_places(of, rows[:, None], columns[None]) for of in (reference, spread)
            )
        for block in self.blocks:
            x, log_scale = block(x, rows, columns)
            log_det = log_det + log_scale
        value = (standard_normal_log_prob(x) + log_det) / self.channels
        return ((value - reference) / spread).exp().clamp(max=1.0)

    def _means_of(self, height: int, width: int) -> Tensor:
        """`PlaceMeans.forward`, of sides that may be unknown until the graph runs."""
        assert self.means is not None
        tall, wide = (torch.ones(side).sum() for side in (height, width))
        places = [axis_places(side, "relative") for side in (height, width)]
        return self.means.at_crossings(STEPS * (tall / wide).log2(), places[0], places[1])


class _ExportBlock(nn.Module):
    """`CouplingBlock` at known positions, its scales and offsets folded into its matrices."""

    of_column: Tensor
    of_row: Tensor
    first: Tensor
    second: Tensor
    second_bias: Tensor
    mixing: Tensor
    mixing_bias: Tensor

    def __init__(self, block: CouplingBlock, column_code: Tensor, row_code: Tensor) -> None:
        super().__init__()
        self.n1, self.n2, self.clamp = block.n1, block.n2, block.clamp
        of_column, of_row = block.position_term(column_code, row_code)
        scale = block.global_scale()
        permutation = block.permutation
        if not permutation.is_floating_point():
            permutation = torch.eye(len(permutation))[permutation]
        self.register_buffer("of_column", of_column[None, :].clone())
        self.register_buffer("of_row", of_row[:, None].clone())
        self.register_buffer("first", block.first.weight[:, : block.n1].clone())
        self.register_buffer("second", 0.1 * block.second.weight)
        self.register_buffer("second_bias", 0.1 * block.second.bias)
        self.register_buffer("mixing", permutation * scale)
        self.register_buffer("mixing_bias", permutation @ block.offset)

    def forward(
        self, x: Tensor, rows: Tensor | slice, columns: Tensor | slice
    ) -> tuple[Tensor, Tensor]:
        """As `CouplingBlock.forward`, for a whole map `(B, h, w, C)`, but for a constant."""
        x1, x2 = x[..., : self.n1], x[..., self.n1 :]
        position = self.of_column[:, columns] + self.of_row[rows]
        hidden = F.relu(F.linear(x1, self.first) + position)
        a = F.linear(hidden, self.second, self.second_bias)
        log_scale = self.clamp * torch.tanh(a[..., : self.n2])
        changed = x2 * log_scale.exp() + a[..., self.n2 :]
        y = F.linear(torch.cat((x1, changed), dim=-1), self.mixing, self.mixing_bias)
        return y, log_scale.sum(-1)


def _with_static_padding(encoder: Encoder, box: Shape) -> Encoder:
    """The encoder, with the padding that TensorFlow's `same` works out at each call written down.

    It is the same for every canvas, since the largest stride divides all of them.
    """
    network = copy.deepcopy(encoder.network)
    found: dict[str, tuple[int, int, int, int]] = {}

    def watch(name: str) -> Any:
        def hook(module: Conv2dSame, inputs: tuple[Tensor]) -> None:
            of_rows, of_columns = (
                _same_padding(int(inputs[0].shape[2 + axis]), module, axis) for axis in (0, 1)
            )
            found[name] = (*of_columns, *of_rows)

        return hook

    same = {name: m for name, m in network.named_modules() if isinstance(m, Conv2dSame)}
    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in same.items()]
    with torch.no_grad():
        network(torch.zeros(1, 3, *box))
    for hook in hooks:
        hook.remove()
    for name, padding in found.items():
        module = same[name]
        convolution = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            cast(tuple[int, int], module.kernel_size),
            cast(tuple[int, int], module.stride),
            dilation=cast(tuple[int, int], module.dilation),
            groups=module.groups,
            bias=module.bias is not None,
        )
        convolution.weight, convolution.bias = module.weight, module.bias
        network.set_submodule(name, nn.Sequential(nn.ZeroPad2d(padding), convolution))
    return Encoder(network, encoder.spec)


def _same_padding(side: int, module: nn.Conv2d, axis: int) -> tuple[int, int]:
    """Before and after, so that the output has `side / stride` cells, rounded up."""
    stride, kernel = module.stride[axis], module.kernel_size[axis]
    cells = -(-side // stride)
    reach = (cells - 1) * stride + module.dilation[axis] * (kernel - 1) + 1
    total = max(reach - side, 0)
    return total // 2, total - total // 2
