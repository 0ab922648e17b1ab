"""The fixed first layer of a level: an affine map fitted on good vectors.

Backbones differ by orders of magnitude in the scale and correlation of their channels. A flow whose
couplings start near the identity spends most of its training undoing that. Taking the mean and the
covariance out in closed form leaves it only the shape of the density to learn. Directions in which
good vectors hardly vary may be left out: what they hold is mostly noise, which whitening magnifies.
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
        matrix: `A`, shape `(D, C)` with `D <= C`; unset, the identity.
    """

    mean: Tensor
    matrix: Tensor | None

    def __init__(self, mean: Tensor, matrix: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @property
    def log_det(self) -> Tensor:
        """Log of the absolute determinant of `A`, a scalar; where `D < C`, of `A` on the space that
        its rows span, `log det(A A^T) / 2`.
        """
        if self.matrix is None:
            return self.mean.new_zeros(())
        matrix = self.matrix.double()
        log_det: Tensor = torch.linalg.slogdet(matrix @ matrix.T).logabsdet / 2
        return log_det.to(self.matrix.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Map vectors of shape `(..., C)` to `(..., D)`."""
        centred = z - self.mean
        return centred if self.matrix is None else F.linear(centred, self.matrix)


def raw_layer(channels: int) -> InputLayer:
    """Build the paper's input layer, which changes nothing."""
    return InputLayer(torch.zeros(channels))


def fit_whitening(chunks: Iterable[Tensor], components: int) -> InputLayer:
    """Fit the whitening layer to vectors, in chunks of shape `(n, C)`, none of them empty.

    Args:
        chunks: the vectors, on any device; the layer is on the CPU.
        components: of the vectors' `C` principal components, how many of the largest to keep.
            Components are those of the correlation matrix: each channel counts alike, whatever its
            scale.

    Raises:
        DivergenceError: a vector was NaN or infinite.
    """
    # One small decomposition, which a CPU finishes sooner than a GPU.
    mean, covariance = (moment.cpu() for moment in _moments(chunks))
    if not covariance.isfinite().all():
        raise DivergenceError("the encoder's features are not finite; check its weights")
    diagonal = covariance.diagonal()
    # The absolute term serves vectors that do not vary at all.
    diagonal.copy_(diagonal + SHRINKAGE * diagonal.mean() + 1e-12)
    spread = diagonal.sqrt()
    values, vectors = torch.linalg.eigh(covariance / torch.outer(spread, spread))  # rising
    values, vectors = values[-components:], vectors[:, -components:]
    matrix = values.rsqrt()[:, None] * vectors.T / spread
    if components == len(vectors):
        matrix = vectors @ matrix  # turned back, close to the standardised vectors themselves
    return InputLayer(mean.float(), matrix.float())


def _moments(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute mean and covariance."""
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
    return origin + off, products / count - torch.outer(off, off)
