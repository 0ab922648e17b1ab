"""The frozen encoder: an image to its feature pyramid, cut off after the last level used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.pyramid import Padding, Pyramid, build_pyramid, random_weights
from cflow_ad.cflow.weights import PACKAGED, download_weights, match_weights, read_weights
from cflow_ad.errors import SettingsError, WeightsError
from cflow_ad.scoring.canvas import Shape
from cflow_ad.settings import Settings, level_strides

_STRIP = 256  # rows of a small image that are made at once


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What must be known to build the same encoder again."""

    backbone: str
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    neighbourhood: int
    """Each vector is the mean over this many cells along either side; 1 leaves it as it is."""
    source: str
    """Where the weights came from, for people."""
    sha256: str
    """Of the weights themselves, whatever file carried them."""
    padding: Padding = "zeros"
    """How the convolutions continue their input beyond its border."""
    coarse: int = 0
    """The last levels are of the image at 1/`coarse` of its size; 0 if none are."""
    neighbourhood_from: int = 0
    """The least stride whose vectors are such means; finer levels are left as they are."""
    fine: bool = False
    """Whether the network's first map, at half the first stride, is joined to the second."""
    coarse_from: int = 0
    """The least stride of the network's levels that the small image is seen in."""

    @property
    def own_strides(self) -> tuple[int, ...]:
        """Of the network's levels, which are each seen once or twice."""
        for n in range(1, len(self.strides)):
            own = self.strides[:n]
            if level_strides(own, self.coarse, self.coarse_from) == self.strides:
                return own
        return self.strides

    @property
    def small_strides(self) -> tuple[int, ...]:
        """Of the levels that the small image is seen in, in its own pixels."""
        return tuple(stride // self.coarse for stride in self.strides[len(self.own_strides) :])

    def grids(self, canvas: Shape) -> list[Shape]:
        """Height and width of every level, in cells.

        Args:
            canvas: height and width of the network's input, multiples of its largest stride.
        """
        height, width = canvas
        own = self.own_strides
        grids = [(height // stride, width // stride) for stride in own]
        if self.coarse:
            height, width = (small_side(side, self.coarse, own) for side in canvas)
            grids += [(height // stride, width // stride) for stride in self.small_strides]
        return grids

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderSpec:
        """From its fields as JSON gives them back."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


class Encoder(nn.Module):
    """A pretrained network without its head, in evaluation mode for ever.

    Normalisation is part of the module: pixels go in as they are in an image file.

    Args:
        network: maps `(B, 3, H, W)` to one `(B, C, H / stride, W / stride)` per level, after one of
            half the first stride if the encoder is `fine`.
        spec: what it is.
    """

    mean: Tensor
    std: Tensor

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
                the network's largest stride.

        Returns:
            For each level, shape `(B, h, w, C)`; see `EncoderSpec.grids`.

        Raises:
            SettingsError: the images are too small to be padded by reflection.
        """
        x = self.scaled(pixels)
        levels = self.own_levels(x)
        if self.spec.coarse:
            small = F.avg_pool2d(x, self.spec.coarse)
            levels += self.small_levels(self._fitted(small, pixels.shape[1:3]))
        return levels

    def scaled(self, pixels: Tensor) -> Tensor:
        """Pixels `(B, H, W, 3)` as the network takes them, `(B, 3, H, W)`."""
        # A batch of interleaved images, permuted, already has torch's channels-last layout.
        return (pixels - self.mean).div_(self.std).permute(0, 3, 1, 2).to(self._dtype)

    def shrunk(self, pixels: Tensor) -> Tensor:
        """Pixels `(B, H, W, 3)` at 1/`coarse` of their size, or near it: the sides are such that
        the network can divide them. A strip at a time, for large images.
        """
        rows = _STRIP * self.spec.coarse
        strips = [
            F.avg_pool2d(self.scaled(pixels[:, start : start + rows]), self.spec.coarse)
            for start in range(0, pixels.shape[1] // self.spec.coarse * self.spec.coarse, rows)
        ]
        return self._fitted(torch.cat(strips, dim=2), pixels.shape[1:3])

    def own_levels(self, x: Tensor) -> list[Tensor]:
        """Of an image at its size, `scaled`: shape `(B, H / stride, W / stride, C)` each."""
        return self._averaged(self._encode(x), self.spec.own_strides)

    def small_levels(self, x: Tensor) -> list[Tensor]:
        """Of an image `shrunk`, those levels of the network that it is seen in."""
        small = self.spec.strides[len(self.spec.own_strides) :]
        return self._averaged(self._encode(x)[-len(small) :], small)

    def _fitted(self, small: Tensor, sides: Sequence[int]) -> Tensor:
        size = [small_side(side, self.spec.coarse, self.spec.own_strides) for side in sides]
        return F.interpolate(small, size=size, mode="bilinear", align_corners=False)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters(), self.mean).dtype

    def _encode(self, x: Tensor) -> list[Tensor]:
        try:
            levels: list[Tensor] = self.network(x)
        except RuntimeError as error:
            if self.spec.padding == "reflect" and "padding size" in str(error).lower():
                raise SettingsError(
                    f"padding=reflect: an input of {x.shape[2]}x{x.shape[3]} is too small to be "
                    "mirrored at its deepest level; give a larger size"
                ) from error
            raise
        return _join(*levels) if self.spec.fine else levels

    def _averaged(self, levels: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
        return [
            self._average(level, stride).permute(0, 2, 3, 1)
            for level, stride in zip(levels, strides, strict=True)
        ]

    def _average(self, level: Tensor, stride: int) -> Tensor:
        """Mean over each cell's neighbourhood, as in PatchCore (Roth et al., CVPR 2022)."""
        side = self.spec.neighbourhood
        if side == 1 or stride < self.spec.neighbourhood_from:
            return level
        padded = F.pad(level, (side // 2,) * 4, mode="replicate")
        return F.avg_pool2d(padded, side, stride=1)


def _join(finer: Tensor, first: Tensor, *others: Tensor) -> list[Tensor]:
    """The first level with the mean of the 4x4 finer cells around each of its own."""
    around = F.avg_pool2d(finer, 4, stride=2, padding=1, count_include_pad=False)
    return [torch.cat((around, first), dim=1), *others]


def small_side(side: int, coarse: int, strides: Sequence[int]) -> int:
    """A side of the image at 1/`coarse` of its size: the nearest multiple of the largest stride.

    Args:
        side: of the canvas, in pixels.
        coarse: by how much it is smaller.
        strides: of the network's levels.

    Example:
        >>> small_side(384, 3, (8, 16, 32)), small_side(320, 3, (8, 16, 32))
        (128, 96)
    """
    unit = strides[-1]
    # `sym_max`, since a side may be unknown until an exported graph runs.
    cells = torch.sym_max(1, (2 * side + coarse * unit) // (2 * coarse * unit))
    return cast(int, cells) * unit


def build_encoder(
    backbone: str,
    strides: Sequence[int],
    *,
    neighbourhood: int = 1,
    neighbourhood_from: int = 0,
    padding: Padding = "zeros",
    fine: bool = False,
    coarse: int = 0,
    coarse_from: int = 0,
    weights: str | None = None,
    seed: int = 0,
) -> Encoder:
    """Build an encoder with pretrained weights.

    Args:
        backbone: a timm model name, or `mobilenet_v3_large`.
        strides: of the levels wanted, in rising order.
        neighbourhood: cells along either side that a vector is averaged over, odd.
        neighbourhood_from: the least stride whose vectors are averaged.
        padding: see `build_pyramid`.
        fine: see `Settings.fine`.
        coarse: see `Settings.coarse`.
        coarse_from: see `Settings.coarse_from`.
        weights: a weights file, or `"random"`; unset, the installed package that carries them,
            else timm's download.
        seed: of random weights.

    Raises:
        SettingsError: there is no such backbone, it has no level of such a stride, or it cannot pad
            so.
        WeightsError: the weights are not to be had; the message says how to get them.
    """
    pyramid = build_pyramid(backbone, strides, padding=padding, fine=fine)
    mean, std = pyramid.mean, pyramid.std
    packaged = PACKAGED.get(backbone)
    if weights == "random":
        source = f"random, seed {seed}"
        given: Mapping[str, Tensor] = random_weights(backbone, strides, seed)
    elif weights is not None:
        source, given = Path(weights).name, read_weights(Path(weights))
    elif packaged is not None and (file := packaged.find()) is not None:
        source, given = packaged.package, read_weights(file)
        mean, std = packaged.mean, packaged.std
    else:
        source, given = "timm", download_weights(backbone)
    return _filled(
        replace(pyramid, mean=mean, std=std),
        given,
        source=source,
        backbone=backbone,
        strides=strides,
        neighbourhood=neighbourhood,
        neighbourhood_from=neighbourhood_from,
        padding=padding,
        coarse=coarse,
        coarse_from=coarse_from,
    )


def encoder_of(settings: Settings) -> Encoder:
    """`build_encoder`, as settings have it.

    Raises:
        SettingsError: as for `build_encoder`.
        WeightsError: likewise.
    """
    return build_encoder(
        settings.backbone,
        settings.strides,
        neighbourhood=settings.neighbourhood,
        neighbourhood_from=settings.neighbourhood_from,
        padding=settings.padding,
        fine=settings.fine,
        coarse=settings.coarse,
        coarse_from=settings.coarse_from,
        weights=settings.weights,
        seed=settings.seed,
    )


def fill_encoder(
    backbone: str,
    strides: Sequence[int],
    weights: Mapping[str, Tensor],
    *,
    source: str,
    padding: Padding = "zeros",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Encoder:
    """Build an encoder with weights that are at hand.

    Args:
        backbone: as for `build_encoder`.
        strides: as for `build_encoder`.
        weights: named tensors, possibly of the whole network.
        source: where they came from, for people.
        padding: see `build_pyramid`.
        mean: of pixels in 0..1, per channel; unset, what the backbone was trained with.
        std: likewise.

    Raises:
        SettingsError: as for `build_encoder`.
        WeightsError: the weights are not of this backbone.
    """
    pyramid = build_pyramid(backbone, strides, padding=padding)
    scaled = replace(pyramid, mean=tuple(mean or pyramid.mean), std=tuple(std or pyramid.std))
    return _filled(
        scaled,
        weights,
        source=source,
        backbone=backbone,
        strides=strides,
        neighbourhood=1,
        padding=padding,
    )


def _filled(
    pyramid: Pyramid,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    backbone: str,
    strides: Sequence[int],
    neighbourhood: int,
    padding: Padding,
    neighbourhood_from: int = 0,
    coarse: int = 0,
    coarse_from: int = 0,
) -> Encoder:
    network = pyramid.network
    network.load_state_dict(match_weights(weights, network.state_dict(), source=source))
    levels = level_strides(strides, coarse, coarse_from)
    if len(levels) == len(strides):
        coarse = coarse_from = 0  # the small image would be seen in none
    channels = pyramid.channels
    if pyramid.fine:
        channels = (channels[0] + channels[1], *channels[2:])
    spec = EncoderSpec(
        backbone=backbone,
        strides=levels,
        channels=channels + channels[2 * len(channels) - len(levels) :],
        mean=pyramid.mean,
        std=pyramid.std,
        neighbourhood=neighbourhood,
        source=source,
        sha256=hash_weights(network),
        padding=padding,
        coarse=coarse,
        neighbourhood_from=neighbourhood_from,
        fine=pyramid.fine,
        coarse_from=coarse_from,
    )
    return Encoder(network, spec)


def empty_encoder(spec: EncoderSpec) -> Encoder:
    """The encoder's structure without its weights, to be loaded from a model file."""
    pyramid = build_pyramid(spec.backbone, spec.own_strides, padding=spec.padding, fine=spec.fine)
    return Encoder(pyramid.network, spec)


def rebuild_encoder(spec: EncoderSpec, *, weights: str | None, seed: int, model: Path) -> Encoder:
    """The encoder a model was trained with, from weights that are at hand.

    Args:
        spec: of that encoder.
        weights: as for `build_encoder`.
        seed: of random weights.
        model: the model's file, for the error.

    Raises:
        SettingsError: this version of timm has no such backbone.
        WeightsError: the weights are not to be had, or are not those of training.
    """
    encoder = build_encoder(
        spec.backbone,
        spec.own_strides,
        padding=spec.padding,
        fine=spec.fine,
        weights=weights,
        seed=seed,
    )
    if encoder.spec.sha256 != spec.sha256:
        raise WeightsError(
            f"{model}: trained with weights of {spec.backbone} from {spec.source}, which are not "
            f"those at hand (from {encoder.spec.source}); give them with --weights FILE, or "
            "train with --bundle"
        )
    # Of the model, not of the weights' source: how pixels are scaled is part of a score.
    return Encoder(encoder.network, spec)


def hash_weights(network: nn.Module) -> str:
    """SHA-256 of a network's tensors, in order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
