"""Several processes fit and evaluate the model that one process does."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cflow_ad import CalibrationWarning, Detector
from cflow_ad.data.layouts import open_dataset
from cflow_ad.errors import SettingsError
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.fitting.fit import fit_model
from cflow_ad.fitting.good_images import find_good_images
from cflow_ad.fitting.levels import deal
from cflow_ad.method import PaperSchedule
from cflow_ad.settings import Settings
from tests.fitting.threads import Threads, in_threads

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings(toy_settings):
    return dataclasses.replace(toy_settings, augment_copies=1, augment_rotation=5.0, bits=8)


@pytest.fixture(scope="module")
def good(images):
    return find_good_images(images)


def assert_same(fitted, one):
    assert fitted.scores.numbers == one.scores.numbers
    assert fitted.scores.scores == one.scores.scores
    assert fitted.scores.peaks == one.scores.peaks
    assert fitted.ended == one.ended
    state = fitted.model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("budget", [2.0, 1e-4])
def test_several_processes_fit_the_model_of_one(encoder, good, settings, tmp_path, size, budget):
    settings = dataclasses.replace(settings, feature_budget=budget)
    one = fit_model(encoder, good, settings)
    for fitted in in_threads(
        size, lambda group: fit_model(encoder, good, settings, work=tmp_path, group=group)
    ):
        assert_same(fitted, one)


def test_more_processes_than_images_fit_a_model(encoder, images, settings, tmp_path):
    few = find_good_images(images[:2])
    one = fit_model(encoder, few, settings)
    for fitted in in_threads(
        3, lambda group: fit_model(encoder, few, settings, work=tmp_path, group=group)
    ):
        assert_same(fitted, one)


def test_the_paper_s_schedule_is_split_by_models(encoder, good, settings, tmp_path):
    settings = dataclasses.replace(
        settings,
        augment_copies=0,
        paper=PaperSchedule(epochs=1, passes_per_epoch=1),
        method=dataclasses.replace(settings.method, memory=0),
    )
    one = fit_model(encoder, good, settings)
    for fitted in in_threads(
        2, lambda group: fit_model(encoder, good, settings, work=tmp_path, group=group)
    ):
        assert_same(fitted, one)


def test_several_processes_continue_from_what_they_kept(encoder, good, settings, tmp_path):
    def fit(group):
        seen = []
        fitted = fit_model(
            encoder, good, settings, work=tmp_path, group=group, progress=seen.append
        )
        return fitted, seen

    first = in_threads(2, fit)
    for (again, seen), (one, _) in zip(in_threads(2, fit), first, strict=True):
        assert_same(again, one)
        encoded = [p for p in seen if p.stage == "encode"]
        assert [p.done for p in encoded] == [encoded[0].total]  # none is encoded again
        assert all(p.done % settings.steps == 0 for p in seen if p.stage == "train")


def test_processes_need_a_folder_to_share(encoder, good, settings):
    with pytest.raises(SettingsError, match="work folder"):
        in_threads(2, lambda group: fit_model(encoder, good, settings, group=group))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_are_consecutive_and_of_about_equal_weight(size):
    weights = np.random.default_rng(0).integers(1, 50, 200).tolist()
    bounds = Threads(0, [None] * size, None).bounds(weights)
    assert bounds == sorted(bounds)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, 200, size + 1)
    of_parts = [sum(weights[begin:end]) for begin, end in pairwise(bounds)]
    assert max(of_parts) - min(of_parts) <= 2 * max(weights)


def test_the_costliest_parts_are_dealt_first():
    assert deal([3.0] * 6, 3) == [0, 1, 2, 0, 1, 2]
    costs = [31, 12, 17] * 6  # as of the levels of six models
    loads = [0] * 4
    for cost, owner in zip(costs, deal(costs, 4), strict=True):
        loads[owner] += cost
    assert max(loads) <= 1.1 * sum(costs) / 4


def test_several_processes_evaluate_as_one(tiny_detector, carpet_folder):
    dataset = open_dataset(carpet_folder)
    one = evaluate(tiny_detector, dataset).to_dict()
    for found in in_threads(2, lambda group: evaluate(tiny_detector, dataset, group=group)):
        other = found.to_dict()
        assert other["pixel"].pop("aupro") == pytest.approx(one["pixel"]["aupro"], abs=1e-12)
        for name in ("image", "confusion", "tradeoff", "images"):
            assert other[name] == one[name]
        assert other["pixel"].items() <= one["pixel"].items()


def test_the_scores_of_the_papers_code_are_refused_in_several(tiny_detector, carpet_folder):
    dataset = open_dataset(carpet_folder)
    with pytest.raises(SettingsError, match="without torchrun"):
        in_threads(2, lambda group: evaluate(tiny_detector, dataset, reference=True, group=group))


# Real processes


OPTIONS = {
    "size": "64x64",
    "strides": "8,16",
    "steps": "30",
    "batch_size": "64",
    "folds": "2",
    "backbone": "test_efficientnet",
    "weights": "random",
}


GIVEN = [part for name, value in OPTIONS.items() for part in ("--set", f"{name}={value}")]


def start(*arguments, **environment):
    """Start Python with one core."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_all(commands, local_ranks):
    """Start processes of a group as torchrun does, some of them as on other machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_all = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(len(commands)),
    }
    return [
        start(*command, **of_all, RANK=str(rank), LOCAL_RANK=str(local))
        for rank, (command, local) in enumerate(zip(commands, local_ranks, strict=True))
    ]


def finish(started):
    """The exit status of processes, and what they print."""
    printed = [each.communicate(timeout=120) for each in started]
    return [each.returncode for each in started], printed


@pytest.fixture(scope="module")
def by_one(carpet_folder):
    """The model that one process trains in this one, with all its cores."""
    settings = Settings(**{k: Settings.parse(k, v) for k, v in OPTIONS.items()})
    with pytest.warns(CalibrationWarning):
        return Detector.fit(carpet_folder, settings, device="cpu")


def assert_model_of_one(file, by_one):
    found = Detector.load(file, device="cpu")
    state = by_one.model.state_dict()
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert found.calibration == by_one.calibration


def test_torchrun_trains_the_model_of_one_process(carpet_folder, by_one, tmp_path):
    model = tmp_path / "model.safetensors"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = (*torchrun, "-m", "cflow_ad", "train", carpet_folder, "-o", model, *GIVEN)
    (status,), ((out, _),) = finish([start(*command)])
    assert status == 0
    assert out.count("trained on 12 images") == 1
    assert [path.name for path in tmp_path.iterdir()] == [model.name]
    assert_model_of_one(model, by_one)


def test_two_machines_train_the_model_of_one_process(carpet_folder, by_one, tmp_path):
    """They share no folder; tests above have processes that do."""
    here, there = (tmp_path / name / "model.safetensors" for name in ("here", "there"))
    for folder in (here.parent, there.parent):
        folder.mkdir()
    commands = [
        ("-m", "cflow_ad", "train", carpet_folder, "-o", model, *GIVEN) for model in (here, there)
    ]
    status, printed = finish(start_all(commands, [0, 0]))
    assert status == [0, 0]
    assert [out.count("trained on 12 images") for out, _ in printed] == [1, 0]
    assert [path.name for path in here.parent.iterdir()] == [here.name]
    assert not list(there.parent.iterdir())
    assert_model_of_one(here, by_one)


def test_an_image_that_one_process_cannot_read_ends_all_with_one_error(carpet_folder, tmp_path):
    folder = shutil.copytree(carpet_folder / "train" / "good", tmp_path / "good")
    broken = max(folder.iterdir())
    broken.write_bytes(broken.read_bytes()[:-2000])
    command = ("-m", "cflow_ad", "train", folder, "-o", tmp_path / "model.safetensors", *GIVEN)
    status, printed = finish(start_all([command] * 2, [0, 1]))
    assert status == [2, 2]
    errors = "".join(err for _, err in printed)
    assert errors.count("error: ") == 1
    assert broken.name in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os._exit(9)", "connection to another process was lost"),
        ("raise DataError('no')", "process 2 of 2 failed: no"),
    ],
)
def test_a_process_that_ends_or_fails_ends_the_others(end, said):
    """Also one that is at work, which looks whether it may stop."""
    script = f"""
import os, time
from cflow_ad.errors import DataError, GroupError
from cflow_ad.fitting.group import join_group
try:
    with join_group() as group:
        if group.rank == 1:
            {end}
        while not group.is_ending() and "exit" not in {end!r}:
            time.sleep(0.1)
        group.gather(group.rank)
except GroupError as error:
    print(error)
"""
    status, printed = finish(start_all([("-c", script)] * 2, [0, 1]))
    assert status[0] == 0
    assert status[1] != 0
    assert said in printed[0][0]
