"""The conditional normalizing flow of one level: `log p(z | c)` of a feature vector `z` at the
position that `c` encodes.

`K` affine coupling blocks turn a vector `z` into `u`, a standard normal variable for vectors of
good images. The change of variables gives the exact density::

    log p(z | c) = log N(u; 0, I) + log |det du/dz|

Everywhere in this file a batch of vectors has the channels last: `(..., C)`.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Permutation = Literal["soft", "index"]

_UNIT_GAMMA = 2.0 * math.log(math.expm1(5.0))
"""The parameter at which the global scale `0.1 * softplus(gamma; beta=0.5)` is one."""


class CouplingBlock(nn.Module):
    """Conditional affine coupling, then a global affine map, then a fixed permutation.

    With `x = [x1, x2]`, the subnet's output `a = 0.1 * subnet([x1, c])` and `n2` channels in `x2`::

        log s = clamp * tanh(a[:n2]);   x2' = x2 * s + a[n2:]
        y = W ([x1, x2'] * g + o),      g = 0.1 * softplus(gamma; beta=0.5)

    Args:
        permutation: `W`. Either a rotation, shape `(C, C)`, or an index, shape `(C,)`, with
            `y[i] = x[permutation[i]]`.
        condition_channels: width `P` of the condition `c`.
        clamp: bound on `|log s|`, above 0.
        width: of the subnet's hidden layer; unset, twice its input, as in the paper.

    References:
        Gudovskiy et al., CFLOW-AD, WACV 2022, Sec. 4.3; Dinh et al., Real NVP, ICLR 2017, for the
        coupling; the global affine map and soft permutation are FrEIA's `AllInOneBlock`.
    """

    permutation: Tensor

    def __init__(
        self,
        permutation: Tensor,
        condition_channels: int,
        *,
        clamp: float = 1.9,
        width: int | None = None,
    ) -> None:
        super().__init__()
        channels = permutation.shape[0]
        self.n2 = channels // 2
        self.n1 = channels - self.n2
        self.clamp = clamp
        inputs = self.n1 + condition_channels
        hidden = width or 2 * inputs
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, 2 * self.n2)
        self.gamma = nn.Parameter(torch.full((channels,), _UNIT_GAMMA))
        self.offset = nn.Parameter(torch.zeros(channels))
        self.register_buffer("permutation", permutation)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x` one block closer to the normal variable.

        Args:
            x: shape `(..., C)`.
            condition: `c`, shape `(..., P)`.

        Returns:
            `y`, shape `(..., C)`, and the log-determinant, shape `(...)`.
        """
        x1, x2 = torch.split(x, [self.n1, self.n2], dim=-1)
        log_scale, shift = self._scale_and_shift(x1, condition)
        coupled = torch.cat((x1, x2 * log_scale.exp() + shift), dim=-1)
        g = self.global_scale()
        if self.permutation.is_floating_point():
            # W (z * g + o) as one dense product: the scale and offset fold into matrix and bias.
            y = F.linear(coupled, self.permutation * g, self.permutation @ self.offset)
        else:
            # index_select, not indexing: its backward pass is several times quicker.
            y = (coupled * g + self.offset).index_select(-1, self.permutation)
        return y, log_scale.sum(-1) + g.log().sum()

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """Undo `forward`: from `y` and the same condition to `x`, both of shape `(..., C)`."""
        if self.permutation.is_floating_point():
            coupled = F.linear(y, self.permutation.T)
        else:
            coupled = y[..., self.permutation.argsort()]
        coupled = (coupled - self.offset) / self.global_scale()
        x1, changed = torch.split(coupled, [self.n1, self.n2], dim=-1)
        log_scale, shift = self._scale_and_shift(x1, condition)
        return torch.cat((x1, (changed - shift) * (-log_scale).exp()), dim=-1)

    def _scale_and_shift(self, x1: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        condition = condition.expand(*x1.shape[:-1], -1)
        hidden = F.relu(self.first(torch.cat((x1, condition), dim=-1)))
        a, shift = (0.1 * self.second(hidden)).chunk(2, dim=-1)
        return self.clamp * torch.tanh(a), shift

    def global_scale(self) -> Tensor:
        """The scale `g` of each channel, shape `(C,)`, above 0."""
        return 0.1 * F.softplus(self.gamma, beta=0.5)


class ConditionalFlow(nn.Module):
    """`K` coupling blocks, conditioned on the position of each vector (one level's decoder).

    Args:
        channels: `C`, at least 2.
        blocks: `K`.
        clamp: bound on each block's `|log s|`.
        condition_channels: `P`; 0 leaves the condition out.
        permutation: `"soft"`, a random rotation from SO(C), or `"index"`, a random reordering.
        width: of each subnet's hidden layer; unset, twice its input.
        seed: of the permutations; None leaves them to be loaded. The subnets are initialised from
            torch's global generator.

    References:
        Gudovskiy et al., CFLOW-AD, WACV 2022, Sec. 4.
    """

    def __init__(
        self,
        channels: int,
        *,
        blocks: int = 8,
        clamp: float = 1.9,
        condition_channels: int = 128,
        permutation: Permutation = "soft",
        width: int | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.condition_channels = condition_channels
        rng = None if seed is None else np.random.default_rng(seed)
        draw = random_rotation if permutation == "soft" else random_index
        self.blocks = nn.ModuleList(
            CouplingBlock(draw(channels, rng), condition_channels, clamp=clamp, width=width)
            for _ in range(blocks)
        )

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Map vectors to the normal variable.

        Args:
            x: vectors, shape `(..., C)`.
            condition: `c` of each vector, shape `(..., P)`; see `position.encode`.

        Returns:
            `u`, shape `(..., C)`, and the log-determinant, shape `(...)`.
        """
        log_det = x.new_zeros(x.shape[:-1])
        for block in self.blocks:
            x, block_log_det = block(x, condition)
            log_det = log_det + block_log_det
        return x, log_det

    def inverse(self, u: Tensor, condition: Tensor) -> Tensor:
        """Map normal variables back to feature vectors, both of shape `(..., C)`, with a condition
        as for `forward`; with random `u`, a sample of good ones.
        """
        for block in reversed(cast(list[CouplingBlock], list(self.blocks))):
            u = block.inverse(u, condition)
        return u

    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        """Exact log-likelihood `log p(x | c)` of vectors, in nats, of shape `(...)`; arguments as
        for `forward`.
        """
        u, log_det = self.forward(x, condition)
        return standard_normal_log_prob(u) + log_det


def standard_normal_log_prob(u: Tensor) -> Tensor:
    """Log-density of `u` under `N(0, I)`, in nats: shape `(..., C)` to `(...)`."""
    return -0.5 * (u.square().sum(-1) + u.shape[-1] * math.log(2.0 * math.pi))


def random_rotation(channels: int, rng: np.random.Generator | None) -> Tensor:
    """A rotation drawn uniformly (Haar) from SO(C), float32, shape `(C, C)`; undefined without
    `rng`.

    The Q of a Gaussian matrix, its signs fixed by R's diagonal (Mezzadri, How to generate random
    matrices from the classical compact groups, 2007), costs `O(C^3)` once, against `O(C^4)` work
    for the usual product of reflections.
    """
    if rng is None:
        return torch.empty(channels, channels)
    q, r = np.linalg.qr(rng.standard_normal((channels, channels)))
    q *= np.sign(np.diagonal(r))
    if np.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    return torch.from_numpy(q.astype(np.float32))


def random_index(channels: int, rng: np.random.Generator | None) -> Tensor:
    """A reordering of `0 .. C - 1` drawn uniformly, int64, shape `(C,)`; or an undefined one."""
    if rng is None:
        return torch.empty(channels, dtype=torch.int64)
    return torch.from_numpy(rng.permutation(channels))
