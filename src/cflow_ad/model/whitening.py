"""The fixed first layer of a flow: an affine map fitted on good vectors.

Backbones differ by orders of magnitude in the scale and correlation of their channels. A flow whose
couplings start near the identity spends most of its training undoing that. Taking the mean and the
covariance out in closed form leaves it only the shape of the density to learn.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

InputLayer = Literal["whiten", "standardise", "raw"]


class AffineInput(nn.Module):
    """`z -> A (z - mean)`, with its log-determinant.

    Args:
        mean: shape `(C,)`.
        matrix: `A`: shape `(C, C)`, or `(C,)` for a diagonal one.
    """

    mean: Tensor
    matrix: Tensor
    log_det: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        log_det = matrix.abs().log().sum() if matrix.ndim == 1 else torch.linalg.slogdet(matrix)[1]
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)
        self.register_buffer("log_det", log_det, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map vectors of shape `(..., C)`."""
        centred = z - self.mean
        return centred * self.matrix if self.matrix.ndim == 1 else centred @ self.matrix.T

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        if self.matrix.ndim == 1:
            return x / self.matrix + self.mean
        return torch.linalg.solve(self.matrix, x.unsqueeze(-1)).squeeze(-1) + self.mean
