"""From settings, or from the spec in a model file, to an encoder with its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from torch import Tensor, nn

from cflow_ad.cflow.encoder import Encoder, EncoderSpec, LevelSpec
from cflow_ad.cflow.pyramid import Padding, Pyramid, build_pyramid, join_strides
from cflow_ad.cflow.transformer import rename_weights
from cflow_ad.cflow.weights import PACKAGED, download_weights, match_weights, read_weights
from cflow_ad.errors import WeightsError
from cflow_ad.settings import Settings


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
    backbone, method, blocks = settings.backbone, settings.method, settings.transformer_blocks
    if method.join and not blocks:
        joined = join_strides(backbone, settings.strides)
    else:
        joined = [(stride,) for stride in settings.strides]
    strides = [stride for of_level in joined for stride in of_level]
    pyramid = build_pyramid(
        backbone, strides, blocks=blocks, padding=method.padding, seed=settings.seed
    )
    weights, source, scaled = _find_weights(pyramid, backbone, settings.weights, settings.seed)
    return fill_encoder(
        scaled,
        weights,
        backbone=backbone,
        levels=list_levels(pyramid, joined, () if blocks else method.average),
        source=source,
        padding=method.padding,
    )


def _find_weights(
    pyramid: Pyramid, backbone: str, weights: str | None, seed: int
) -> tuple[Mapping[str, Tensor], str, Pyramid]:
    """Find a backbone's weights, their source, and the pyramid with their scale of pixels."""
    packaged = PACKAGED.get(backbone)
    if weights == "random":
        return pyramid.network.state_dict(), f"random, seed {seed}", pyramid
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
) -> Encoder:
    """Load weights into a backbone's structure.

    Args:
        pyramid: the structure.
        weights: named tensors, possibly of the whole network.
        backbone: its name.
        levels: made from its maps.
        source: where the weights came from, for people.
        padding: of its convolutions.

    Raises:
        WeightsError: the weights are not of this backbone.
    """
    network = _load(pyramid, weights, source)
    spec = EncoderSpec(
        backbone=backbone,
        map_strides=pyramid.strides,
        levels=tuple(levels),
        mean=pyramid.mean,
        std=pyramid.std,
        source=source,
        sha256=hash_weights(network),
        padding=padding,
        blocks=pyramid.blocks,
    )
    return Encoder(network, spec)


def _load(pyramid: Pyramid, weights: Mapping[str, Tensor], source: str) -> nn.Module:
    network = pyramid.network
    if pyramid.blocks:
        weights = rename_weights(network, weights)
    network.load_state_dict(match_weights(weights, network.state_dict(), source=source))
    return network


def list_levels(
    pyramid: Pyramid, joined: Sequence[Sequence[int]], average: Sequence[int] = ()
) -> list[LevelSpec]:
    """Say how levels are made from a backbone's maps.

    Args:
        pyramid: the backbone.
        joined: the strides of the maps of each level, all maps in their order.
        average: the strides of the levels that are averaged.
    """
    numbers, levels = count(), []
    for strides in joined:
        maps = tuple(islice(numbers, len(strides)))
        channels = sum(pyramid.channels[number] for number in maps)
        levels.append(LevelSpec(strides[-1], channels, maps, strides[-1] in average))
    return levels


def empty_encoder(spec: EncoderSpec) -> Encoder:
    """Build an encoder's structure without its weights, to be loaded from a model file."""
    return Encoder(_build_again(spec).network, spec)


def _build_again(spec: EncoderSpec, seed: int = 0) -> Pyramid:
    return build_pyramid(
        spec.backbone, spec.map_strides, blocks=spec.blocks, padding=spec.padding, seed=seed
    )


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
    pyramid = _build_again(spec, seed)
    found, source, _ = _find_weights(pyramid, spec.backbone, weights, seed)
    network = _load(pyramid, found, source)
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
