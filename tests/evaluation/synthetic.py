"""Evaluations without a model: anomaly maps made from the ground truth, and noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cflow_ad.data.images import read_image
from cflow_ad.data.masks import read_mask
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import MapInFrame, View
from cflow_ad.settings import Settings

THRESHOLD, MAP_THRESHOLD = 1.3, 1.8
CALIBRATION = Calibration(
    threshold=THRESHOLD,
    map_threshold=MAP_THRESHOLD,
    false_alarm_rate=0.01,
    achieved_rate=1 / 21,
    folds=3,
    scores=tuple(THRESHOLD * n / 20 for n in range(1, 21)),
    peaks=tuple(MAP_THRESHOLD * n / 20 for n in range(1, 21)),
)
ABOUT = {
    "version": "0.1.0",
    "settings": {"backbone": "tf_efficientnet_lite0", "weights": None, "strides": [8, 16, 32]},
    "encoder": {"sha256": "9a1c3e5f70b2d4869a1c3e5f70b2d4869a1c3e5f70b2d4869a1c3e5f70b2d486"},
    "calibration": CALIBRATION.to_dict(),
    "training": {"n_images": 80, "seconds": 63.21, "fingerprint": "2f1d7c90ab34e856"},
}


def make_prediction(anomaly_map, score=None, source=""):
    """A prediction of a map; the score is not its maximum."""
    values = np.asarray(anomaly_map, np.float32)
    score = 0.7 * float(values.max()) if score is None else score
    return Prediction(score, THRESHOLD, MAP_THRESHOLD, lambda: MapInFrame(values, None), source)


class FakeDetector:
    """A detector whose maps are made from the masks, weak for some, and noise."""

    def __init__(self, dataset, strength=4.0, calibration=CALIBRATION, about=ABOUT):
        self.samples = {sample.path: sample for sample in dataset.test}
        self.strength = strength
        self.calibration = calibration
        self.about = about
        self.view = View(sizing=Settings().sizing)
        self.asked = []

    def info(self):
        return self.about

    def pixels_of(self, path):
        return read_image(path)

    def stream(self, paths, *, batch_size=8, on_error=None):
        return map(self.predict, paths)

    def predict(self, path):
        self.asked.append(path)
        sample = self.samples[path]
        shape = read_image(path).shape[:2]
        rng = np.random.default_rng(list(str(path.relative_to(path.parents[2])).encode()))
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), 8)
        scores = 0.5 + 0.3 * noise / noise.std()
        if sample.mask is not None:
            blurred = ndimage.gaussian_filter(read_mask(sample.mask, shape).astype(float), 6)
            strength = self.strength * rng.uniform(0.1, 1.6) ** 2
            scores += strength * blurred / max(blurred.max(), 1e-9)
        return make_prediction(np.maximum(scores, 0), source=str(path))


def measure(dataset, **changes):
    """An evaluation of a fake detector."""
    return evaluate(FakeDetector(dataset, **changes), dataset)
