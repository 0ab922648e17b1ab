"""Vision transformers give the outputs of their blocks, as timm computes them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from cflow_ad import CalibrationWarning, Detector, ImageError, Settings, SettingsError, WeightsError
from cflow_ad.cflow import encoder as module
from cflow_ad.cflow.building import build_encoder, empty_encoder
from cflow_ad.cflow.encoder import EncoderSpec
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.transformer import choose_blocks, resolve_blocks
from cflow_ad.method import Method
from tests.cflow.networks import TINY_DINO, random_pixels

KINDS = {
    "test_vit": 16,  # a class token, learned positions
    "test_vit2": 16,  # registers, no class token
    "deit_tiny_distilled_patch16_224": 16,  # two class tokens
    "vit_tiny_patch16_dinov3_qkvb": 16,  # rotary positions, a class token and registers
    TINY_DINO: 14,
}


def transformer(backbone, *, weights="random", **changes):
    return build_encoder(resolve_blocks(Settings(backbone=backbone, weights=weights, **changes)))


@pytest.mark.parametrize("backbone", KINDS)
@torch.inference_mode()
def test_levels_are_timms_intermediates(backbone, tmp_path):
    whole = timm.create_model(backbone, dynamic_img_size=True).eval()
    for value in whole.parameters():
        value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "all.safetensors")
    file = str(tmp_path / "all.safetensors")
    encoder = transformer(backbone, weights=file, transformer_blocks=(0, 2))
    assert len(encoder.network.model.blocks) == 3  # nothing is computed beyond the last one
    stride = KINDS[backbone]
    for height, width in ((3, 5), (16, 4)):
        pixels = random_pixels(2, (height * stride, width * stride))
        expected = whole.forward_intermediates(
            encoder.normalise(pixels), indices=[0, 2], intermediates_only=True
        )
        for found in (encoder(pixels), FoldedEncoder(encoder)(pixels)):
            for level, theirs in zip(found, expected, strict=True):
                assert level.shape[2:] == (height, width)
                torch.testing.assert_close(level, theirs, rtol=1e-4, atol=1e-5)


def test_the_default_levels_end_a_quarter_half_and_three_quarters_of_the_depth():
    assert choose_blocks(12) == (2, 5, 8)
    assert choose_blocks(24) == (5, 11, 17)
    assert choose_blocks(1) == (0,)
    settings = resolve_blocks(Settings(backbone="vit_small_patch14_dinov2"))
    assert settings.transformer_blocks == (2, 5, 8)
    assert settings.strides == (14, 14, 14)
    assert resolve_blocks(settings) == settings
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_sides_are_multiples_of_the_patch():
    settings = resolve_blocks(Settings(backbone=TINY_DINO, size="90x200"))
    assert settings.sizing.canvas_shape((90, 200)) == (84, 196)
    stretched = dataclasses.replace(settings, resize="stretch")
    assert stretched.sizing.canvas_shape((10, 10)) == (98, 210)


def test_levels_are_neither_joined_nor_averaged():
    method = Method(average=(14,), join=True)
    levels = transformer(TINY_DINO, method=method).spec.levels
    assert [(level.stride, level.channels, level.maps) for level in levels] == [
        (14, 48, (0,)),
        (14, 48, (1,)),
        (14, 48, (2,)),
    ]
    assert not any(level.averaged for level in levels)


def test_an_image_has_the_same_features_alone_and_in_a_batch():
    encoder, pixels = transformer("vit_tiny_patch16_dinov3_qkvb"), random_pixels(3)
    together = encoder(pixels)
    for number in range(3):
        alone = encoder(pixels[number : number + 1])
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[number : number + 1], one, rtol=1e-5, atol=1e-5)


def names_of_dinov2(given):
    """As DINOv2's authors publish weights with registers: the class token has a position."""
    of_class = torch.randn(given["cls_token"].shape, generator=torch.Generator().manual_seed(0))
    given["cls_token"] -= of_class
    given["pos_embed"] = torch.cat((of_class, given["pos_embed"]), dim=1)
    given["register_tokens"] = given.pop("reg_token")
    given["mask_token"] = torch.zeros(1, 48)


def names_of_dinov3(given):
    """As DINOv3's authors publish weights."""
    given["storage_tokens"] = given.pop("reg_token")
    for name in [name for name in given if name.endswith("q_bias")]:
        q, v = given.pop(name), given.pop(name.replace("q_bias", "v_bias"))
        given[name.replace("q_bias", "qkv.bias")] = torch.cat((q, torch.zeros_like(q), v))
    for name in [name for name in given if "gamma_" in name]:
        given[name.replace("gamma_", "ls") + ".gamma"] = given.pop(name)
    given["rope_embed.periods"] = torch.zeros(16)


