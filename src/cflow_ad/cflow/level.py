"""One level of the pyramid: what is subtracted, the whitening, the density, and the scale of
energies.

A level is what gives an energy for every position of its feature map. The map, the score, the model
file and the exports need nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cflow_ad.cflow.flow import ConditionalFlow
from cflow_ad.cflow.memory import Memory
from cflow_ad.cflow.place_means import PlaceMeans
from cflow_ad.cflow.position import FRAME, Frame, at_places, axis_places, encode
from cflow_ad.cflow.seeding import torch_seed
from cflow_ad.cflow.whitening import InputLayer, raw_layer
from cflow_ad.method import Method
from cflow_ad.settings import Settings


class Level(nn.Module):
    """Input layer, density, and the location and scale of good vectors' log-likelihoods.

    Args:
        input_layer: fixed, fitted on good vectors.
        density: a flow, conditioned on the position, or a memory.
        stride: of the level where its positions are relative; see `position.encode_axis`.
        means: of good vectors at each place, subtracted from a vector first; unset, nothing is.
        parts: along either side of an image, that each have a location and scale of their own,
            where positions are relative; unset, there is one for all places.
    """

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        input_layer: InputLayer,
        density: ConditionalFlow | Memory,
        *,
        stride: int | None = None,
        means: PlaceMeans | None = None,
        parts: int | None = None,
    ) -> None:
        super().__init__()
        self.means = means
        self.input_layer = input_layer
        self.density = density
        self.stride = stride
        shape = () if parts is None else (parts, parts)
        self.register_buffer("location", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Compute the log-likelihood per dimension of vectors at their positions, in nats.

        Args:
            z: feature vectors, after `subtract_means`, shape `(..., C)`.
            rows: integer rows, see `position.axis_places`; with `columns`, broadcasts to the
                leading shape of `z`.
            columns: integer columns.

        Returns:
            `l = log p(z | c) / D`, shape `(...)`, of the `D` numbers that the input layer gives:
            its log-determinant, a constant, is left out; `log_prob` has it.
        """
        return self.of_whitened(self.input_layer(z), self.condition(rows, columns))

    def of_whitened(self, x: Tensor, condition: Tensor) -> Tensor:
        """Compute the same as `forward` of vectors that the input layer has mapped already, with
        the condition of each.
        """
        return self.density.log_prob(x, condition) / self.density.channels

    def without(self, z: Tensor, excluded: Tensor) -> Tensor:
        """Compute the same as `forward` by a memory, without some of its vectors for each: bool,
        shape `(..., M)`.
        """
        assert isinstance(self.density, Memory)
        return self.density.log_prob(self.input_layer(z), without=excluded) / self.density.channels

    def condition(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Encode positions, as for `forward`; shape `(..., P)`."""
        code = encode(rows, columns, self.density.condition_channels, stride=self.stride)
        return code.to(self.input_layer.mean.dtype)

    @property
    def frame(self) -> Frame:
        """Whether positions are absolute or relative."""
        return "absolute" if self.stride is None else "relative"

    def places(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Number the places of a map's positions: rows `(height, 1)` and columns `(1, width)`."""
        rows, columns = (axis_places(side, self.frame) for side in (height, width))
        return rows[:, None], columns[None, :]

    def subtract_means(self, features: Tensor) -> Tensor:
        """Subtract the means of their places from a map of feature vectors, `(B, h, w, C)`."""
        if self.means is None:
            return features
        means: Tensor = self.means(features.shape[1], features.shape[2])
        return features - means

    def log_prob(self, z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Compute `log p(z | c)` in nats, exact if the density is a flow; arguments as for
        `forward`.
        """
        x = self.input_layer(z)
        return self.density.log_prob(x, self.condition(rows, columns)) + self.input_layer.log_det

    def energy(self, log_likelihood: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Compute how many scales a log-likelihood `l` lies below the location, at least 0:
        `max(0, (location - l) / scale)`, of the shape of `l`; positions as for `forward`.
        """
        location, scale = (at_places(of, rows, columns) for of in (self.location, self.scale))
        return ((location - log_likelihood) / scale).clamp(min=0)


def count_parts(stride: int) -> int:
    """Count the parts along either side of an image that have statistics of their own: one to a
    position of the level in an image of 256x256.
    """
    return max(1, FRAME // stride)


def count_components(channels: int, method: Method) -> int:
    """Count the numbers that the input layer makes of a vector of `channels`."""
    return min(channels, method.components) if method.whiten else channels


def position_stride(settings: Settings, number: int) -> int | None:
    """Get the `stride` of a `Level`, by its number."""
    return settings.strides[number] if settings.method.positions == "relative" else None


def build_flow(channels: int, settings: Settings, number: int, *, seeded: bool) -> ConditionalFlow:
    """Build a level's flow in its initial state.

    Args:
        channels: of the vectors that it gets.
        settings: of the model.
        number: of the level, which separates its random choices from the others'.
        seeded: draw the permutations; else they are left to be loaded.
    """
    method = settings.method
    papers = 2 * (channels - channels // 2 + method.position_channels)
    seed = 1000 * settings.seed + number
    with torch_seed(seed):
        return ConditionalFlow(
            channels,
            blocks=method.blocks,
            clamp=method.clamp,
            condition_channels=method.position_channels,
            permutation=method.permutation,
            width=papers if method.wide_subnets else min(papers, 2 * channels),
            seed=seed if seeded else None,
        )


def build_density(
    channels: int, settings: Settings, number: int, *, seeded: bool
) -> ConditionalFlow | Memory:
    """Build a level's flow, as `build_flow`, or an empty memory."""
    if settings.method.has_memory(number):
        return Memory(torch.empty(0, channels))
    return build_flow(channels, settings, number, seeded=seeded)


def empty_level(channels: int, settings: Settings, number: int) -> Level:
    """Build a level of the right shapes without values, to be loaded from a model file."""
    method = settings.method
    parts = count_parts(settings.strides[number])
    components = count_components(channels, method)
    with torch.device("meta"):
        layer = raw_layer(channels)
        if method.whiten:
            layer = InputLayer(torch.empty(channels), torch.empty(components, channels))
        means = None
        if method.place_means:
            means = PlaceMeans(torch.empty(0, parts, parts, channels), torch.empty(0))
        density = build_density(components, settings, number, seeded=False)
        return Level(
            layer,
            density,
            stride=position_stride(settings, number),
            means=means,
            parts=parts if method.place_scales else None,
        ).requires_grad_(False)
