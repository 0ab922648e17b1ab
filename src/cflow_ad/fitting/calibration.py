"""Set a fitted model's thresholds, and the scales of a model that was trained elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from cflow_ad.cflow.folded import Scorer
from cflow_ad.cflow.level import Level
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.running import run_over
from cflow_ad.data.images import ImageSource
from cflow_ad.errors import CalibrationWarning
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.place_means import subtract_known_means
from cflow_ad.fitting.progress import Progress, ProgressCallback
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.prediction import build_prediction
from cflow_ad.scoring.threshold import Calibration, calibrate_thresholds
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings


def set_thresholds(
    model: CflowModel,
    settings: Settings,
    sources: Sequence[ImageSource],
    *,
    view: View,
    held_out: bool,
    progress: ProgressCallback,
) -> Calibration:
    """Score good images, and set the thresholds for `Settings.false_alarm_rate`.

    Args:
        model: fitted.
        settings: of the model.
        sources: the images, at least one.
        view: of the model.
        held_out: whether the model was not fitted to them.
        progress: called as the work advances.

    Raises:
        ImageError: an image cannot be used.
    """
    scorer = Scorer(model, precision=settings.precision)

    def score(canvas: Canvas, energies: list[Tensor]) -> tuple[float, float]:
        prediction = build_prediction(
            [grid.numpy() for grid in energies],
            canvas,
            smoothing=settings.smoothing,
            image_score=settings.method.image_score,
        )
        return prediction.score, float(prediction.anomaly_map.max())

    scores, peaks = [], []
    progress(Progress("calibrate", 0, len(sources)))
    for _, (of_image, peak) in run_over(scorer, score, sources, view, device=scorer.device):
        scores.append(of_image)
        peaks.append(peak)
        progress(Progress("calibrate", len(scores), len(sources)))
    calibration = calibrate_thresholds(scores, peaks, settings.false_alarm_rate, held_out=held_out)
    if not calibration.is_as_asked:
        warnings.warn(calibration.note, CalibrationWarning, stacklevel=3)
    return calibration


def fit_scales(
    model: CflowModel,
    settings: Settings,
    sources: Sequence[ImageSource],
    *,
    view: View,
    progress: ProgressCallback,
) -> CflowModel:
    """Fit the location and scale of each level to images that the model was not trained on.

    Args:
        model: whose encoder and flows the result shares.
        settings: of the model.
        sources: the images, at least one.
        view: of the model.
        progress: called as the work advances.

    Raises:
        DivergenceError: a likelihood is NaN or infinite.
        ImageError: an image cannot be used.
    """
    features = build_cache(model.encoder, sources, view, settings, progress=progress)
    levels = []
    for number, (old, of_level) in enumerate(zip(model, features, strict=True)):
        if old.means is not None:
            of_level = subtract_known_means(old.means, of_level)
        level = Level(old.input_layer, old.flow, means=old.means).to(model.device)
        fit_scale(level, of_level, settings, number)
        levels.append(level)
    return CflowModel(model.encoder, levels).eval()