@pytest.mark.parametrize(
    ("backbone", "rename"),
    [(TINY_DINO, names_of_dinov2), ("vit_tiny_patch16_dinov3_qkvb", names_of_dinov3)],
)
def test_weights_may_have_the_names_of_their_authors(tmp_path, capsys, backbone, rename):
    network = transformer(backbone, transformer_blocks=(0, 1)).network
    given = {n.removeprefix("model."): v.clone() for n, v in network.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for value in given.values():
        value += 0.1 * torch.randn(value.shape, generator=generator)
    torch.save(given, tmp_path / "timms.pth")
    rename(given)
    torch.save(given, tmp_path / "theirs.pth")
    ours, theirs = (
        transformer(backbone, weights=str(tmp_path / name), transformer_blocks=(0, 1))
        for name in ("timms.pth", "theirs.pth")
    )
    pixels = random_pixels(1, (3 * KINDS[backbone], 4 * KINDS[backbone]))
    for found, expected in zip(theirs(pixels), ours(pixels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not capsys.readouterr().out
    with pytest.raises(WeightsError, match=r"theirs\.pth: these weights are not of this backbone"):
        transformer("test_vit", weights=str(tmp_path / "theirs.pth"))


def test_a_spec_goes_through_json_and_builds_the_same_structure():
    encoder = transformer("test_vit2", transformer_blocks=(0, 3))
    spec = EncoderSpec.from_dict(json.loads(json.dumps(dataclasses.asdict(encoder.spec))))
    assert spec == encoder.spec
    empty = empty_encoder(spec)
    empty.load_state_dict(encoder.state_dict())
    for ours, expected in zip(empty(random_pixels()), encoder(random_pixels()), strict=True):
        assert torch.equal(ours, expected)


def test_a_bf16_transformer_has_features_that_are_close():
    encoder, pixels = transformer("vit_tiny_patch16_dinov3_qkvb"), random_pixels(1)
    for found, expected in zip(
        FoldedEncoder(encoder, "bf16")(pixels), encoder(pixels), strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("backbone", [TINY_DINO, "test_vit2"])
def test_a_detector_keeps_its_promises(images, tmp_path, backbone):
    settings = Settings(
        backbone=backbone,
        weights="random",
        size="70x70",
        steps=5,
        batch_size=64,
        method=Method(blocks=2),
    )
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images, settings, device="cpu", work=tmp_path / "work")
    assert detector.settings.strides == (KINDS[backbone],) * 3
    detector.save(tmp_path / "m.safetensors")
    loaded = Detector.load(tmp_path / "m.safetensors", device="cpu")
    several = [images[0], images[1][:50], images[2][:, :30]]
    together = list(detector.stream(several))
    for image, expected in zip(several, together, strict=True):
        alone = loaded.predict(image)
        assert alone.score == pytest.approx(expected.score, rel=1e-5)
        assert alone.anomaly_map.shape == image.shape[:2]
        np.testing.assert_allclose(alone.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-5)
    # An image unlike the good ones stands out, though the weights are random.
    assert detector.predict(255 - images[0]).score > 2 * together[0].score


def test_too_large_an_image_is_one_error(monkeypatch):
    encoder = transformer("test_vit")
    monkeypatch.setattr(module, "MOST_POSITIONS", 24)
    encoder(random_pixels(1, (64, 96)))
    with pytest.raises(ImageError, match=r"5x6 patches .* at most 24; give a smaller --size"):
        FoldedEncoder(encoder)(random_pixels(1, (80, 96)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transformer_blocks": (2, 6)}, r"test_vit has no block 6; it has 0 to 5"),
        ({"strides": (8, 16)}, r"all maps of test_vit have the stride 16"),
        ({"backbone": "resnet18", "transformer_blocks": (0,), "strides": (8,)}, r"resnet18 is not"),
    ],
)
def test_what_a_backbone_does_not_have_is_named(changes, said):
    with pytest.raises(SettingsError, match=said):
        resolve_blocks(Settings(**{"backbone": "test_vit", **changes}))


def test_a_transformer_of_one_size_alone_is_named():
    encoder = build_encoder(Settings(backbone="test_vit_relpos", weights="random", strides=(16,)))
    with pytest.raises(SettingsError, match=r"test_vit_relpos: it does not take an input of 64x96"):
        encoder(random_pixels(1))
