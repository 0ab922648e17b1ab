"""The fixed first layer of a flow: an affine map fitted on good vectors.

Backbones differ by orders of magnitude in the scale and correlation of their channels. A flow whose
couplings start near the identity spends most of its training undoing that. Taking the mean and the
covariance out in closed form leaves it only the shape of the density to learn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over vectors, in double precision; those of two sets of vectors can be added.

    Example:
        >>> sums = Moments.of([torch.tensor([[1.0], [3.0]])], 1)
        >>> float((sums + sums).mean), float((sums + sums).covariance)
        (2.0, 1.0)
    """

    count: int
    total: Tensor
    """Of the vectors less the origin, shape `(C,)`."""
    products: Tensor
    """Of the same with themselves, shape `(C, C)`."""
    origin: Tensor
    """A first guess of the mean: about it the sums keep their digits where the mean is large."""

    @classmethod
    def of(cls, chunks: Iterable[Tensor], channels: int) -> Moments:
        """Compute the sums.

        Args:
            chunks: vectors, each shape `(n, C)`.
            channels: `C`.
        """
        count = 0
        origin: Tensor | None = None
        total = torch.zeros(channels, dtype=torch.float64)
        products = torch.zeros(channels, channels, dtype=torch.float64)
        for chunk in chunks:
            if not len(chunk):
                continue
            origin = chunk.double().mean(0) if origin is None else origin
            centred = chunk.double() - origin
            count += len(chunk)
            total += centred.sum(0)
            products += centred.T @ centred
        return cls(count, total, products, torch.zeros_like(total) if origin is None else origin)

    def __add__(self, other: Moments) -> Moments:
        """Those of the vectors of both."""
        if not self.count:
            return other
        by = other.origin - self.origin
        mixed = torch.outer(other.total, by)
        return Moments(
            self.count + other.count,
            self.total + other.total + other.count * by,
            self.products + other.products + mixed + mixed.T + other.count * torch.outer(by, by),
            self.origin,
        )

    @property
    def mean(self) -> Tensor:
        """Shape `(C,)`."""
        return self.origin + self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Shape `(C, C)`."""
        off = self.total / self.count
        return self.products / self.count - torch.outer(off, off)


def whitening_of(moments: Moments) -> InputLayer:
    """Build the whitening layer of these moments.

    `A` is the symmetric inverse square root of the covariance, which stays closest to the vectors
    themselves.

    Raises:
        DivergenceError: a vector was NaN or infinite.
    """
    mean, covariance = moments.mean, moments.covariance
    if not covariance.isfinite().all():
        raise DivergenceError("the encoder's features are not finite; check its weights")
    diagonal = covariance.diagonal()
    # The absolute term serves vectors that do not vary at all.
    diagonal.copy_(diagonal + SHRINKAGE * diagonal.mean() + 1e-12)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors @ (values.rsqrt()[:, None] * vectors.T)
    return InputLayer(mean.float(), matrix.float())
