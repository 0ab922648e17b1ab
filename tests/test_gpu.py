"""What is promised of a GPU, on one; everything else about it is tested without."""

from __future__ import annotations

import dataclasses
import time
import warnings

import numpy as np
import pytest
import torch

from cflow_ad import CalibrationWarning, Detector
from cflow_ad.cflow.graphs import Repeated
from cflow_ad.fitting import likelihood
from tests.test_detector import largest_difference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def detector(toy_detector, tmp_path_factory):
    """The toy detector, on the GPU."""
    path = tmp_path_factory.mktemp("gpu") / "model.safetensors"
    toy_detector.save(path, bundle=True)
    return Detector.load(path, device="cuda")


def fit(images, settings, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return Detector.fit(images, settings, device="cuda", **options)


def test_an_image_has_one_score_in_any_company(detector, images):
    for _ in range(5):  # of which the last come from a graph
        alone = [detector.predict(image) for image in images]
    for size in (2, 7, 32):
        together = list(detector.stream(images, batch_size=size))
        assert largest_difference(together, alone) < 1e-5


def test_scores_are_those_of_a_cpu(detector, toy_detector, images):
    sizes = [*images, images[0][:50], images[1][:, ::2].copy()]
    found, expected = (list(model.stream(sizes)) for model in (detector, toy_detector))
    assert largest_difference(found, expected) < 1e-3  # of maps; of scores:
    for ours, theirs in zip(found, expected, strict=True):
        assert abs(ours.score - theirs.score) < 1e-4 * max(1.0, theirs.score)


def test_training_by_graphs_is_training_without(images, toy_settings, monkeypatch):
    settings = dataclasses.replace(toy_settings, steps=60)
    captured = []

    class Watched(Repeated):
        def _capture(self):
            captured.append(super()._capture())
            return captured[-1]

    monkeypatch.setattr(likelihood, "Repeated", Watched)
    ours = fit(images, settings)
    assert captured
    assert all(captured)

    class Eager(Repeated):
        def __init__(self, work, device, **options):
            super().__init__(work, torch.device("cpu"), **options)

    monkeypatch.setattr(likelihood, "Repeated", Eager)
    theirs = fit(images, settings)
    for (name, one), other in zip(
        ours.model.state_dict().items(), theirs.model.state_dict().values(), strict=True
    ):
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3, msg=name)


def test_a_stopped_fit_continues_to_the_same_model(images, toy_settings, tmp_path):
    settings = dataclasses.replace(toy_settings, steps=60)

    def stop(progress):
        if progress.stage == "train" and progress.done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(images, settings, work=tmp_path, progress=stop)
    resumed, whole = fit(images, settings, work=tmp_path), fit(images, settings)
    for one, other in zip(
        resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True
    ):
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_the_time_limit_is_kept(images, toy_settings):
    began = time.monotonic()
    fit(images[:5], dataclasses.replace(toy_settings, steps=10**6), max_seconds=2.0)
    assert time.monotonic() - began < 60


def test_results_of_one_image_outlast_the_next(detector, images):
    """A graph writes its results to the same place each time."""
    results = [detector.predict(image) for image in images]
    maps = [result.anomaly_map.copy() for result in results]
    for image in images:
        detector.predict(image)
    for result, values in zip(results, maps, strict=True):
        np.testing.assert_array_equal(result.anomaly_map, values)
