"""The frozen encoder: an image to its feature pyramid, truncated after the last level used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.precision import products_in
from cflow_ad.cflow.pyramid import Padding, Pyramid, build_pyramid, random_weights
from cflow_ad.cflow.transformer import MOST_POSITIONS, rename_weights
from cflow_ad.cflow.weights import PACKAGED, download_weights, match_weights, read_weights
from cflow_ad.errors import ImageError, SettingsError, WeightsError
from cflow_ad.scoring.canvas import Shape
from cflow_ad.settings import Precision, Settings

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
    """Numbers of the backbone's maps whose vectors are joined; finer ones are averaged to the
    level's stride first."""
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
        if self.spec.blocks and not torch.compiler.is_compiling():
            _check_positions(self.spec.grids((pixels.shape[1], pixels.shape[2]))[0])
        try:
            with products_in(self.precision, pixels.device):
                maps = self.compute_maps(pixels)
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
        return [self._level(level, maps) for level in self.spec.levels]

    def compute_maps(self, pixels: Tensor) -> list[Tensor]:
        """Compute the backbone's own maps; arguments as for `forward`."""
        maps: list[Tensor] = self.network(self.normalise(pixels))
        return maps

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale pixels `(B, H, W, 3)` as the network takes them, `(B, 3, H, W)`."""
        dtype = next(self.network.parameters(), self.mean).dtype
        # A batch of interleaved images, permuted, already has torch's channels-last layout.
        return (pixels - self.mean).div_(self.std).permute(0, 3, 1, 2).to(dtype)

    def _level(self, level: LevelSpec, maps: Sequence[Tensor]) -> Tensor:
        joined = [
            _average_to(maps[number], level.stride // self.spec.map_strides[number])
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
            f"takes at most {MOST_POSITIONS}; give a smaller --size, or a convolutional --backbone"
        )


def _average_to(features: Tensor, ratio: int) -> Tensor:
    """Average a finer map over the `2 ratio x 2 ratio` positions around each coarser one."""
    if ratio == 1:
        return features
    return F.avg_pool2d(
        features, 2 * ratio, stride=ratio, padding=ratio // 2, count_include_pad=False
    )


def build_encoder(settings: Settings) -> Encoder:
    """Build an encoder with pretrained weights.

    Args:
        settings: `backbone`, `weights`, `strides`, `transformer_blocks`, `seed` and `method` say
            which, those of a vision transformer as `resolve_blocks` gives them.

    Raises:
        SettingsError: the backbone is unknown, has no level of such a stride, or cannot pad so.
        WeightsError: the weights are not on this machine and cannot be downloaded; the message says
            how to get them.
    """
    backbone, method = settings.backbone, settings.method
    pyramid = build_pyramid(
        backbone,
        settings.strides,
        blocks=settings.transformer_blocks,
        padding=method.padding,
        finer=method.join_finer,
    )
    blocks = settings.transformer_blocks
    weights, source, scaled = _find_weights(
        pyramid, backbone, settings.weights, settings.seed, blocks=blocks
    )
    return fill_encoder(
        scaled,
        weights,
        backbone=backbone,
        levels=plain_levels(pyramid) if blocks else _level_specs(pyramid, settings),
        source=source,
        padding=method.padding,
        blocks=blocks,
    )


def _level_specs(pyramid: Pyramid, settings: Settings) -> tuple[LevelSpec, ...]:
    specs = []
    for stride in settings.strides:
        own = pyramid.strides.index(stride)
        is_joined = stride == settings.strides[0] and own == 1
        maps = (0, 1) if is_joined else (own,)
        channels = sum(pyramid.channels[number] for number in maps)
        specs.append(LevelSpec(stride, channels, maps, stride in settings.method.average))
    return tuple(specs)


def _find_weights(
    pyramid: Pyramid, backbone: str, weights: str | None, seed: int, *, blocks: Sequence[int] = ()
) -> tuple[Mapping[str, Tensor], str, Pyramid]:
    """Find a backbone's weights, their source, and the pyramid with their scale of pixels."""
    packaged = PACKAGED.get(backbone)
    if weights == "random":
        drawn = random_weights(backbone, pyramid.strides, seed, blocks=blocks)
        return drawn, f"random, seed {seed}", pyramid
    if weights is not None:
        return read_weights(Path(weights)), Path(weights).name, pyramid
    if packaged is not None and (file := packaged.find()) is not None:
        scaled = replace(pyramid, mean=packaged.mean, std=packaged.std)
        return read_weights(file), packaged.package, scaled
    return download_weights(backbone), "timm", pyramid


