"""The encoder folded for scoring: the same features in fewer passes, and in bounded memory.

Batch normalisation is multiplied into the convolutions before it, and the padding that TensorFlow's
`same` computes at each call is written down, so that the network is plain convolutions.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.precision import dtype_of, products_in
from cflow_ad.cflow.strips import PIXELS_AT_ONCE, Segment, split_into_segments
from cflow_ad.settings import Precision


class FoldedEncoder(Encoder):
    """A copy of an encoder for scoring, with the same features but for rounding.

    A large image goes through a convolutional backbone in strips of rows, see `strips`.

    Args:
        encoder: with its weights.
        precision: of its weights and products, and of the features.
    """

    def __init__(self, encoder: Encoder, precision: Precision = "fp32") -> None:
        # A transformer has no batch normalisation, and each of its positions sees all others.
        is_whole = bool(encoder.spec.blocks)
        fold = copy.deepcopy if is_whole else fold_network
        super().__init__(fold(encoder.network).to(dtype_of(precision)), encoder.spec)
        self.precision = precision
        self._segments: list[Segment] | None = [] if is_whole else None
        self._lock = threading.Lock()
        self.to(encoder.mean.device)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale pixels, as the encoder does; channels first, which exported graphs run faster."""
        pixels = pixels.permute(0, 3, 1, 2)
        scaled = (pixels - self.mean[:, None, None]).div_(self.std[:, None, None])
        return scaled.to(next(self.network.parameters(), self.mean).dtype)

    def compute_maps(self, pixels: Tensor) -> Iterable[Tensor]:
        """Compute the backbone's own maps, in strips where the image is large."""
        # An exported graph runs whole.
        if torch.compiler.is_compiling() or pixels.shape[1] * pixels.shape[2] <= PIXELS_AT_ONCE:
            return super().compute_maps(pixels)
        with self._lock:
            if self._segments is None:
                self._segments = split_into_segments(self.network)
        if not self._segments:
            return super().compute_maps(pixels)
        return self._compute_in_strips(pixels, self._segments)

    def _compute_in_strips(self, pixels: Tensor, segments: list[Segment]) -> Iterator[Tensor]:
        first, *others = segments
        last = first.over(pixels, axis=1, at_once=PIXELS_AT_ONCE, prepare=self.normalise)
        yield last
        for segment in others:
            last = segment(last)
            yield last


def fold_network(network: nn.Module) -> nn.Module:
    """Copy a network in evaluation mode, batch normalisations folded and padding written down.

    Which convolution a normalisation follows is found by the order of a module's children, so the
    copy is compared with the original, and the unfolded copy returned where they differ.
    """
    folded = copy.deepcopy(network).eval()
    _fold_children(folded)
    _write_padding_down(folded)
    parameter = next(network.parameters())
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).to(parameter)
    # cuDNN's default, TF32, rounds so much that a right copy may be refused.
    with torch.no_grad(), products_in("fp32", parameter.device):
        try:
            expected, found = network(x), folded(x)
        except (RuntimeError, TypeError, AttributeError, AssertionError):
            return copy.deepcopy(network)  # as where the network takes images of one size alone
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


def _write_padding_down(network: nn.Module) -> None:
    """Replace TensorFlow's `same` padding, which is constant where the stride divides the side."""
    for name, module in list(network.named_modules()):
        if not isinstance(module, Conv2dSame):
            continue
        stride, kernel, dilation = (
            cast(tuple[int, int], value)
            for value in (module.stride, module.kernel_size, module.dilation)
        )
        down, across = (
            max(dilation[axis] * (kernel[axis] - 1) + 1 - stride[axis], 0) for axis in (0, 1)
        )
        padding = (across // 2, across - across // 2, down // 2, down - down // 2)
        convolution = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            kernel,
            stride,
            dilation=dilation,
            groups=module.groups,
            bias=module.bias is not None,
        )
        convolution.weight, convolution.bias = module.weight, module.bias
        network.set_submodule(name, nn.Sequential(nn.ZeroPad2d(padding), convolution))
