"""Maximum likelihood lowers the loss, repeats itself, and survives being stopped."""

from __future__ import annotations

import dataclasses
import gc
import time
import weakref

import numpy as np
import pytest
import torch

from cflow_ad.errors import DivergenceError
from cflow_ad.fitting import checkpoint as checkpoint_module
from cflow_ad.fitting import likelihood
from cflow_ad.fitting.batches import Batches
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.likelihood import (
    build_level,
    compute_loss,
    learning_rate_at,
    level_batch_size,
    train_level,
)
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.fitting.side_by_side import run_in_turn
from cflow_ad.method import Method
from cflow_ad.settings import Settings

SETTINGS = Settings(steps=30, batch_size=128, learning_rate=3e-3, method=Method(blocks=2))
RAW = Method(blocks=2, whiten=False)


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
    level = build_level(features, settings, 0)
    training = train_level(
        level, features, settings, **({"number": 0, "steps": settings.steps} | changes)
    )
    (ended,) = run_in_turn([training], torch.device("cpu"))
    fit_scale(level, features, settings, 0)
    return level, ended


def fit(features, settings=SETTINGS, **changes):
    return train(features, settings, **changes)[0]


@pytest.fixture(scope="module")
def level(features):
    """Fitted with `SETTINGS`, without an interruption."""
    return fit(features)


def assert_equal(ours, theirs):
    theirs = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_the_likelihood_of_good_vectors_rises(features):
    settings = dataclasses.replace(
        SETTINGS,
        steps=100,
        learning_rate=1e-2,
        method=Method(blocks=2, wide_subnets=True, permutation="soft"),
    )
    z, rows, columns = features.take(np.arange(2000))
    before = fit(features, dataclasses.replace(settings, steps=0))(z, rows, columns).mean()
    after = fit(features, settings)(z, rows, columns).mean()
    assert after > before + 0.01


def test_the_same_seed_gives_the_same_flow_and_another_another(features, level):
    assert_equal(fit(features), level)
    other = fit(features, dataclasses.replace(SETTINGS, seed=1, steps=1))
    for name in ("first.weight", "permutation"):
        ours, theirs = (of.density.blocks[0].state_dict()[name] for of in (level, other))
        assert not torch.equal(ours, theirs), name


def test_training_leaves_the_global_generator_alone(features):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(features, dataclasses.replace(SETTINGS, steps=2))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("stop_at", [25, 30])
def test_a_run_that_was_killed_continues_to_the_same_flow(
    features, level, tmp_path, monkeypatch, stop_at
):
    monkeypatch.setattr(checkpoint_module, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_module, "_SHARE", 1e9)

    def stop(step, loss):
        if step == stop_at:
            raise KeyboardInterrupt

    kept = {"checkpoint": tmp_path / "level.safetensors", "key": "k"}
    with pytest.raises(KeyboardInterrupt):
        fit(features, **kept, progress=stop)
    steps = []
    resumed = fit(features, **kept, progress=lambda step, loss: steps.append(step))
    assert steps[0] == stop_at
    assert_equal(resumed, level)


@pytest.mark.parametrize("whiten", [True, False])
def test_features_that_are_not_finite_are_an_error(features, whiten):
    vectors = features.vectors.copy()
    vectors[5:600] = np.nan
    broken = LevelFeatures(vectors, features.positions)
    settings = dataclasses.replace(SETTINGS, method=Method(blocks=2, whiten=whiten))
    with pytest.raises(DivergenceError, match=r"finite|diverged"):
        fit(broken, settings)


def test_divergence_names_the_step_and_the_setting(features):
    wild = dataclasses.replace(SETTINGS, learning_rate=1e30, method=RAW)
    with pytest.raises(DivergenceError, match=r"step \d+ of level 1; lower learning_rate"):
        fit(features, wild)


def test_the_learning_rate_warms_up_and_falls_to_0():
    rates = [learning_rate_at(step, 200, 1.0) for step in range(200)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0.95 < max(rates) <= 1
    assert rates[-1] < 1e-3


def test_a_step_of_any_level_has_the_same_number_of_images_worth_of_vectors():
    settings = Settings(strides=(8, 16, 32), batch_size=1024)
    assert [level_batch_size(settings, number, 9) for number in range(3)] == [1024, 256, 64]
    assert level_batch_size(dataclasses.replace(settings, batch_size=1), 2, 9) == 1


def test_the_loss_is_the_log_sigmoid():
    log_likelihood = torch.tensor([-2.0, 0.5])
    expected = np.log1p(np.exp([2.0, -0.5])).mean()
    assert compute_loss(log_likelihood).item() == pytest.approx(expected)


def test_the_time_limit_is_kept(features):
    began = time.monotonic()
    _, ended = train(features, dataclasses.replace(SETTINGS, steps=10**6), seconds=0.3)
    assert ended.why == "time"
    assert 0 < ended.steps < 10**5
    assert time.monotonic() - began < 5
    assert train(features, seconds=0.0)[1] == (0, "time")


def test_all_steps_are_taken_without_a_limit(features):
    assert train(features)[1] == (30, "steps")


def test_a_run_that_is_stopped_is_saved(features, level, tmp_path):
    """Training ends after the step, and the same call continues from there, within a block."""
    kept = {"checkpoint": tmp_path / "level.safetensors", "key": "k"}
    steps = []

    def report(step, loss):
        steps.append(step)

    asked = iter(range(12))
    fit(features, **kept, progress=report, is_stopped=lambda: next(asked) == 11)
    assert steps[-1] == 12
    steps.clear()
    resumed = fit(features, **kept, progress=report)
    assert steps == [12, 25, 30]
    assert_equal(resumed, level)


def test_nothing_of_a_training_stays_when_it_has_ended(features, monkeypatch):
    """On a GPU its vectors may take half of the memory, and gradients keep that of the graph."""
    made = []

    class Watched(Batches):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(likelihood, "Batches", Watched)
    gc.disable()
    try:
        level = fit(features, dataclasses.replace(SETTINGS, steps=2))
        assert [of() for of in made] == [None]
    finally:
        gc.enable()
    assert all(parameter.grad is None for parameter in level.parameters())


def test_trainings_take_turns_and_none_changes_another(features, level):
    """As in the streams of one GPU: a block of each in turn."""
    order = []
    levels = [build_level(features, SETTINGS, 0) for _ in range(2)]
    trainings = [
        train_level(
            one,
            features,
            SETTINGS,
            number=0,
            steps=SETTINGS.steps,
            progress=lambda step, loss, which=which: order.append((which, step)),
        )
        for which, one in enumerate(levels)
    ]
    assert run_in_turn(trainings, torch.device("cpu")) == [(30, "steps")] * 2
    assert order == [(0, 25), (1, 25), (0, 30), (1, 30)]
    for one in levels:
        fit_scale(one, features, SETTINGS, 0)
        assert_equal(one, level)
