"""An evaluation measures a detector and leaves it as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cflow_ad import evaluate, open_dataset
from cflow_ad.data.images import read_mask
from cflow_ad.evaluation.metrics import binomial_interval
from tests.evaluation.oracle import exact_pixel_metrics


@pytest.fixture(scope="module")
def dataset(carpet_folder):
    return open_dataset(carpet_folder)


@pytest.fixture(scope="module")
def evaluation(tiny_detector, dataset):
    return evaluate(tiny_detector, dataset)


def test_pixel_metrics_are_the_exact_ones_of_the_detectors_maps(evaluation, tiny_detector, dataset):
    maps = [tiny_detector.predict(sample.path).anomaly_map for sample in dataset.test]
    masks = [
        np.zeros(values.shape, bool) if sample.is_good else read_mask(sample.mask, values.shape)
        for sample, values in zip(dataset.test, maps, strict=True)
    ]
    exact = exact_pixel_metrics(maps, masks)
    assert evaluation.pixel.auroc == pytest.approx(exact.auroc, abs=1e-5)
    assert evaluation.pixel.average_precision == pytest.approx(exact.average_precision, abs=1e-4)
    assert evaluation.pixel.best_f1 == pytest.approx(exact.best_f1, abs=1e-4)
    assert evaluation.pixel.aupro == pytest.approx(exact.aupro, abs=1e-4)
    assert evaluation.pixel.n_regions == exact.n_regions


def test_neither_the_order_nor_the_batch_size_changes_a_metric(evaluation, tiny_detector, dataset):
    turned = dataclasses.replace(dataset, test=dataset.test[::-1])
    other = evaluate(tiny_detector, turned, batch_size=3)
    for name in ("auroc", "average_precision", "aupro"):
        ours, theirs = getattr(evaluation.pixel, name), getattr(other.pixel, name)
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert evaluation.image.auroc == other.image.auroc
    assert evaluation.confusion == other.confusion


def test_the_detector_is_left_as_it_is(tiny_detector, dataset):
    before = {name: value.clone() for name, value in tiny_detector.network.state_dict().items()}
    threshold = tiny_detector.threshold
    evaluate(tiny_detector, dataset)
    after = tiny_detector.network.state_dict()
    assert all((value == after[name]).all() for name, value in before.items())
    assert tiny_detector.threshold == threshold


def test_false_alarms_are_counted_on_good_test_images(evaluation, tiny_detector, dataset):
    good = [sample for sample in dataset.test if sample.is_good]
    count = sum(tiny_detector.predict(sample.path).is_anomalous for sample in good)
    alarms = evaluation.false_alarms
    assert (alarms.count, alarms.trials) == (count, len(good))
    assert alarms.interval == binomial_interval(count, len(good))
    assert alarms.promised == tiny_detector.calibration.achieved_rate


def test_progress_reaches_the_end(tiny_detector, dataset):
    seen = []
    evaluate(tiny_detector, dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(dataset.test), len(dataset.test))
