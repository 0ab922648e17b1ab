"""A memory of good vectors: what a level can have in place of a flow.

A flow says how common a vector is; what good images have in a few rare places it finds unlikely.
A memory keeps such vectors too, and a vector is the less likely the further it is from all of them.
Together they are better than either.

Where good vectors lie far apart, a new good one is far from the nearest too. So each vector of the
memory has an offset, by which squared distances to it are less.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PROJECTED = 64  # random directions in which distances are compared while vectors are chosen


class Memory(nn.Module):
    """Vectors of good images, with the distance to the nearest.

    Args:
        vectors: shape `(M, D)`.
        offsets: what is subtracted from the squared distance to each, at least 0, shape `(M,)`;
            unset, 0. They are the squares of the radii of a power diagram.

    References:
        Roth et al., Towards Total Recall in Industrial Anomaly Detection (PatchCore), CVPR 2022.
        Aurenhammer, Power diagrams, SIAM J. Comput. 16, 1987.
    """

    vectors: Tensor
    offsets: Tensor
    condition_channels = 0

    def __init__(self, vectors: Tensor, offsets: Tensor | None = None) -> None:
        super().__init__()
        if offsets is None:
            offsets = vectors.new_zeros(len(vectors))
        self.register_buffer("vectors", vectors)
        self.register_buffer("offsets", offsets)

    @property
    def channels(self) -> int:
        """Length `D` of a vector."""
        return int(self.vectors.shape[1])

    @property
    def squares(self) -> Tensor:
        """The squared lengths of the vectors less their offsets, shape `(M,)`."""
        return self.vectors.square().sum(1) - self.offsets

    def log_prob(
        self, x: Tensor, condition: Tensor | None = None, without: Tensor | None = None
    ) -> Tensor:
        """Compute what takes the place of a log-likelihood: minus the root of the least squared
        distance to a vector of the memory, less its offset; at most 0.

        Args:
            x: shape `(..., D)`.
            condition: not used.
            without: vectors of the memory that each is not compared with, bool, shape `(..., M)`.

        Returns:
            Shape `(...)`.
        """
        apart = self.squares - 2 * (x @ self.vectors.T)
        if without is not None:
            apart = apart.masked_fill(without, torch.inf)
        nearest = apart.amin(-1) + x.square().sum(-1)
        return -nearest.clamp(min=0).sqrt()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: object
    ) -> None:
        """Take as many vectors as the file has, at least one."""
        found = state_dict.get(f"{prefix}vectors")
        if found is not None and found.ndim == 2 and len(found):
            self.vectors = self.vectors.new_empty(len(found), self.channels)
            self.offsets = self.offsets.new_empty(len(found))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def choose_spread(vectors: Tensor, number: int, seed: int) -> Tensor:
    """Choose vectors that lie far from each other, so that no vector is far from all of them.

    Each next one is that with the largest distance to those before it, in some random
    directions.

    Args:
        vectors: shape `(n, D)`.
        number: how many, at most `n`.
        seed: of the first one and of the directions.

    Returns:
        Indices, shape `(number,)`, on the device of the vectors.

    References:
        Gonzalez, Clustering to minimize the maximum intercluster distance, 1985; as a coreset:
        Sener and Savarese, ICLR 2018; PatchCore (see `Memory`), Algorithm 1.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(vectors.shape[1], _PROJECTED, generator=generator)
    x = vectors @ directions.to(vectors)
    squares = x.square().sum(1)
    last = torch.randint(len(x), (1,), generator=generator).to(x.device)
    nearest = torch.full_like(squares, torch.inf)
    chosen = [last]  # on the device: to read one back is to wait for it
    while len(chosen) < number:
        apart = torch.addmv(squares, x, x[last][0], alpha=-2).add_(squares[last])
        torch.minimum(nearest, apart, out=nearest)
        last = nearest.argmax(keepdim=True)
        chosen.append(last)
    return torch.cat(chosen)
