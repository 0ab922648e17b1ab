"""The frozen encoder: an image to its feature pyramid, truncated after the last level used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.precision import products_in
from cflow_ad.cflow.pyramid import Padding
from cflow_ad.cflow.transformer import MOST_POSITIONS
from cflow_ad.errors import ImageError, SettingsError
from cflow_ad.scoring.canvas import Shape
from cflow_ad.settings import Precision

AVERAGED = 3
"""Positions along either side over which `Method.average` takes the mean."""


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """How one level of the pyramid is made from the backbone's feature maps."""

    stride: int
    """Pixels between two positions."""
    channels: int
    """Length of a feature vector, `C`."""
    maps: tuple[int, ...]
    """Numbers of the backbone's maps whose vectors are joined, the next ones after those of the
    level before; finer ones are averaged to the level's stride first."""
    averaged: bool = False
    """Whether each vector is the mean over 3x3 positions, as in PatchCore (Roth et al., CVPR
    2022)."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What it takes to build the same encoder again."""

    backbone: str
    map_strides: tuple[int, ...]
    """Of the backbone's maps."""
    levels: tuple[LevelSpec, ...]
    mean: tuple[float, ...]
    """Of the pixels in training the backbone, per channel, in 0..1."""
    std: tuple[float, ...]
    """Per channel, in 0..1."""
    source: str
    """Where the weights came from, for people."""
    sha256: str
    """Of the weights themselves, whatever file carried them."""
    padding: Padding = "zeros"
    """How the convolutions continue their input beyond its border."""
    blocks: tuple[int, ...] = ()
    """Of a vision transformer, whose outputs are its maps, from 0; empty for other backbones."""

    def grids(self, canvas: Shape) -> list[Shape]:
        """Compute the height and width of every level, in positions, from those of the network's
        input, multiples of the largest stride.
        """
        return [(canvas[0] // level.stride, canvas[1] // level.stride) for level in self.levels]

    @property
    def channels(self) -> tuple[int, ...]:
        """Of every level."""
        return tuple(level.channels for level in self.levels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderSpec:
        """Build from its fields as JSON gives them back."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        levels = [{**level, "maps": tuple(level["maps"])} for level in plain["levels"]]
        plain["levels"] = tuple(LevelSpec(**level) for level in levels)
        return cls(**plain)


class Encoder(nn.Module):
    """A pretrained network without its head, always in evaluation mode.

    Normalisation is part of the module: pixels go in as they are in an image file.

    Args:
        network: maps `(B, 3, H, W)` to one `(B, C, H / stride, W / stride)` for each of
            `spec.map_strides`.
        spec: what it is.
    """

    mean: Tensor
    std: Tensor
    precision: Precision = "fp32"

    def __init__(self, network: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std) * 255, persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode: batch statistics would make a score depend on its batch."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Encode images.

        Args:
            pixels: shape `(B, H, W, 3)`, RGB in 0..255, uint8 or float; `H` and `W` multiples of
                the largest stride.

        Returns:
            For each level, shape `(B, C, H / stride, W / stride)`.

        Raises:
            SettingsError: the images are too small to be padded by reflection, or the backbone
                takes images of one size alone.
            ImageError: they have too many positions for a vision transformer.
        """
        with products_in(self.precision, pixels.device):
            return list(self.each_level(pixels))

    def each_level(self, pixels: Tensor) -> Iterator[Tensor]:
        """Compute the levels one after another, as `forward`, within `products_in`.

        Of a large image a level or a map takes gigabytes: what was given and what was used is not
        kept here.
        """
        if self.spec.blocks and not torch.compiler.is_compiling():
            _check_positions(self.spec.grids((pixels.shape[1], pixels.shape[2]))[0])
        try:
            maps = iter(self.compute_maps(pixels))
            for level in self.spec.levels:
                yield self._build_level(level, maps)
        except RuntimeError as error:
            if self.spec.padding == "reflect" and "padding size" in str(error).lower():
                raise SettingsError(
                    f"padding is reflect: an input of {pixels.shape[1]}x{pixels.shape[2]} is too "
                    "small to be mirrored at its deepest level; give a larger size"
                ) from error
            raise
        except AssertionError as error:
            raise SettingsError(
                f"backbone {self.spec.backbone}: it does not take an input of "
                f"{pixels.shape[1]}x{pixels.shape[2]} ({error}); give another size or backbone"
            ) from error

    def compute_maps(self, pixels: Tensor) -> Iterable[Tensor]:
        """Compute the backbone's own maps; arguments as for `forward`."""
        maps: list[Tensor] = self.network(self.normalise(pixels))
        return maps

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale pixels `(B, H, W, 3)` as the network takes them, `(B, 3, H, W)`."""
        dtype = next(self.network.parameters(), self.mean).dtype
        # A batch of interleaved images, permuted, already has torch's channels-last layout.
        return (pixels - self.mean).div_(self.std).permute(0, 3, 1, 2).to(dtype)

    def _build_level(self, level: LevelSpec, maps: Iterator[Tensor]) -> Tensor:
        joined = [
            _average_to(next(maps), level.stride // self.spec.map_strides[number])
            for number in level.maps
        ]
        features = joined[0] if len(joined) == 1 else torch.cat(joined, dim=1)
        if not level.averaged:
            return features
        padded = F.pad(features, (AVERAGED // 2,) * 4, mode="replicate")
        return F.avg_pool2d(padded, AVERAGED, stride=1)


def _check_positions(grid: Shape) -> None:
    if grid[0] * grid[1] > MOST_POSITIONS:
        raise ImageError(
            f"the image: it has {grid[0]}x{grid[1]} patches at this size, and a vision transformer "
            f"takes at most {MOST_POSITIONS}; give a smaller --size, or a convolutional --backbone",
            code="image.patches",
            n=grid[0] * grid[1],
            limit=MOST_POSITIONS,
        )


def _average_to(features: Tensor, ratio: int) -> Tensor:
    """Average a finer map over the `2 ratio x 2 ratio` positions around each coarser one."""
    if ratio == 1:
        return features
    return F.avg_pool2d(
        features, 2 * ratio, stride=ratio, padding=ratio // 2, count_include_pad=False
    )
