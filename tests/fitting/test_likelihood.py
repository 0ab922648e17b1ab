"""Maximum likelihood goes down the loss, repeats itself, and survives being stopped."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch

from cflow_ad.errors import DivergenceError
from cflow_ad.fitting import checkpoint as checkpoint_module
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.fitting.likelihood import learning_rate_at, loss_of, new_level, train_level
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.settings import Settings

SETTINGS = Settings(blocks=2, steps=30, batch_size=128, learning_rate=3e-3)


@pytest.fixture(scope="module")
def features():
    """Curved and correlated, so that whitening alone does not describe them."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 7)).astype(np.float32)
    vectors[:, 1] += vectors[:, 0] ** 2
    vectors[:, 4] *= 30
    positions = rng.integers(0, 8, size=(3000, 2)).astype(np.int16)
    return LevelFeatures(vectors, positions)


def train(features, settings=SETTINGS, **changes):
    """A level, and how its training ended."""
    level = new_level(features, settings, 0)
    arguments = {"number": 0, "batch_size": settings.batch_size}
    ended = train_level(level, features, settings, **(arguments | changes))
    fit_scale(level, features, settings, 0)
    return level, ended


def fit(features, settings=SETTINGS, **changes):
    return train(features, settings, **changes)[0]


def parameters(level):
    return {name: value.clone() for name, value in level.state_dict().items()}


