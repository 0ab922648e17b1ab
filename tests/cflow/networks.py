"""Networks for tests."""

from __future__ import annotations

import numpy as np
import timm
import torch
from timm.models import register_model
from timm.models.vision_transformer import _create_vision_transformer
from torch import nn

from cflow_ad import Settings
from cflow_ad.cflow.building import build_encoder
from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.flow import ConditionalFlow
from cflow_ad.cflow.level import Level
from cflow_ad.cflow.memory import Memory
from cflow_ad.cflow.place_means import PlaceMeans
from cflow_ad.cflow.whitening import InputLayer
from cflow_ad.method import Method

SMALL = "test_efficientnet"

TINY_DINO = "tiny_patch14_reg4"
"""A vision transformer like DINOv2's with registers, 4 blocks of 48 channels."""


def _tiny_patch14_reg4(pretrained=False, **options):
    shape = {"patch_size": 14, "embed_dim": 48, "depth": 4, "num_heads": 2, "img_size": 70}
    kind = {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}
    return _create_vision_transformer(TINY_DINO, pretrained, **{**shape, **kind, **options})


_tiny_patch14_reg4.__name__ = TINY_DINO
_tiny_patch14_reg4.__module__ = "timm.models.vision_transformer"
if not timm.is_model(TINY_DINO):
    register_model(_tiny_patch14_reg4)


def encoder_of(backbone=SMALL, strides=(8, 16), *, weights="random", seed=0, **method) -> Encoder:
    """An encoder with one level of each stride, as it is but for `method`."""
    method = {"join": False, "average": (), **method}
    return build_encoder(
        Settings(
            backbone=backbone, weights=weights, strides=strides, seed=seed, method=Method(**method)
        )
    )


def random_pixels(count=3, shape=(64, 96)):
    """Images of noise, shape `(count, *shape, 3)`."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, *shape, 3), dtype=np.uint8))


def make_level(
    channels=4,
    *,
    components=None,
    whiten=True,
    stride=None,
    parts=None,
    width=None,
    memory=0,
    **flow,
) -> Level:
    """A level in which no parameter has its initial value; with a stride, positions are relative
    and places have means; with a memory of so many vectors there is no flow.
    """
    torch.manual_seed(channels)
    flow = {"blocks": 3, "condition_channels": 8, **flow}
    kept = components or channels
    made = ConditionalFlow(kept, width=width, seed=channels, **flow)
    if memory:
        made = Memory(torch.randn(memory, kept), torch.rand(memory))
    with torch.no_grad():
        for name, value in made.named_parameters():
            value += (1.0 if "second" in name else 0.3) * torch.randn_like(value)
    layer = InputLayer(
        torch.randn(channels), torch.eye(kept, channels) + 0.2 * torch.randn(kept, channels)
    )
    means = None
    if stride is not None:
        means = PlaceMeans(0.3 * torch.randn(4, 4, 4, channels), torch.tensor([-5.0, -4.0, 0.0]))
    layer = layer if whiten else InputLayer(torch.zeros(channels))
    level = Level(layer, made, stride=stride, means=means, parts=parts).eval()
    level.location.copy_(torch.randn(level.location.shape) * 0.1 - (0.1 if memory else 1.5))
    level.scale.copy_(0.1 + 0.1 * torch.rand(level.scale.shape))
    return level.requires_grad_(False)


def energies_of(level, features):
    """A level's energies of maps of feature vectors, `(B, C, h, w)`, by the training form."""
    z = level.subtract_means(features.permute(0, 2, 3, 1))
    rows, columns = level.places(z.shape[1], z.shape[2])
    return level.energy(level(z, rows, columns), rows, columns)


def shaken(network):
    """A network with batch statistics and biases that a mistake in their order would show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    return network.eval()
