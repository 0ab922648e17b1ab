"""The whole of a detector's model as one graph, from pixels to the anomaly map and the score.

The graph is the folded model that every detector scores with (`cflow.folded`), followed by the
functions of `scoring.anomaly_map` and `scoring.score` as tensor operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.folded import FoldedModel
from cflow_ad.cflow.model import CflowModel
from cflow_ad.scoring.anomaly_map import LEAST, gaussian_weights
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.score import HIGHEST, LEAST_TERM, weigh_levels
from cflow_ad.settings import Settings


class ExportGraph(nn.Module):
    """A detector's model, for canvases of one size or of any.

    Args:
        model: fitted, on the CPU.
        settings: of the model.
        canvas: height and width of the only canvas, multiples of the largest stride; unset, the
            canvas may have any such size.
    """

    weights: Tensor

    def __init__(self, model: CflowModel, settings: Settings, canvas: Shape | None = None) -> None:
        super().__init__()
        self.folded = FoldedModel(model)
        if canvas is not None:
            for level, grid in zip(self.folded, model.encoder.spec.grids(canvas), strict=True):
                level.fix(grid)
        weights = weigh_levels(len(model.levels), settings.method)
        self.register_buffer("weights", torch.tensor(weights))
        self.by_peak = settings.method.image_score == "peak"
        self.map = AnomalyMap(settings.smoothing)
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score a batch.

        Args:
            image: shape `(B, H, W, 3)`, float32, RGB in 0..255; `H` and `W` multiples of the
                largest stride.

        Returns:
            The anomaly map, shape `(B, H, W)`; the image's score, shape `(B,)`; and for each level
            the energy, shape `(B, H / stride, W / stride)`.
        """
        energies: list[Tensor] = self.folded(image)
        anomaly_map = self.map(energies, image.shape[1:3])
        if self.by_peak:
            score = anomaly_map.amax((1, 2))
        else:
            terms = torch.stack([mean_of_highest(grid) for grid in energies], dim=1)
            score = (terms.clamp(min=LEAST_TERM).log() @ self.weights).exp()
        return anomaly_map, score, *energies


class AnomalyMap(nn.Module):
    """`scoring.anomaly_map.compute_anomaly_map` of a batch whose images fill their canvases.

    Args:
        smoothing: standard deviation of the Gaussian, in pixels of the map.
    """

    gaussian: Tensor

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        weights = torch.from_numpy(gaussian_weights(smoothing)).float()
        self.register_buffer("gaussian", weights)

    def forward(self, energies: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Join the levels' energies `(B, h, w)` at `size`, height and width: `(B, *size)`."""
        halfway = [self._resampling(size[0], grid.shape[1]) @ (-grid).exp() for grid in energies]
        columns = [self._resampling(size[1], grid.shape[2]) for grid in energies]
        mean = torch.cat(halfway, dim=2) @ torch.cat(columns, dim=1).T / len(energies)
        # Twice, since with both bounds at once the exporter stumbles.
        return 0 - mean.clamp(min=float(LEAST)).clamp(max=1.0).log()

    def _resampling(self, pixels: int, cells: int) -> Tensor:
        """Build the matrix `(pixels, cells)` that resamples and smooths along one axis.

        Beyond the outermost centres of cells, and beyond the outermost pixels, values continue.
        """
        radius = len(self.gaussian) // 2
        cell = torch.arange(cells).to(self.gaussian)
        pixel = torch.arange(-radius, pixels + radius).to(self.gaussian).clamp(0, pixels - 1)
        ratio = (cell[-1] + 1) / (pixel[-1] + 1)  # of tensors, since sides may be unknown
        position = torch.minimum(((pixel + 0.5) * ratio - 0.5).clamp(min=0), cell[-1])
        matrix = (1 - (position[:, None] - cell).abs()).clamp(min=0)
        if radius == 0:
            return matrix
        return F.conv2d(matrix[None, None], self.gaussian[None, None, :, None])[0, 0]


def mean_of_highest(grid: Tensor) -> Tensor:
    """Average the four highest values of each `(B, h, w)`, or all where there are fewer: `(B,)`."""
    flat = grid.flatten(1)
    absent = torch.full_like(flat[:, :1], -1.0).expand(-1, HIGHEST - 1)
    highest = torch.cat((flat, absent), dim=1).topk(HIGHEST, dim=1).values
    present = (highest >= 0).to(highest)
    return (highest * present).sum(1) / present.sum(1)
