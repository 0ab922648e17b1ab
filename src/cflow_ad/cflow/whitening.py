"""The fixed first layer of a flow: an affine map fitted on good vectors.

Backbones differ by orders of magnitude in the scale and correlation of their channels. A flow whose
couplings start near the identity spends most of its training undoing that. Taking the mean and the
covariance out in closed form leaves it only the shape of the density to learn.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.errors import DivergenceError

SHRINKAGE = 1e-4
"""Added to the covariance's diagonal, as a fraction of its mean, so that directions in which good
vectors hardly vary are not magnified without bound."""


class InputLayer(nn.Module):
    """`x = A (z - mean)`, with its log-determinant.

    Args:
        mean: shape `(C,)`.
        matrix: `A`, shape `(C, C)`; unset, the identity.
    """

    mean: Tensor
    matrix: Tensor | None

    def __init__(self, mean: Tensor, matrix: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @property
    def log_det(self) -> Tensor:
        """Log of the absolute determinant of `A`, a scalar."""
        if self.matrix is None:
            return self.mean.new_zeros(())
        log_det: Tensor = torch.linalg.slogdet(self.matrix.double()).logabsdet
        return log_det.to(self.matrix.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Map vectors of shape `(..., C)`."""
        centred = z - self.mean
        return centred if self.matrix is None else F.linear(centred, self.matrix)


def raw_layer(channels: int) -> InputLayer:
    """Build the paper's input layer, which changes nothing."""
    return InputLayer(torch.zeros(channels))


def fit_whitening(chunks: Iterable[Tensor]) -> InputLayer:
    """Fit the whitening layer to vectors, in chunks of shape `(n, C)`, none of them empty.

    `A` is the symmetric inverse square root of the covariance, which stays closest to the vectors
    themselves.

    Raises:
        DivergenceError: a vector was NaN or infinite.
    """
    origin: Tensor | None = None
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        # About a first guess of the mean, sums keep their digits where the mean is large.
        origin = chunk.double().mean(0) if origin is None else origin
        centred = chunk.double() - origin
        count += len(chunk)
        total = total + centred.sum(0)
        products = products + centred.T @ centred
    assert origin is not None
    off = total / count
    covariance = products / count - torch.outer(off, off)
    if not covariance.isfinite().all():
        raise DivergenceError("the encoder's features are not finite; check its weights")
    diagonal = covariance.diagonal()
    # The absolute term serves vectors that do not vary at all.
    diagonal.copy_(diagonal + SHRINKAGE * diagonal.mean() + 1e-12)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors @ (values.rsqrt()[:, None] * vectors.T)
    return InputLayer((origin + off).float(), matrix.float())
