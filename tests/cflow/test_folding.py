"""The folded encoder has the features of the encoder."""

from __future__ import annotations

import contextlib

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from cflow_ad.cflow import folding
from cflow_ad.cflow.folding import FoldedEncoder, fold_network
from cflow_ad.cflow.pyramid import build_pyramid
from tests.cflow.networks import encoder_of, random_pixels, shaken


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        ("tf_efficientnet_lite0", (8, 16, 32)),
        ("resnet18", (8, 16, 32)),
        ("test_efficientnet", (8, 16)),
        ("mobilenet_v3_large", (8, 16, 32)),  # tapped before its normalisations: not folded
        ("test_convnext", (8, 16)),  # has no normalisation to fold
        ("test_vit", (16,)),  # takes one size only
    ],
)
@torch.inference_mode()
def test_folding_changes_no_feature(backbone, strides):
    network = shaken(build_pyramid(backbone, strides).network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_network(network)
    x = torch.randn(1, 3, 160, 160)
    for found, expected in zip(folded(x), network(x), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("error", [AssertionError, RuntimeError, TypeError])
def test_a_network_that_takes_one_size_alone_is_copied_unfolded(error):
    class OneSize(nn.Sequential):
        def forward(self, x):
            if x.shape[2:] != (96, 96):
                raise error
            return [super().forward(x)]

    network = shaken(OneSize(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(fold_network(network)(x)[0], network(x)[0])


def test_the_copy_is_compared_in_exact_products(monkeypatch):
    """By default a GPU rounds to TF32, in which a folded copy differs too much."""
    within, seen = [], []

    @contextlib.contextmanager
    def products_in(precision, device):
        within.append(precision)
        yield
        within.clear()

    class Watched(nn.Sequential):
        def forward(self, x):
            seen.append(list(within))
            return [super().forward(x)]

    monkeypatch.setattr(folding, "products_in", products_in)
    fold_network(shaken(Watched(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))))
    assert seen == [["fp32"]] * 2
    assert within == []


def test_neither_normalisations_nor_computed_padding_are_left():
    network = build_pyramid("tf_efficientnet_lite0", (8, 16, 32)).network.eval()
    for kind in (nn.BatchNorm2d, Conv2dSame):
        assert any(isinstance(module, kind) for module in network.modules())
        assert not any(isinstance(module, kind) for module in fold_network(network).modules())


def test_a_folded_encoder_has_the_levels_of_the_encoder():
    encoder = encoder_of(join=True, average=(16,))
    shaken(encoder.network)
    pixels = random_pixels()
    folded = FoldedEncoder(encoder)
    assert folded.spec == encoder.spec
    for found, expected in zip(folded(pixels), encoder(pixels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_bf16_encoder_has_features_that_are_close():
    encoder, pixels = encoder_of(), random_pixels(1)
    for found, expected in zip(
        FoldedEncoder(encoder, "bf16")(pixels), encoder(pixels), strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()
