"""Batch normalisation folded into the convolutions before it: the same function in fewer passes."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.strips import InStrips
from cflow_ad.settings import Precision


def dtype_of(precision: Precision) -> torch.dtype:
    """What tensors of a precision are made of."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def fold_encoder(encoder: Encoder, dtype: torch.dtype = torch.float32) -> Encoder:
    """A copy of an encoder for running it, with the same features but for rounding.

    Args:
        encoder: with its weights.
        dtype: of its weights and of the features.
    """
    network = InStrips(fold_batch_norms(encoder.network)).to(dtype)
    return Encoder(network, encoder.spec).to(encoder.mean.device)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode, batch normalisations folded into the convolutions
    that they follow.

    Which convolution a normalisation follows is found by the order of a module's children, so the
    copy is compared with the original, and the unfolded copy returned where they differ.
    """
    folded = copy.deepcopy(network).eval()
    _fold_children(folded)
    parameter = next(network.parameters())
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).to(parameter)
    with torch.inference_mode():
        try:
            expected, found = network(x), folded(x)
        except (RuntimeError, TypeError, AttributeError):
            return copy.deepcopy(network)
        for one, other in zip(expected, found, strict=True):
            if not (one - other).abs().max() <= 1e-3 * one.abs().max():  # nor if it is NaN
                return copy.deepcopy(network)
    return folded


def _fold_children(module: nn.Module) -> None:
    before: tuple[str, nn.Module | None] = ("", None)
    for name, child in list(module.named_children()):
        convolution = before[1]
        if isinstance(child, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(convolution, child))
            # timm's normalisations carry the activation that follows.
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            _fold_children(child)
        before = (name, child)
