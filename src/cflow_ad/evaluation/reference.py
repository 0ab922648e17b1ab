"""Scores as the code of CFLOW-AD's authors computes them, to compare with published results.

They are relative to the largest likelihood in the whole test set, so that a single image cannot be
scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts import Sample
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import SettingsError
from cflow_ad.evaluation.metrics import PixelMetrics, PixelResult, ScoreMetrics, image_metrics
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.view import View

if TYPE_CHECKING:
    from cflow_ad.detector import Detector

LogLikelihoods = Sequence[NDArray[np.float32]]
"""Of one image: for each level, shape `(h, w)`."""


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """The metrics of the authors' scores, of all defect types together."""

    image: ScoreMetrics
    pixel: PixelResult | None
    """At the size of the network's input. None where no defective image has a mask."""


def compute_reference(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> ReferenceResult:
    """Compute the scores of a test set, at least one image, and their metrics.

    Raises:
        DataError: a mask cannot be used.
        SettingsError: the model does not score whole images.
    """
    require_whole(detector.view)
    sizing = detector.settings.sizing
    likelihoods = []
    for done, sample in enumerate(samples, start=1):
        likelihoods.append(detector.log_likelihoods(sample.path))
        progress(done)
    originals = [image_shape(sample.path, detector.reading) for sample in samples]
    scores = []
    pixels, has_mask = PixelMetrics(), False
    maps = reference_maps(likelihoods, [sizing.valid_shape(original) for original in originals])
    for sample, original, anomaly_map in zip(samples, originals, maps, strict=True):
        scores.append(float(anomaly_map.max()))
        if sample.is_good:
            pixels.update(anomaly_map, np.zeros(anomaly_map.shape, np.bool_))
        elif sample.mask is not None:
            has_mask = True
            pixels.update(anomaly_map, _shrink(read_mask(sample.mask, original), anomaly_map.shape))
    return ReferenceResult(
        image=image_metrics(scores, [not sample.is_good for sample in samples]),
        pixel=pixels.compute() if has_mask else None,
    )


def require_whole(view: View) -> None:
    """Raise a SettingsError if a model does not score whole images."""
    if not view.is_whole:
        raise SettingsError(
            "the reference scores are of whole images: a model with a region of interest, a "
            "foreground or an alignment has none"
        )


def reference_maps(
    likelihoods: Sequence[LogLikelihoods], shapes: Sequence[Shape]
) -> Iterator[NDArray[np.float64]]:
    """Compute the anomaly maps of a whole test set, from its likelihoods and the maps' shapes.

    Yields:
        For each image, `max(s) - s`, where `s` is the sum over the levels of `exp(l - max(l))`,
        upsampled, and both maxima are over all images.

    References:
        Gudovskiy et al., CFLOW-AD, WACV 2022, Sec. 4.4, and the authors' code.
    """
    by_level: Iterator[LogLikelihoods] = zip(*likelihoods, strict=True)
    largest = [max(float(level.max()) for level in of_level) for of_level in by_level]

    def total(levels: LogLikelihoods, shape: Shape) -> NDArray[np.float64]:
        result = np.zeros(shape)
        for level, most in zip(levels, largest, strict=True):
            probability = torch.from_numpy(level).double().sub(most).exp()
            result += F.interpolate(
                probability[None, None], size=shape, mode="bilinear", align_corners=True
            )[0, 0].numpy()
        return result

    # Computed twice rather than kept: the maps of a large test set do not fit into memory.
    most = max(total(*of_image).max() for of_image in zip(likelihoods, shapes, strict=True))
    for of_image in zip(likelihoods, shapes, strict=True):
        yield most - total(*of_image)


def _shrink(mask: NDArray[np.bool_], shape: Shape) -> NDArray[np.bool_]:
    """Resize by nearest neighbours, as the authors do."""
    resized = Image.fromarray(mask).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.bool_)
