"""The frozen encoder: an image to its feature pyramid, cut off after the last level used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.errors import SettingsError
from cflow_ad.model.weights import PACKAGED, download_weights, match_weights, read_weights


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


class Encoder(nn.Module):
    """A pretrained network without its head, in evaluation mode for ever.

    Normalisation is part of the module: pixels go in as they are in an image file.

    Args:
        network: maps `(B, 3, H, W)` to one `(B, C, H / stride, W / stride)` per level.
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

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Encode images.

        Args:
            pixels: shape `(B, H, W, 3)`, RGB in 0..255, uint8 or float; `H` and `W` multiples of
                the largest stride.

        Returns:
            For each level, shape `(B, H / stride, W / stride, C)`.
        """
        # A batch of interleaved images, permuted, already has torch's channels-last layout.
        x = ((pixels.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        pyramid = [self._average(level) for level in self.network(x)]
        return [level.permute(0, 2, 3, 1) for level in pyramid]

    def _average(self, level: Tensor) -> Tensor:
        """Mean over each cell's neighbourhood, as in PatchCore (Roth et al., CVPR 2022)."""
        side = self.spec.neighbourhood
        if side == 1:
            return level
        padded = F.pad(level, (side // 2,) * 4, mode="replicate")
        return F.avg_pool2d(padded, side, stride=1)


def build_encoder(
    backbone: str,
    strides: Sequence[int],
    *,
    neighbourhood: int = 1,
    weights: str | None = None,
    seed: int = 0,
) -> Encoder:
    """Build an encoder with pretrained weights.

    Args:
        backbone: a timm model name.
        strides: of the levels wanted, in rising order.
        neighbourhood: cells along either side that a vector is averaged over, odd.
        weights: a weights file, or `"random"`; unset, the installed package that carries them,
            else timm's download.
        seed: of random weights.

    Raises:
        SettingsError: timm knows no such backbone, or it has no level of such a stride.
        WeightsError: the weights are not to be had; the message says how to get them.
    """
    network, config = _network(backbone, strides)
    info = network.feature_info
    mean, std = config["mean"], config["std"]
    packaged = PACKAGED.get(backbone)
    if weights == "random":
        source = f"random, seed {seed}"
        given = _random_network(backbone, strides, seed).state_dict()
    elif weights is not None:
        source, given = Path(weights).name, read_weights(Path(weights))
    elif packaged is not None and (file := packaged.find()) is not None:
        source, given = packaged.package, read_weights(file)
        mean, std = packaged.mean, packaged.std
    else:
        source, given = "timm", download_weights(backbone)
    network.load_state_dict(match_weights(given, network.state_dict(), source=source))
    spec = EncoderSpec(
        backbone=backbone,
        strides=tuple(strides),
        channels=tuple(info.channels()),
        mean=tuple(mean),
        std=tuple(std),
        neighbourhood=neighbourhood,
        source=source,
        sha256=hash_weights(network),
    )
    return Encoder(network, spec)


def empty_encoder(spec: EncoderSpec) -> Encoder:
    """The encoder's structure without its weights, to be loaded from a model file."""
    network, _ = _network(spec.backbone, spec.strides)
    return Encoder(network, spec)


def hash_weights(network: nn.Module) -> str:
    """SHA-256 of a network's tensors, in order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _network(backbone: str, strides: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    if not timm.is_model(backbone):
        near = ", ".join(timm.list_models(f"*{backbone.split('_')[0]}*")[:5])
        raise SettingsError(
            f"backbone {backbone!r}: timm {timm.__version__} has no such model"
            + (f"; it has {near}" if near else "")
        )
    try:
        network = timm.create_model(backbone, features_only=True, pretrained=False)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise SettingsError(f"backbone {backbone!r}: timm gives no feature maps for it") from error
    info = cast(Any, network.feature_info)
    available = list(info.reduction())
    missing = [stride for stride in strides if stride not in available]
    if missing:
        raise SettingsError(
            f"strides: {backbone} has no level of stride {missing[0]}; it has "
            + ", ".join(map(str, sorted(set(available))))
        )
    # The last tap of a stride is the deepest one. timm numbers some networks' taps from 1, and taps
    # only the last blocks of a transformer.
    deepest = dict(zip(available, info.out_indices, strict=True))
    taps = tuple(deepest[stride] for stride in strides)
    network = timm.create_model(backbone, features_only=True, pretrained=False, out_indices=taps)
    _truncate(network)
    config: dict[str, Any] = resolve_data_config(model=network)  # type: ignore[no-untyped-call]
    return network, config


def _random_network(backbone: str, strides: Sequence[int], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _network(backbone, strides)[0]


def _truncate(network: Any) -> None:
    """Drop the stages after the last tap, which timm's EfficientNets would still compute."""
    last = network.feature_info.module_name()[-1].split(".")
    blocks = getattr(network, "blocks", None)
    if last[0] == "blocks" and len(last) == 2 and isinstance(blocks, nn.Sequential):
        network.blocks = blocks[: int(last[1]) + 1]