def fill_encoder(
    pyramid: Pyramid,
    weights: Mapping[str, Tensor],
    *,
    backbone: str,
    levels: Sequence[LevelSpec],
    source: str,
    padding: Padding = "zeros",
    blocks: Sequence[int] = (),
) -> Encoder:
    """Load weights into a backbone's structure.

    Args:
        pyramid: the structure.
        weights: named tensors, possibly of the whole network.
        backbone: its name.
        levels: made from its maps.
        source: where the weights came from, for people.
        padding: of its convolutions.
        blocks: of a vision transformer, whose outputs are its maps.

    Raises:
        WeightsError: the weights are not of this backbone.
    """
    network = pyramid.network
    _load(network, weights, blocks, source)
    spec = EncoderSpec(
        backbone=backbone,
        map_strides=pyramid.strides,
        levels=tuple(levels),
        mean=pyramid.mean,
        std=pyramid.std,
        source=source,
        sha256=hash_weights(network),
        padding=padding,
        blocks=tuple(blocks),
    )
    return Encoder(network, spec)


def _load(
    network: nn.Module, weights: Mapping[str, Tensor], blocks: Sequence[int], source: str
) -> None:
    if blocks:
        weights = rename_weights(network, weights)
    network.load_state_dict(match_weights(weights, network.state_dict(), source=source))


def plain_levels(pyramid: Pyramid) -> tuple[LevelSpec, ...]:
    """Make one level of each of a backbone's maps, as the paper does."""
    columns = zip(pyramid.strides, pyramid.channels, strict=True)
    return tuple(LevelSpec(s, c, (number,)) for number, (s, c) in enumerate(columns))


def empty_encoder(spec: EncoderSpec) -> Encoder:
    """Build an encoder's structure without its weights, to be loaded from a model file."""
    return Encoder(_build_again(spec).network, spec)


def _build_again(spec: EncoderSpec) -> Pyramid:
    return build_pyramid(spec.backbone, spec.map_strides, blocks=spec.blocks, padding=spec.padding)


def rebuild_encoder(spec: EncoderSpec, *, weights: str | None, seed: int, model: Path) -> Encoder:
    """Build the encoder that a model was trained with, from weights on this machine.

    Args:
        spec: of that encoder.
        weights: a weights file, or `random`; unset, the package that carries them, else timm's
            download.
        seed: of random weights.
        model: the model's file, for the error.

    Raises:
        SettingsError: this version of timm has no such backbone.
        WeightsError: the weights are not on this machine, or are not those of training.
    """
    pyramid = _build_again(spec)
    found, source, _ = _find_weights(pyramid, spec.backbone, weights, seed, blocks=spec.blocks)
    network = pyramid.network
    _load(network, found, spec.blocks, source)
    if hash_weights(network) != spec.sha256:
        raise WeightsError(
            f"{model}: trained with weights of {spec.backbone} from {spec.source}, which differ "
            f"from those on this machine (from {source}); give them with --weights FILE, or "
            "train with --bundle"
        )
    # The model's own spec, since the scale of pixels is part of a score.
    return Encoder(network, spec)


def hash_weights(network: nn.Module) -> str:
    """Compute the SHA-256 of a network's tensors, in order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
