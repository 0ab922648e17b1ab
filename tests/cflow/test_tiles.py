"""A large image in tiles gives what it gives whole."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad import CalibrationWarning, Detector, SettingsError
from cflow_ad.cflow import tiles
from cflow_ad.cflow.encoder import build_encoder
from cflow_ad.cflow.folding import fold_encoder
from cflow_ad.cflow.scorer import Scorer
from cflow_ad.cflow.strips import Strips, in_strips
from cflow_ad.cflow.tiles import Tiling, cut, measure_reach
from cflow_ad.data.carpet import photograph, weave


@pytest.mark.parametrize("shape", [(32, 32), (96, 4000), (3072, 4096), (4096, 64), (992, 1024)])
@pytest.mark.parametrize("tile", [(320, 320), (512, 1024)])
@pytest.mark.parametrize("margin", [0, 32, 128])
def test_cores_cover_an_image_once_and_margins_are_kept(shape, tile, margin):
    shape = tuple(side // 32 * 32 for side in shape)
    covered = np.zeros(shape, int)
    for part in cut(shape, tile, margin, 32):
        covered[slice(*part.core_rows), slice(*part.core_columns)] += 1
        for whole, core, side, most in zip(
            (part.rows, part.columns),
            (part.core_rows, part.core_columns),
            shape,
            tile,
            strict=True,
        ):
            assert 0 <= whole.start <= core.start < core.stop <= whole.stop <= side
            assert whole.stop - whole.start <= most
            assert all(edge % 32 == 0 for edge in (*whole, *core))
            # The margin is whole, but where the image ends.
            assert whole.start == 0 or core.start - whole.start >= margin
            assert whole.stop == side or whole.stop - core.stop >= margin
    assert (covered == 1).all()


@pytest.fixture(scope="module")
def wide():
    """Carpet that a tile has to cut into three."""
    rng = np.random.default_rng(3)
    carpet = photograph(weave(rng, 320), rng)
    image = np.tile(np.concatenate([carpet, carpet[:, ::-1]], axis=1), (1, 3, 1))[:64]
    image[20:40, 900:960] = rng.integers(0, 256, (20, 60, 3))
    return np.ascontiguousarray(image)


@pytest.mark.parametrize("weights", [None, "random"])
def test_the_map_in_tiles_is_the_map_of_the_whole(weights, wide, carpet_folder, tiny_settings):
    settings = dataclasses.replace(
        tiny_settings, strides=(8, 16, 32), size="native", weights=weights
    )
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(carpet_folder, settings, device="cpu")
    whole = detector.optimize(tile="0").predict(wide).anomaly_map
    margin = Tiling(detector.network.encoder).margin
    assert margin % 32 == 0
    detector.optimize(tile=str(2 * margin + 512))
    assert len(detector._scorer._tiling.plan((64, 1920))) > 1
    cut_up = detector.predict(wide).anomaly_map
    assert whole.std() > 0.1
    np.testing.assert_allclose(cut_up, whole, rtol=0, atol=1e-3)
    # At the border of the image a tile ends where the image does.
    border = np.s_[:, [0, 1, -2, -1]]
    np.testing.assert_allclose(cut_up[border], whole[border], rtol=0, atol=1e-4)
    likelihoods = detector.log_likelihoods(wide)
    assert [level.shape for level in likelihoods] == [(8, 240), (4, 120), (2, 60), (2, 40), (1, 20)]


def test_training_and_scoring_cut_large_images_unasked(images, toy_settings, monkeypatch):
    monkeypatch.setattr(tiles, "WHOLE", 512 * 512)
    native = dataclasses.replace(
        toy_settings, backbone="test_resnet", size="native", positions="relative"
    )
    large = [np.tile(image, (7, 8, 1)) for image in images[:4]] + images[4:8]
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(large, native, device="cpu")
    scorer = detector._scorer
    assert len(scorer._tiling.plan((672, 768))) > 1
    found = detector.predict(large[0]).anomaly_map
    monkeypatch.setattr(tiles, "WHOLE", 2**30)
    np.testing.assert_allclose(detector.predict(large[0]).anomaly_map, found, rtol=0, atol=1e-3)


def test_the_reach_is_that_of_the_convolutions():
    encoder = build_encoder("tf_efficientnet_lite0", (8,), weights="random")
    assert 16 <= measure_reach(encoder) <= 96
    deeper = build_encoder("tf_efficientnet_lite0", (8, 16), weights="random")
    assert measure_reach(encoder) < measure_reach(deeper) < 512


@torch.inference_mode()
def test_coarse_levels_in_tiles_are_those_of_the_whole():
    encoder = build_encoder("test_resnet", (8, 16), weights="random", coarse=3)
    margin = Tiling(encoder).margin
    assert margin == Tiling(build_encoder("test_resnet", (8, 16), weights="random")).margin
    side = 2 * margin + 64
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, 64, 4 * side, 3), dtype=np.uint8))
    tiling = Tiling(encoder, (side, side))
    assert len(tiling.plan((32, 4 * side // 3))) > 1  # of the small image too
    for found, whole in zip(tiling(pixels), encoder(pixels), strict=True):
        assert (found - whole).abs().max() < 0.01 * whole.std()


def test_an_encoder_that_looks_at_the_whole_image_is_not_cut():
    encoder = build_encoder("mobilenet_v3_large", (8, 16), weights="random")
    tiling = Tiling(encoder)
    assert len(tiling.plan((256, 256))) == 1
    with pytest.raises(SettingsError, match="mobilenet_v3_large depend on the whole image"):
        tiling.plan((8192, 8192))
    assert len(Tiling(encoder, (0, 0)).plan((8192, 8192))) == 1


def test_a_tile_must_be_larger_than_its_margins(tiny_detector):
    with pytest.raises(SettingsError, match="tile is 32x32: what tf_efficientnet_lite0 says"):
        Scorer(tiny_detector.network, tile=(32, 32))


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18", "test_efficientnet"])
@torch.inference_mode()
def test_strips_change_no_feature(backbone):
    encoder = fold_encoder(build_encoder(backbone, (8, 16), weights="random"))
    network = in_strips(copy.deepcopy(encoder.network.plain))
    strips = [module for module in network.modules() if isinstance(module, Strips)]
    assert len(strips) > 2
    for module in strips:
        module.at_once = 1
    pixels = encoder.scaled(torch.randint(0, 256, (2, 160, 96, 3), dtype=torch.uint8))
    for found, level in zip(network(pixels), encoder.network.plain(pixels), strict=True):
        torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-5 * float(level.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_large_images_go_in_strips_and_small_ones_do_not(dtype):
    encoder = fold_encoder(build_encoder("test_efficientnet", (8, 16), weights="random"), dtype)
    small = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    large = torch.randint(0, 256, (1, 1024, 1024, 3), dtype=torch.uint8)
    encoder(large)
    seen = []
    encoder.network.plain.register_forward_hook(lambda *_: seen.append("whole"))
    for pixels in (small, large, small):
        encoder(pixels)
    assert seen == ["whole", "whole"]
    for level, whole in zip(
        encoder(large), encoder.network.plain(encoder.scaled(large)), strict=True
    ):
        unit = float(whole.abs().max()) * torch.finfo(dtype).eps
        torch.testing.assert_close(level.permute(0, 3, 1, 2), whole, rtol=0, atol=32 * unit)
    of_large = encoder.network._in_strips[0]
    assert any(isinstance(module, Strips) for module in of_large.modules())
    shared = {tensor.data_ptr() for tensor in encoder.network.plain.parameters()}
    assert {tensor.data_ptr() for tensor in of_large.parameters()} == shared


def test_what_cannot_go_in_strips_is_left_as_it_is():
    # Every block pools its whole map, to squeeze and excite channels.
    network = build_encoder("efficientnet_b0", (8, 16, 32), weights="random").network
    assert not any(isinstance(module, Strips) for module in in_strips(network).modules())
    one_size = build_encoder("test_vit", (16,), weights="random").network
    assert not any(isinstance(module, Strips) for module in in_strips(one_size).modules())
