"""A backbone in strips of rows has the maps of the whole backbone."""

from __future__ import annotations

import copy

import pytest
import torch

from cflow_ad.cflow import folding, strips
from cflow_ad.cflow.folding import FoldedEncoder, fold_network
from cflow_ad.cflow.pyramid import build_pyramid
from cflow_ad.cflow.strips import split_into_segments
from tests.cflow.networks import encoder_of, random_pixels, shaken


@pytest.mark.parametrize(
    ("backbone", "strides", "whole"),
    [
        ("tf_efficientnet_lite0", (4, 8, 16, 32), 0),
        ("resnet18", (4, 8, 16, 32), 0),
        ("resnet18", (2, 8), 0),  # the stem is a map
        ("dla34", (8, 16), 2),  # parallel branches: its reach is overestimated
        ("test_convnext", (4, 8), 0),
        ("test_efficientnet", (4, 8, 16), 1),  # squeeze-and-excitation from stride 16 on
        ("mobilenetv3_small_100", (4, 8, 16), 2),  # at strides 4 and 16
    ],
)
@torch.inference_mode()
def test_strips_change_no_map(backbone, strides, whole):
    network = fold_network(shaken(build_pyramid(backbone, strides).network))
    segments = split_into_segments(network)
    assert len(segments) == len(strides)
    assert sum(segment.margin is None for segment in segments) == whole
    x = torch.randn(2, 3, 320, 96)
    found = x
    for segment, expected in zip(segments, network(x), strict=True):
        # The smallest strips there are: one row of the output each.
        found = segment.over(found, axis=2, at_once=1)
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        ("mobilenet_v3_large", (8, 16, 32)),  # tapped inside its blocks
        ("test_vit", (16,)),  # takes one size only
    ],
)
def test_a_network_that_is_not_a_sequence_has_no_segments(backbone, strides):
    assert split_into_segments(build_pyramid(backbone, strides).network.eval()) == []


@pytest.fixture
def small_strips(monkeypatch):
    """Images are cut into strips of 64 rows."""
    monkeypatch.setattr(folding, "PIXELS_AT_ONCE", 64 * 64)
    monkeypatch.setattr(strips, "_POSITIONS_AT_ONCE", 64)


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        ("tf_efficientnet_lite0", (8, 16, 32)),
        ("resnet18", (8, 16)),
        ("test_efficientnet", (8, 16)),
        ("mobilenet_v3_large", (8, 16)),  # runs whole
    ],
)
@torch.inference_mode()
def test_a_large_image_has_the_features_of_the_whole(small_strips, backbone, strides):
    encoder = encoder_of(backbone, strides, join=True, average=(16,))
    shaken(encoder.network)
    folded = FoldedEncoder(encoder)
    for shape in ((64, 64), (352, 64), (96, 224)):
        pixels = random_pixels(2, shape)
        for found, expected in zip(folded(pixels), encoder(pixels), strict=True):
            assert found.shape == expected.shape
            torch.testing.assert_close(
                found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
            )


@torch.inference_mode()
def test_only_large_images_are_cut_and_weights_are_shared(small_strips, monkeypatch):
    calls = []
    over = strips.Segment.over

    def counted(self, x, **options):
        calls.append(tuple(x.shape))
        return over(self, x, **options)

    monkeypatch.setattr(strips.Segment, "over", counted)
    folded = FoldedEncoder(encoder_of(), "bf16")
    folded(random_pixels(1, (64, 64)))
    assert calls == []
    large = random_pixels(1, (128, 64))
    maps = folded(large)
    assert calls[0] == (1, 128, 64, 3)
    assert len(calls) == 2
    for found, expected in zip(maps, folded.network(folded.normalise(large)), strict=True):
        assert found.dtype == torch.bfloat16
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
    own = {value.data_ptr() for value in folded.network.parameters()}
    used = {v.data_ptr() for segment in folded._segments for v in segment.parameters()}
    assert used <= own


def test_a_network_is_left_as_it_is():
    network = shaken(build_pyramid("test_efficientnet", (8, 16)).network)
    before = copy.deepcopy(network.state_dict())
    split_into_segments(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
