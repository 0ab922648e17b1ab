"""The network arranged for scoring is the same function as the network."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from cflow_ad.cflow.encoder import build_encoder
from cflow_ad.cflow.flow import ConditionalFlow
from cflow_ad.cflow.folding import fold_batch_norms, fold_encoder
from cflow_ad.cflow.model import Level
from cflow_ad.cflow.pyramid import build_pyramid
from cflow_ad.cflow.scorer import FoldedLevel, Scorer
from cflow_ad.cflow.whitening import InputLayer
from tests.cflow.networks import shaken


def make_level(channels, position_channels=8, permutation="soft", *, whitened=True):
    """None of its parameters is at its start."""
    torch.manual_seed(channels)
    flow = ConditionalFlow(
        channels, blocks=3, position_channels=position_channels, permutation=permutation
    )
    with torch.no_grad():
        for name, value in flow.named_parameters():
            value += (1.0 if "second" in name else 0.3) * torch.randn_like(value)
    matrix = torch.randn(channels, channels) if whitened else torch.rand(channels) + 0.5
    level = Level(InputLayer(torch.randn(channels), matrix), flow)
    level.eval().requires_grad_(False)
    likelihoods = level(torch.randn(500, channels), *torch.randint(0, 6, (2, 500)))
    level.reference.copy_(likelihoods.median())
    level.spread.copy_(likelihoods.std())
    return level


def normality(level, z):
    rows, columns = torch.arange(z.shape[1])[:, None], torch.arange(z.shape[2])[None]
    return level.normality(level(z, rows, columns), rows, columns)


@pytest.mark.parametrize(
    ("channels", "position_channels", "permutation", "whitened"),
    list(itertools.product([2, 5, 8], [0, 8, 128], ["soft", "index"], [True, False])),
)
def test_a_folded_level_is_the_level(channels, position_channels, permutation, whitened):
    level = make_level(channels, position_channels, permutation, whitened=whitened)
    z = torch.randn(3, 4, 6, channels)
    expected = normality(level, z)
    assert 0.01 < expected.mean() < 0.99
    with torch.inference_mode():
        found = FoldedLevel(level, torch.float32)(z)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_maps_of_different_sizes_have_positions_of_their_own(monkeypatch):
    monkeypatch.setattr("cflow_ad.cflow.scorer._KEPT", 0)  # every table is made anew
    level = make_level(6)
    folded = FoldedLevel(level, torch.float32)
    for shape in ((3, 5), (5, 3), (8, 8), (3, 5)):
        z = torch.randn(1, *shape, 6)
        torch.testing.assert_close(folded(z), normality(level, z), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_bf16_stays_near():
    level = make_level(32, 32)
    z = torch.randn(2, 16, 16, 32)
    exact = FoldedLevel(level, torch.float32)(z)
    near = FoldedLevel(level, torch.bfloat16)(z)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().mean() < 0.01


@torch.inference_mode()
def test_a_scorer_is_its_network_and_does_not_see_what_comes_after(toy_detector, images):
    network = toy_detector.network
    scorer = Scorer(network)
    pixels = torch.from_numpy(np.stack([image[:64, :64] for image in images[:3]]))
    expected = network(pixels)
    for found, level in zip(scorer(pixels), expected, strict=True):
        torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-4)
    kept = network.levels[0].flow.blocks[0].gamma.clone()
    before = scorer(pixels)
    network.levels[0].flow.blocks[0].gamma.add_(1.0)
    after = scorer(pixels)
    network.levels[0].flow.blocks[0].gamma.copy_(kept)
    assert torch.equal(before[0], after[0])


def test_threads_do_not_disturb_one_another(toy_detector, images):
    scorer = Scorer(toy_detector.network)
    shapes = [(64, 64), (64, 96), (96, 64), (32, 96)] * 4
    inputs = [
        torch.from_numpy(images[i % 12][:h, :w].copy())[None] for i, (h, w) in enumerate(shapes)
    ]
    alone = [scorer(pixels) for pixels in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(scorer, inputs))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_code_is_made_for_a_few_shapes_and_others_run_without(toy_detector, images, monkeypatch):
    compiled_for = []

    def compile_in_name_only(network, **options):
        def run(x):
            compiled_for.append(tuple(x.shape[2:]))
            return network(x)

        return run

    monkeypatch.setattr(torch, "compile", compile_in_name_only)
    plain, scorer = Scorer(toy_detector.network), Scorer(toy_detector.network)
    scorer.compile((64, 64))
    for side in (32, 96, 64, 128, 160, 192, 32):
        pixels = torch.from_numpy(np.resize(images[0], (1, side, 64, 3)))
        for found, expected in zip(scorer(pixels), plain(pixels), strict=True):
            assert torch.equal(found, expected)
    assert compiled_for == [(side, 64) for side in (64, 32, 96, 64, 128, 32)]


# Batch normalisation


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        ("tf_efficientnet_lite0", (8, 16, 32)),
        ("resnet18", (8, 16, 32)),
        ("test_efficientnet", (8, 16)),
        ("mobilenet_v3_large", (8, 16, 32)),  # tapped before its normalisations: stays as it is
        ("test_convnext", (8, 16)),  # has none
        ("test_vit", (16,)),  # takes one size only
    ],
)
@torch.inference_mode()
def test_folding_changes_no_feature(backbone, strides):
    network = shaken(build_pyramid(backbone, strides).network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_batch_norms(network)
    x = torch.randn(1, 3, 160, 160)
    for found, expected in zip(folded(x), network(x), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_normalisation_is_left_where_each_follows_a_convolution():
    network = build_pyramid("tf_efficientnet_lite0", (8, 16, 32)).network.eval()
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_a_bf16_encoder_gives_features_nearby():
    encoder = build_encoder("test_efficientnet", (8, 16), weights="random")
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    near = fold_encoder(encoder, torch.bfloat16)(pixels)
    for level, exact in zip(near, encoder(pixels), strict=True):
        assert level.dtype == torch.bfloat16
        assert (level - exact).abs().max() < 0.05 * exact.abs().max()
