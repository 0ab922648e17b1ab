"""Pixel metrics the slow way: every pixel kept, sorted, nothing binned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score


@dataclass(frozen=True)
class ExactPixelMetrics:
    auroc: float
    average_precision: float
    best_f1: float
    aupro: float
    n_regions: int


def exact_pixel_metrics(maps, masks, fpr_limit=0.3):
    """The metrics of maps (H, W) and masks (H, W), computed on single-precision scores."""
    scores = np.concatenate([np.asarray(m, np.float32).ravel() for m in maps])
    truth = np.concatenate([np.asarray(m, bool).ravel() for m in masks])
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    aupro, n_regions = exact_aupro(maps, masks, fpr_limit)
    return ExactPixelMetrics(
        auroc=roc_auc_score(truth, scores),
        average_precision=average_precision_score(truth, scores),
        best_f1=f1.max(),
        aupro=aupro,
        n_regions=n_regions,
    )


def exact_aupro(maps, masks, fpr_limit=0.3):
    """AUPRO and the number of regions, by stepping through all pixels from the highest score."""
    scores, is_good, gain = [], [], []
    n_regions = 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        scores.append(np.asarray(anomaly_map, np.float32).ravel())
        is_good.append(~np.asarray(mask, bool).ravel())
        shares = np.zeros(np.shape(mask))
        labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
        for region in range(1, n + 1):
            shares[labels == region] = 1 / np.count_nonzero(labels == region)
        gain.append(shares.ravel())
        n_regions += n
    scores, is_good, gain = map(np.concatenate, (scores, is_good, gain))

    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    fpr = np.append(0.0, np.cumsum(is_good[order])[last_of_ties] / is_good.sum())
    pro = np.append(0.0, np.cumsum(gain[order])[last_of_ties] / n_regions)

    area = 0.0
    for k in range(1, fpr.size):
        width = fpr[k] - fpr[k - 1]
        if width > 0:
            kept = min(fpr_limit, fpr[k]) - fpr[k - 1]
            if kept <= 0:
                break
            end = pro[k - 1] + (pro[k] - pro[k - 1]) * kept / width
            area += kept * (pro[k - 1] + end) / 2
    return area / fpr_limit, n_regions
