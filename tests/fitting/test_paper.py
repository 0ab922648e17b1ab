"""Training by the paper's schedule is what the authors' loop does with FrEIA's decoders."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as transforms

from cflow_ad.cflow.building import build_encoder
from cflow_ad.errors import DivergenceError
from cflow_ad.fitting import checkpoint as checkpoint_module
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.likelihood import build_level
from cflow_ad.fitting.paper import (
    images_in_a_pass,
    learning_rate_at,
    rotated,
    train_by_passes,
)
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings
from tests.cflow.freia import freia_of
from tests.cflow.oracle import encode_positions

SETTINGS = Settings.preset(
    "paper",
    backbone="test_efficientnet",
    weights="random",
    size="64x64",
    strides=(8, 16),
    batch_size=48,
    paper={"epochs": 3, "passes_per_epoch": 2, "images_per_batch": 4},
    # Raw features of a random network are tiny.
    method={"padding": "zeros", "blocks": 2, "whiten": True},
)
FILLED = dataclasses.replace(SETTINGS, paper=dataclasses.replace(SETTINGS.paper, zero_fill=True))


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(SETTINGS)


def start(encoder, images, settings):
    features = build_cache(encoder, images, View(sizing=settings.sizing), settings)
    return [build_level(of_level, settings, number) for number, of_level in enumerate(features)]


def train(encoder, images, settings, **kwargs):
    levels = start(encoder, images, settings)
    view = View(sizing=settings.sizing)
    train_by_passes(encoder, images, levels, settings, view=view, **kwargs)
    return levels


def parameters(levels):
    return [value.detach().clone() for level in levels for value in level.density.parameters()]


def assert_equal(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def authors_loop(encoder, images, decoders, input_layers, settings):
    """The schedule of the authors' code, from its description; our draws of chance."""
    optimiser = torch.optim.Adam([p for d in decoders for p in d.parameters()], lr=1.0)
    paper = settings.paper
    lr, batch = settings.learning_rate, paper.images_per_batch
    epochs, passes = paper.epochs, paper.passes_per_epoch

    def cosine(epoch):
        return lr / 1000 + (lr - lr / 1000) * (1 + math.cos(math.pi * epoch / epochs)) / 2

    full = len(images) // batch * batch
    for epoch in range(epochs):
        for sub_epoch in range(passes):
            order = np.random.default_rng([settings.seed, epoch * passes + sub_epoch]).permutation(
                len(images)
            )
            for first in range(0, full, batch):
                progress = (sub_epoch * full + first) / (passes * full)
                rate = cosine(epoch)
                if epoch < 2:
                    rate = lr / 10 + (epoch + progress) / 2 * (cosine(2) - lr / 10)
                rng = np.random.default_rng([settings.seed, epoch * passes + sub_epoch, first])
                angles = rng.uniform(-5, 5, batch)
                pixels = []
                for number, angle in zip(order[first : first + batch], angles, strict=True):
                    image = Image.fromarray(images[number]).resize((64, 64), Image.LANCZOS)
                    pixels.append(np.asarray(transforms.rotate(image, float(angle))))
                pyramid = encoder(torch.from_numpy(np.stack(pixels)))
                for decoder, layer, features in zip(decoders, input_layers, pyramid, strict=True):
                    count, channels, h, w = features.shape
                    code = encode_positions(h, w, 128).repeat(count, 1, 1, 1).reshape(-1, 128)
                    vectors = features.permute(0, 2, 3, 1).reshape(-1, channels)
                    chosen = rng.permutation(len(vectors))
                    for number in range(len(vectors) // settings.batch_size):
                        index = chosen[number * settings.batch_size :][: settings.batch_size]
                        u, log_det = decoder(layer(vectors[index]), [code[index]])
                        log_p = log_det - 0.5 * (u**2 + math.log(2 * math.pi)).sum(1)
                        loss = -F.logsigmoid(log_p / channels).mean()
                        optimiser.param_groups[0]["lr"] = rate
                        optimiser.zero_grad(set_to_none=not paper.zero_fill)
                        loss.backward()
                        optimiser.step()


@pytest.mark.parametrize("settings", [SETTINGS, FILLED], ids=["none", "zeros"])
def test_it_ends_where_the_authors_loop_ends(encoder, images, trained, filled, settings):
    """With FrEIA's decoders and torchvision's rotations; gradients of levels without a step are
    none, or zeros, which moves them by Adam's momentum.
    """
    images = images[:10]  # two batches of four; two images are left out of each pass
    begun = start(encoder, images, settings)
    decoders = [freia_of(level.density).float() for level in begun]
    layers = [level.input_layer for level in begun]
    authors_loop(encoder, images, decoders, layers, settings)

    ours = trained if settings is SETTINGS else filled
    for level, decoder, before in zip(ours, decoders, begun, strict=True):
        x = torch.randn(50, level.density.channels)
        rows, columns = torch.randint(0, 4, (2, 50))
        code = encode_positions(4, 4, 128)[rows, columns]
        theirs, log_det = decoder(x, [code])
        u, our_log_det = level.density(x, code)
        unmoved, _ = before.density(x, code)
        torch.testing.assert_close(u, theirs, rtol=0, atol=1e-4)
        torch.testing.assert_close(our_log_det, log_det, rtol=0, atol=1e-4)
        assert (unmoved - theirs).abs().max() > 1e-2


@pytest.fixture(scope="module")
def trained(encoder, images):
    """Flows trained on ten images without an interruption."""
    return train(encoder, images[:10], SETTINGS)


@pytest.fixture(scope="module")
def filled(encoder, images):
    """The same with zeros for gradients of levels without a step."""
    return train(encoder, images[:10], FILLED)


def test_zeros_for_gradients_move_the_other_levels_too(trained, filled):
    for one, other in zip(trained, filled, strict=True):
        assert not torch.allclose(one.density.blocks[0].gamma, other.density.blocks[0].gamma)


def test_the_learning_rate_is_the_authors():
    peak = 2e-4
    rates = [learning_rate_at(epoch, epoch, 25, peak) for epoch in range(25)]
    assert rates[0] == pytest.approx(peak / 10)
    assert rates[2] == pytest.approx(learning_rate_at(2 - 1e-9, 1, 25, peak))
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert peak / 1000 < rates[-1] < peak / 100
    assert learning_rate_at(7.9, 7, 25, peak) == rates[7]  # changed once an epoch
    assert learning_rate_at(0.5, 0, 25, peak) > rates[0]  # but for the warm-up


@pytest.mark.parametrize(("images", "batch", "taken"), [(70, 32, 64), (32, 32, 32), (5, 32, 5)])
def test_an_incomplete_last_batch_is_left_out_unless_it_is_all(images, batch, taken):
    assert images_in_a_pass(images, batch) == taken


def test_an_image_is_turned_about_its_middle_and_not_its_canvas():
    pixels = np.random.default_rng(0).integers(1, 256, (64, 96, 3), dtype=np.uint8)
    turned = rotated(Canvas(pixels, (40, 50), (400, 500)), 180.0)
    assert (turned.valid, turned.original) == ((40, 50), (400, 500))
    assert np.array_equal(turned.pixels[:40, :50], pixels[:40, :50][::-1, ::-1])
    assert (turned.pixels[:, 51:] == 0).all()


def test_a_run_that_was_killed_continues_to_the_same_flows(
    encoder, images, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint_module, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_module, "_SHARE", 1e9)

    def stop(done, loss):
        if done == 12:
            raise KeyboardInterrupt

    kept = tmp_path / "passes.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(encoder, images[:10], SETTINGS, checkpoint=kept, key="k", progress=stop)
    seen = []
    resumed = train(
        encoder,
        images[:10],
        SETTINGS,
        checkpoint=kept,
        key="k",
        progress=lambda done, loss: seen.append(done),
    )
    assert (seen[0], seen[-1]) == (12, 48)
    assert_equal(parameters(resumed), parameters(trained))


def test_divergence_is_an_error(encoder, images):
    settings = dataclasses.replace(SETTINGS, learning_rate=1e9)
    with pytest.raises(DivergenceError, match=r"diverged: the loss is .* at image"):
        train(encoder, images, settings)


def test_a_detector_of_the_papers_schedule_scores_noise_higher(images):
    from cflow_ad import CalibrationWarning, Detector

    seen = []
    settings = dataclasses.replace(SETTINGS, paper=dataclasses.replace(SETTINGS.paper, epochs=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        detector = Detector.fit(images, settings, device="cpu", progress=seen.append)
    assert not detector.calibration.folds
    assert detector.calibration.n_images == len(images)  # the paper holds none out
    assert [p.done for p in seen if p.stage == "passes"][-1] == 24
    noise = np.random.default_rng(0).integers(0, 256, images[0].shape, dtype=np.uint8)
    assert detector.predict(noise).score > max(detector.predict(i).score for i in images)
