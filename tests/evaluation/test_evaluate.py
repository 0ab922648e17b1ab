"""An evaluation measures a detector and leaves it as it is."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cflow_ad import DataError, ImageError, MaskError, Sample, evaluate, open_dataset
from cflow_ad.data.masks import MaskFiles, read_mask
from cflow_ad.evaluation.metrics import binomial_interval
from tests.evaluation.oracle import exact_pixel_metrics


@pytest.fixture(scope="module")
def dataset(carpet_folder):
    return open_dataset(carpet_folder)


@pytest.fixture(scope="module")
def evaluation(toy_detector, dataset):
    return evaluate(toy_detector, dataset)


def numbers(result):
    """The metrics that are numbers, not curves."""
    values = ((f.name, getattr(result, f.name)) for f in dataclasses.fields(result))
    return {name: value for name, value in values if isinstance(value, int | float)}


def test_pixel_metrics_are_the_exact_ones_of_the_detectors_maps(evaluation, toy_detector, dataset):
    maps = [toy_detector.predict(sample.path).anomaly_map for sample in dataset.test]
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


def test_neither_the_order_nor_the_batch_size_changes_a_metric(evaluation, toy_detector, dataset):
    turned = dataclasses.replace(dataset, test=dataset.test[::-1])
    other = evaluate(toy_detector, turned, batch_size=3)
    for name in ("auroc", "average_precision", "aupro"):
        ours, theirs = getattr(evaluation.pixel, name), getattr(other.pixel, name)
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert evaluation.image.auroc == other.image.auroc
    assert evaluation.confusion == other.confusion


def test_a_mask_in_several_files_is_their_union(evaluation, toy_detector, dataset, tmp_path):
    parts = []
    for number, sample in enumerate(dataset.test):
        if not sample.is_good:
            with Image.open(sample.mask) as opened:
                mask = np.array(opened)
            halves = np.stack([mask, mask])
            halves[0, :, ::2] = halves[1, :, 1::2] = 100  # not above the threshold
            files = tuple(tmp_path / f"{number}-{half}.png" for half in range(2))
            for file, half in zip(files, halves, strict=True):
                Image.fromarray(half).save(file)
            sample = dataclasses.replace(sample, mask=MaskFiles(files))
        parts.append(sample)
    other = evaluate(toy_detector, dataclasses.replace(dataset, test=tuple(parts)))
    assert numbers(other.pixel) == numbers(evaluation.pixel)


def test_the_detector_is_not_changed(toy_detector, dataset):
    path = dataset.test[0].path
    before, info = toy_detector.predict(path), toy_detector.info()
    evaluate(toy_detector, dataset)
    after = toy_detector.predict(path)
    assert (before.anomaly_map == after.anomaly_map).all()
    assert (before.threshold, info) == (after.threshold, toy_detector.info())


def test_false_alarms_are_counted_on_good_test_images(evaluation, toy_detector, dataset):
    good = [sample for sample in dataset.test if sample.is_good]
    count = sum(toy_detector.predict(sample.path).is_anomalous for sample in good)
    alarms = evaluation.false_alarms
    assert (alarms.count, alarms.trials) == (count, len(good))
    assert alarms.interval == binomial_interval(count, len(good))
    assert alarms.promised == toy_detector.calibration.achieved_rate


def test_a_defect_type_is_measured_as_if_it_were_the_only_one(evaluation, toy_detector, dataset):
    some = tuple(sample for sample in dataset.test if sample.label in ("good", "cut"))
    alone = evaluate(toy_detector, dataclasses.replace(dataset, test=some))
    result = evaluation.per_defect["cut"]
    assert numbers(result.image) == pytest.approx(numbers(alone.image), abs=1e-5)
    assert numbers(result.pixel) == pytest.approx(numbers(alone.pixel), abs=1e-5)
    assert result.recall == alone.confusion.recall


def test_the_verdicts_are_the_scores_against_the_stored_threshold(evaluation, toy_detector):
    assert evaluation.threshold == toy_detector.calibration.threshold
    assert evaluation.map_threshold == toy_detector.calibration.map_threshold
    for record in evaluation.images:
        assert record.is_anomalous == (record.score > evaluation.threshold)
        assert record.is_anomalous == (record.n_regions > 0)
    confusion = evaluation.confusion
    assert confusion.fn == sum(record.is_miss for record in evaluation.images)
    assert confusion.fp == sum(record.is_false_alarm for record in evaluation.images)


def test_defects_without_a_mask_count_for_images_only(evaluation, toy_detector, dataset):
    hidden = [
        dataclasses.replace(sample, mask=None) if sample.label == "hole" else sample
        for sample in dataset.test
    ]
    partly = evaluate(toy_detector, dataclasses.replace(dataset, test=tuple(hidden)))
    assert numbers(partly.image) == numbers(evaluation.image)
    assert partly.per_defect["hole"].pixel is None
    cut, before = partly.per_defect["cut"].pixel, evaluation.per_defect["cut"].pixel
    assert numbers(cut) == numbers(before)
    assert partly.pixel.n_regions < evaluation.pixel.n_regions
    bare = [dataclasses.replace(sample, mask=None) for sample in dataset.test]
    none = evaluate(toy_detector, dataclasses.replace(dataset, test=tuple(bare)))
    assert none.pixel is None
    assert none.to_dict()["pixel"] is None


@pytest.mark.parametrize("good", [True, False])
def test_what_is_undefined_is_none_and_the_json_is_valid(toy_detector, dataset, good):
    some = tuple(sample for sample in dataset.test if sample.is_good == good)
    told = json.loads(
        evaluate(toy_detector, dataclasses.replace(dataset, test=some)).to_json(),
        parse_constant=pytest.fail,
    )
    assert told["image"]["auroc"] is None
    assert (told["confusion"]["recall"] is None) == good
    assert (told["false_alarms"]["rate"] is None) == (not good)


def test_unreadable_images_are_raised_or_listed_as_asked(
    evaluation, toy_detector, dataset, tmp_path
):
    broken = Sample(tmp_path / "broken.png", "hole", dataset.test[0].mask)
    broken.path.write_bytes(b"no image")
    more = dataclasses.replace(dataset, test=(broken, *dataset.test))
    with pytest.raises(ImageError, match=r"broken\.png"):
        evaluate(toy_detector, more)
    seen = []
    rest = evaluate(
        toy_detector,
        more,
        skip_unreadable=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [path for path, _ in rest.skipped] == [str(broken.path)]
    assert rest.images == evaluation.images
    assert seen[-1] == (len(more.test), len(more.test))


def test_without_test_images_there_is_nothing_to_evaluate(toy_detector, dataset):
    with pytest.raises(DataError, match="no images to evaluate on"):
        evaluate(toy_detector, dataclasses.replace(dataset, test=()))


@pytest.mark.parametrize("kind", ["file", "files", "unreadable", "missing", "roi"])
def test_what_does_not_fit_its_image_is_found_before_the_first_is_scored(
    toy_detector, dataset, tmp_path, kind
):
    *rest, last = (sample for sample in dataset.test if not sample.is_good)
    bad = tmp_path / "bad.png"
    if kind == "unreadable":
        bad.write_text("no image")
    elif kind != "missing":
        Image.fromarray(np.zeros((10, 12), np.uint8)).save(bad)
    mask = {"files": MaskFiles((last.mask, bad)), "roi": last.mask}
    spoilt = dataclasses.replace(
        last, mask=mask.get(kind, bad), roi=bad if kind == "roi" else last.roi
    )
    scored = []
    for skip in (False, True):
        with pytest.raises(DataError) as raised:
            evaluate(
                toy_detector,
                dataclasses.replace(dataset, test=(*rest, spoilt)),
                skip_unreadable=skip,
                progress=lambda *counts: scored.append(counts),
            )
        assert str(bad) in str(raised.value)
        if kind in ("file", "files", "roi"):
            assert isinstance(raised.value, MaskError)
            assert "10 x 12" in str(raised.value)
            assert "96 x 96" in str(raised.value)
    assert not scored
