"""Several processes fit and evaluate the model that one process does."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cflow_ad import CalibrationWarning, Detector
from cflow_ad.data.layouts import open_dataset
from cflow_ad.errors import SettingsError
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.fitting.batches import BLOCK, Batches
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.fit import fit_model
from cflow_ad.fitting.good_images import find_good_images
from cflow_ad.fitting.group import ALONE
from cflow_ad.fitting.likelihood import build_level
from cflow_ad.fitting.place_means import subtract_place_means
from cflow_ad.method import PaperSchedule
from cflow_ad.scoring.view import View
from tests.fitting.threads import in_threads

ROOT = Path(__file__).parents[2]

BOUND = 0.01
"""How far scores may lie apart that one process and several give, as a share: their sums have other
last bits, which the steps of training enlarge."""


@pytest.fixture(scope="module")
def settings(toy_settings):
    return dataclasses.replace(toy_settings, augment_copies=1, augment_rotation=5.0, bits=8)


@pytest.fixture(scope="module")
def good(images):
    return find_good_images(images)


@pytest.mark.parametrize("size", [2, 5])
def test_several_processes_fit_the_model_of_one(encoder, good, settings, size):
    one = fit_model(encoder, good, settings)
    several = in_threads(size, lambda group: fit_model(encoder, good, settings, group=group))
    for fitted in several:
        assert fitted.scores.numbers == one.scores.numbers
        np.testing.assert_allclose(fitted.scores.scores, one.scores.scores, rtol=BOUND)
        np.testing.assert_allclose(fitted.scores.peaks, one.scores.peaks, rtol=BOUND)
        assert fitted.scores.scores == several[0].scores.scores
        for level, of_one, of_first in zip(fitted.model, one.model, several[0].model, strict=True):
            layer = level.input_layer.matrix, of_one.input_layer.matrix
            torch.testing.assert_close(*layer, rtol=1e-4, atol=1e-4 * float(layer[1].abs().max()))
            torch.testing.assert_close(level.means.tables, of_one.means.tables)
            for name, value in level.state_dict().items():
                assert torch.equal(value, of_first.state_dict()[name])


def test_more_processes_than_images_fit_a_model(encoder, images, settings):
    few = find_good_images(images[:3])
    found = in_threads(4, lambda group: fit_model(encoder, few, settings, group=group))
    expected = fit_model(encoder, few, settings).scores.scores
    for fitted in found:
        np.testing.assert_allclose(fitted.scores.scores, expected, rtol=BOUND)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_each_process_keeps_its_own_vectors_within_the_budget_and_none_is_lost(
    encoder, images, settings, share
):
    view = View(sizing=settings.sizing)
    budget = share * sum(
        of_level.vectors.nbytes + of_level.positions.nbytes
        for of_level in build_cache(encoder, images, view, settings)
    )
    budget /= 2**30

    def vectors(group):
        levels = build_cache(encoder, images, view, settings, budget=budget / 2, group=group)
        assert all(len(of_level.vectors) < len(of_level) for of_level in levels)
        return [torch.cat(list(of_level.chunks(100))) for of_level in levels]

    whole = build_cache(encoder, images, view, settings, budget=budget)
    for of_level, *parts in zip(whole, *in_threads(2, vectors), strict=True):
        together, expected = torch.cat(parts), torch.from_numpy(of_level.vectors)
        assert len(together) == len(expected)
        assert {tuple(each) for each in together.tolist()} == {
            tuple(each) for each in expected.tolist()
        }


def test_the_parts_of_a_batch_are_the_batch(encoder, images, settings):
    view = View(sizing=settings.sizing)

    def draw(group):
        of_level = build_cache(encoder, images, view, settings, group=group)[0]
        of_level = subtract_place_means(of_level, 2, len(images)).of_images(range(1, 9))
        batches = Batches(build_level(of_level, settings, 0), of_level, 64, (0, 0))
        batches.draw(2)
        places = torch.stack((batches.rows, batches.columns), dim=2)
        return torch.cat((batches.x, places), dim=2), batches.weights

    expected, _ = draw(ALONE)
    parts = in_threads(3, draw)
    for step in range(BLOCK):
        counted = torch.cat([of[step][weights[step] > 0] for of, weights in parts])
        assert sum(float(weights[step].sum()) for _, weights in parts) == pytest.approx(1)
        order, wanted = (np.lexsort(of.numpy().T.round(3)) for of in (counted, expected[step]))
        torch.testing.assert_close(counted[order], expected[step][wanted], rtol=1e-3, atol=1e-3)


def test_several_processes_evaluate_as_one(tiny_detector, carpet_folder):
    dataset = open_dataset(carpet_folder)
    one = evaluate(tiny_detector, dataset).to_dict()
    for found in in_threads(2, lambda group: evaluate(tiny_detector, dataset, group=group)):
        other = found.to_dict()
        assert other["pixel"].pop("aupro") == pytest.approx(one["pixel"]["aupro"], abs=1e-12)
        for name in ("image", "confusion", "tradeoff", "images"):
            assert other[name] == one[name]
        assert other["pixel"].items() <= one["pixel"].items()


def test_what_needs_one_process_is_refused_in_several(encoder, good, settings):
    def refusal(**changes):
        with pytest.raises(SettingsError, match="without torchrun") as error:
            in_threads(2, lambda group: fit_model(encoder, good, group=group, **changes))
        return str(error.value)

    assert "time limit" in refusal(settings=settings, seconds=10.0)
    paper = dataclasses.replace(settings, augment_copies=0, paper=PaperSchedule())
    assert "paper's schedule" in refusal(settings=paper)


def test_torchrun_trains_one_model(carpet_folder, toy_settings, tmp_path):
    model = tmp_path / "model.safetensors"
    options = {"size": "64x64", "strides": "8,16", "steps": "5", "batch_size": "64", "folds": "2"}
    options |= {"backbone": "test_efficientnet", "weights": "random"}
    given = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "cflow_ad", "train", carpet_folder, "-o", model, *given],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.count("trained on 12 images") == 1
    assert [path.name for path in tmp_path.iterdir()] == [model.name]
    found = Detector.load(model, device="cpu")
    with pytest.warns(CalibrationWarning):
        one = Detector.fit(carpet_folder, found.settings, device="cpu")
    assert found.threshold == pytest.approx(one.threshold, rel=BOUND)
