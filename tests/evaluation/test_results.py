"""The figure of an evaluation is drawn at the stored thresholds, or at those with the best F1."""

from __future__ import annotations

import numpy as np
import pytest

from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.layouts import open_dataset
from cflow_ad.evaluation import results
from tests.evaluation.synthetic import FakeDetector, measure


@pytest.mark.parametrize("best_f1", [False, True])
def test_images_and_outlines_go_by_their_own_thresholds(tmp_path, monkeypatch, best_f1):
    write_carpet(tmp_path / "carpet", train=0, good=3, per_defect=3, size=96)
    dataset = open_dataset(tmp_path / "carpet")
    evaluation = measure(dataset, strength=2.0)
    threshold, map_threshold = evaluation.threshold, evaluation.map_threshold
    if best_f1:
        threshold = evaluation.image.best_f1_threshold
        map_threshold = evaluation.pixel.best_f1_threshold
    drawn = []
    monkeypatch.setattr(
        results, "draw_panels", lambda panels, **options: drawn.append((panels, options))
    )
    picture = [sample.path for sample in dataset.test]
    results.write_results(
        evaluation, FakeDetector(dataset, strength=2.0), tmp_path, picture=picture, best_f1=best_f1
    )
    panels, options = drawn[0]
    assert options["map_threshold"] == map_threshold
    found = [panel.prediction for panel in panels]
    assert len({prediction.is_anomalous for prediction in found}) == 2
    for prediction in found:
        is_above = prediction.score > threshold
        assert prediction.is_anomalous == is_above == prediction.mask.any()
        above = prediction.anomaly_map > map_threshold
        if is_above and above.any():
            assert np.array_equal(prediction.mask, above)