def assert_equal(ours, theirs):
    for (name, a), b in zip(ours.items(), theirs.values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("loss", ["likelihood", "logsigmoid"])
def test_the_likelihood_of_good_vectors_rises(features, loss):
    settings = dataclasses.replace(
        SETTINGS, loss=loss, steps=150, learning_rate=1e-2, permutation="soft"
    )
    z, rows, columns = features.take(np.arange(2000))
    before = fit(features, dataclasses.replace(settings, steps=0))(z, rows, columns).mean()
    after = fit(features, settings)(z, rows, columns).mean()
    assert after > before + 0.015


def test_the_same_seed_gives_the_same_flow_and_another_another(features):
    first, again = fit(features), fit(features)
    assert_equal(parameters(first), parameters(again))
    other = fit(features, dataclasses.replace(SETTINGS, seed=1))
    for name in ("first.weight", "permutation"):
        ours, theirs = (level.flow.blocks[0].state_dict()[name] for level in (first, other))
        assert not torch.equal(ours, theirs), name


def test_training_leaves_the_global_generator_alone(features):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(features, dataclasses.replace(SETTINGS, steps=2))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("stop_at", [1, 17, 30])
def test_a_stopped_run_goes_on_to_the_same_flow(features, tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(checkpoint_module, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_module, "_SHARE", 1e9)

    def stop(step, loss):
        if step == stop_at:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "level.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(features, checkpoint=checkpoint, key="k", progress=stop)
    steps = []
    resumed = fit(
        features,
        checkpoint=checkpoint,
        key="k",
        progress=lambda step, loss: steps.append(step),
    )
    assert steps[0] == stop_at
    assert_equal(parameters(resumed), parameters(fit(features)))


@pytest.mark.parametrize("damage", ["other key", "cut short", "garbage"])
def test_a_checkpoint_of_another_run_or_a_damaged_one_is_not_taken_up(features, tmp_path, damage):
    checkpoint = tmp_path / "level.safetensors"
    fit(features, checkpoint=checkpoint, key="one")
    if damage == "cut short":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif damage == "garbage":
        checkpoint.write_bytes(b"x" * 64)
    steps = []
    fit(
        features,
        checkpoint=checkpoint,
        key="two" if damage == "other key" else "one",
        progress=lambda step, loss: steps.append(step),
    )
    assert steps[0] == 0


@pytest.mark.parametrize("kind", ["raw", "whiten", "standardise"])
def test_features_that_are_not_finite_are_named(features, kind):
    vectors = features.vectors.copy()
    vectors[5:600] = np.nan
    broken = LevelFeatures(vectors, features.positions)
    with pytest.raises(DivergenceError, match=r"finite|diverged"):
        fit(broken, dataclasses.replace(SETTINGS, input_layer=kind))


def test_divergence_says_where_and_what_to_do(features):
    wild = dataclasses.replace(SETTINGS, learning_rate=1e30, input_layer="raw")
    with pytest.raises(DivergenceError, match=r"step \d+ of level 1; lower learning_rate"):
        fit(features, wild)


def test_the_scale_runs_from_the_median_to_the_tail(features):
    level = fit(features)
    z, rows, columns = features.take(np.arange(len(features)))
    likelihoods = level(z, rows, columns).double()
    marks = likelihoods.quantile(torch.tensor([0.5, SETTINGS.tail_quantile], dtype=torch.float64))
    scores = -level.normality(marks.float(), rows[:1], columns[:1]).log()
    torch.testing.assert_close(scores, torch.tensor([0.0, 3.0]), atol=1e-4, rtol=1e-4)


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    rates = [learning_rate_at(step, 200, 1.0) for step in range(200)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0.95 < max(rates) <= 1
    assert rates[-1] < 1e-3


# The end


@pytest.fixture(scope="module")
def judged(features):
    """The same vectors, the last thousand of them held out."""
    return LevelFeatures(features.vectors, features.positions, held_out=1000)


LONG = dataclasses.replace(SETTINGS, steps=600, learning_rate=1e-2)


def test_training_ends_where_held_out_vectors_become_no_more_likely(judged):
    few = LevelFeatures(judged.vectors[1960:], judged.positions[1960:], held_out=1000)
    seen = []
    _, ended = train(few, LONG, progress=lambda step, loss: seen.append(step))
    assert ended.why == "likelihood"  # 40 vectors are soon learnt by heart
    assert ended.steps == seen[-1] < 300
    assert train(few, dataclasses.replace(LONG, least_gain=0.0, steps=80))[1] == (80, "steps")


def test_training_goes_on_while_they_become_more_likely(judged):
    settings = dataclasses.replace(LONG, steps=100, learning_rate=3e-3, least_gain=1e-6)
    assert train(judged, settings)[1] == (100, "steps")


def test_held_out_vectors_are_not_trained_on(judged):
    spoilt = judged.vectors.copy()
    spoilt[2000:] = np.random.default_rng(1).normal(size=(1000, 7))
    settings = dataclasses.replace(SETTINGS, input_layer="raw")  # whitening sees all
    ours = fit(judged, settings).flow.state_dict()
    theirs = fit(LevelFeatures(spoilt, judged.positions, held_out=1000), settings).flow.state_dict()
    assert_equal(ours, theirs)


def test_time_is_kept(features):
    began = time.monotonic()
    _, ended = train(features, dataclasses.replace(LONG, steps=10**6), seconds=0.5)
    assert ended.why == "time"
    assert 0 < ended.steps < 10**5
    assert time.monotonic() - began < 5
    assert train(features, LONG, seconds=0.0)[1] == (0, "time")


def test_a_run_stopped_while_the_rate_falls_ends_where_it_would_have(judged, tmp_path):
    few = LevelFeatures(judged.vectors[1960:], judged.positions[1960:], held_out=1000)
    whole, ended = train(few, LONG)
    kept = {"checkpoint": tmp_path / "level.safetensors", "key": "k"}
    steps = []
    train(
        few,
        LONG,
        **kept,
        progress=lambda step, loss: steps.append(step),
        is_stopped=lambda: bool(steps) and len(steps) == ended.steps - 10,
    )
    resumed, again = train(few, LONG, **kept)
    assert steps[-1] < ended.steps
    assert again == ended
    assert_equal(parameters(resumed), parameters(whole))


def test_losses_are_what_they_are_called():
    l = torch.tensor([-2.0, 0.5])  # noqa: E741
    assert loss_of(l, "likelihood").item() == pytest.approx(0.75)
    expected = np.log1p(np.exp([2.0, -0.5])).mean()
    assert loss_of(l, "logsigmoid").item() == pytest.approx(expected)
