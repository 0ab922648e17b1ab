"""The fixed first layer of a flow: an affine map fitted on good vectors.

Backbones differ by orders of magnitude in the scale and correlation of their channels. A flow whose
couplings start near the identity spends most of its training undoing that. Taking the mean and the
covariance out in closed form leaves it only the shape of the density to learn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.errors import DivergenceError

InputKind = Literal["whiten", "standardise", "raw"]


class InputLayer(nn.Module):
    """`x = A (z - mean)`, with its log-determinant.

    Args:
        mean: shape `(C,)`.
        matrix: `A`: shape `(C, C)`, or `(C,)` for a diagonal one.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @property
    def log_det(self) -> Tensor:
        """Log of the absolute determinant of `A`, a scalar."""
        if self.matrix.ndim == 1:
            return self.matrix.abs().log().sum()
        log_det: Tensor = torch.linalg.slogdet(self.matrix.double()).logabsdet
        return log_det.to(self.matrix.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Map vectors of shape `(..., C)`."""
        centred = z - self.mean
        if self.matrix.ndim == 1:
            return torch.mul(centred, self.matrix)
        return F.linear(centred, self.matrix)

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        if self.matrix.ndim == 1:
            return x / self.matrix + self.mean
        return F.linear(x, torch.linalg.inv(self.matrix)) + self.mean


def fit_input_layer(
    kind: InputKind, chunks: Iterable[Tensor], channels: int, *, shrinkage: float
) -> InputLayer:
    """Fit the layer on good vectors, in one pass over them.

    Args:
        kind: `whiten` removes mean and covariance (`A` is the symmetric inverse square root, which
            stays closest to the vectors themselves), `standardise` mean and variance of each
            channel, `raw` nothing.
        chunks: vectors, each shape `(n, C)`; at least one vector in all unless `raw`.
        channels: `C`.
        shrinkage: added to the covariance's diagonal, as a fraction of its mean, so that
            directions in which the good vectors hardly vary are not magnified without bound.

    Raises:
        DivergenceError: a vector is NaN or infinite.
    """
    if kind == "raw":
        return InputLayer(torch.zeros(channels), torch.ones(channels))
    mean, covariance = _moments(chunks, channels)
    if not covariance.isfinite().all():
        raise DivergenceError("the encoder's features are not finite; check its weights")
    # The absolute term serves vectors that do not vary at all.
    variance = covariance.diagonal() + shrinkage * covariance.diagonal().mean() + 1e-12
    if kind == "standardise":
        return InputLayer(mean.float(), variance.rsqrt().float())
    covariance.diagonal().copy_(variance)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors @ (values.rsqrt()[:, None] * vectors.T)
    return InputLayer(mean.float(), matrix.float())


def _moments(chunks: Iterable[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance in double precision."""
    count = 0
    total = torch.zeros(channels, dtype=torch.float64)
    products = torch.zeros(channels, channels, dtype=torch.float64)
    origin: Tensor | None = None
    for chunk in chunks:
        # Moments about a first guess of the mean keep their digits where the mean is large.
        origin = chunk.double().mean(0) if origin is None else origin
        centred = chunk.double() - origin
        count += len(chunk)
        total += centred.sum(0)
        products += centred.T @ centred
    assert origin is not None, "no vectors to fit on"
    mean = total / count
    return origin + mean, products / count - torch.outer(mean, mean)
