"""The authors' scores are what their code computes, written out once more here."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import RegularGridInterpolator
from sklearn.metrics import roc_auc_score

from cflow_ad.data.layouts import Sample, open_dataset
from cflow_ad.evaluation import reference
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.evaluation.reference import reference_maps
from cflow_ad.evaluation.report import write_report


def upsampled(grid, shape):
    """Corners on corners."""
    ends = [np.linspace(0, 1, n) for n in grid.shape]
    at = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    return RegularGridInterpolator(ends, grid)(np.stack(at, axis=-1))


def authors_maps(likelihoods, shapes):
    largest = [max(levels[n].max() for levels in likelihoods) for n in range(len(likelihoods[0]))]
    sums = [
        sum(
            upsampled(np.exp(level.astype(np.float64) - most), shape)
            for level, most in zip(levels, largest, strict=True)
        )
        for levels, shape in zip(likelihoods, shapes, strict=True)
    ]
    return [max(total.max() for total in sums) - total for total in sums]


def test_maps_are_relative_to_the_whole_test_set():
    rng = np.random.default_rng(0)
    likelihoods = [
        [rng.normal(-1, 3, shape).astype(np.float32) for shape in ((8, 6), (4, 3))]
        for _ in range(3)
    ]
    shapes = [(32, 24), (32, 24), (30, 20)]
    ours = list(reference_maps(likelihoods, shapes))
    for mine, expected in zip(ours, authors_maps(likelihoods, shapes), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-12)
    assert min(anomaly_map.min() for anomaly_map in ours) == 0
    alone = next(reference_maps(likelihoods[:1], shapes[:1]))
    assert not np.allclose(alone, ours[0])  # the flaw that the product's own scores do not have


def test_the_shape_is_that_of_the_page_that_is_read(toy_detector, images, tmp_path, monkeypatch):
    first, second = Image.fromarray(images[0][:40]), Image.fromarray(images[1])
    path = tmp_path / "pages.tif"
    first.save(path, save_all=True, append_images=[second])
    detector = copy.copy(toy_detector).read_as(page=2)
    shapes = []
    monkeypatch.setattr(
        reference,
        "reference_maps",
        lambda found, of: shapes.extend(of) or [np.zeros(s) for s in of],
    )
    reference.compute_reference(detector, [Sample(path, "good"), Sample(path, "hole")])
    assert shapes == [detector.settings.sizing.valid_shape(images[1].shape[:2])] * 2


@pytest.fixture(scope="module")
def evaluated(carpet_folder, toy_detector):
    return evaluate(toy_detector, open_dataset(carpet_folder), reference=True)


def test_an_evaluation_reports_both_scores(evaluated, carpet_folder, toy_detector):
    samples = open_dataset(carpet_folder).test
    likelihoods = [toy_detector.log_likelihoods(sample.path) for sample in samples]
    maps = authors_maps(likelihoods, [(64, 64)] * len(samples))
    is_defect = [not sample.is_good for sample in samples]
    expected = roc_auc_score(is_defect, [anomaly_map.max() for anomaly_map in maps])
    assert evaluated.reference.image.auroc == pytest.approx(expected)

    def mask_of(sample):
        if sample.is_good:
            return np.zeros((64, 64), bool)
        with Image.open(sample.mask) as image:
            return np.asarray(image.resize((64, 64), Image.NEAREST)) > 0

    masks = np.stack([mask_of(sample) for sample in samples])
    expected = roc_auc_score(masks.ravel(), np.stack(maps).ravel())
    assert evaluated.reference.pixel.auroc == pytest.approx(expected, abs=1e-4)
    assert evaluated.reference.pixel.n_pixels == 64 * 64 * len(samples)
    told = json.loads(evaluated.to_json())
    assert told["reference"]["image"]["auroc"] == evaluated.reference.image.auroc
    assert told["image"]["auroc"] == evaluated.image.auroc


def test_it_changes_nothing_in_the_products_own_scores(evaluated, carpet_folder, toy_detector):
    done = []
    plain = evaluate(
        toy_detector, open_dataset(carpet_folder), progress=lambda *counts: done.append(counts)
    )
    assert plain.reference is None
    assert plain.to_dict()["reference"] is None
    assert [r.score for r in plain.images] == [r.score for r in evaluated.images]
    assert done[-1][0] == done[-1][1] == len(plain.images)


def test_progress_counts_both_passes(carpet_folder, toy_detector):
    done = []
    evaluate(
        toy_detector,
        open_dataset(carpet_folder),
        reference=True,
        progress=lambda *counts: done.append(counts),
    )
    assert done[-1][0] == done[-1][1] == len(done)


def test_the_report_shows_them_beside_its_own(evaluated, toy_detector, tmp_path):
    write_report(evaluated, toy_detector.predict, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Images, reference" in page
    assert "Pixels, reference" in page
    assert "a single image cannot be scored" in page


def test_a_detectors_likelihoods_are_those_of_the_image_alone(toy_detector, images):
    """Without the canvas beyond the image, level by level."""
    levels = toy_detector.log_likelihoods(images[0][:48])  # half as high as wide: 32 x 64 of 64
    assert [level.shape for level in levels] == [(4, 8), (2, 4)]
    assert all(np.isfinite(level).all() for level in levels)
