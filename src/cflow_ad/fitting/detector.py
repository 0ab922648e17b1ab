"""The parts of a detector: fitted to good images, or an earlier one's with other thresholds."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cflow_ad.cflow.building import build_encoder
from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.depth import require_depth
from cflow_ad.data.images import ImageSource
from cflow_ad.errors import CalibrationWarning, DataError, SettingsError
from cflow_ad.fitting.calibration import GoodScores, fit_scales, score_images
from cflow_ad.fitting.fit import fit_model
from cflow_ad.fitting.good_images import GoodData, GoodImages, find_good_images
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.progress import ProgressCallback, silent
from cflow_ad.fitting.screening import Screening, screen
from cflow_ad.fitting.trained_images import list_folders
from cflow_ad.scoring.region import RegionSource
from cflow_ad.scoring.threshold import MOST, Calibration, calibrate_thresholds, lower_to_find
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings
from cflow_ad.store.model_file import provenance
from cflow_ad.store.parts import Parts


def fit_parts(
    good: GoodImages,
    settings: Settings,
    *,
    roi: RegionSource | None = None,
    view: View | None = None,
    device: torch.device,
    max_seconds: float,
    work: Path | None,
    group: Group = ALONE,
    progress: ProgressCallback,
) -> tuple[Parts, Screening]:
    """Fit a model, set its thresholds and screen the images; arguments as for `fit_model`."""
    began = time.perf_counter()
    depth = require_depth(good.sources, settings.reading)
    settings = dataclasses.replace(settings, bits=depth.bits)
    before = None if view is None else view.reading.brightness
    good = good.read_as(dataclasses.replace(settings.reading, brightness=before))
    encoder = build_encoder(settings).to(device)
    fitted = fit_model(
        encoder,
        good,
        settings,
        roi=roi,
        view=view,
        seconds=max_seconds - (time.perf_counter() - began),
        work=work,
        group=group,
        progress=progress,
    )
    found, rate = fitted.scores, settings.false_alarm_rate
    calibration = calibrate_thresholds(found.scores, found.peaks, rate, folds=fitted.folds)
    _warn(calibration)
    screening = screen(found if fitted.folds else GoodScores(), good, fitted.view, settings)
    about = {
        "dataset": good.name,
        "fingerprint": good.fingerprint,
        "folders": list_folders(good.sources),
        "n_images": len(fitted.fitted_to),
        "excluded": list(good.excluded),
        "hashes": {
            "trained_on": [good.hashes[i] for i in fitted.fitted_to],
            "excluded": list(good.excluded.values()),
        },
        "depth": depth.note,
        "canvas": list(fitted.canvas),
        "screening": screening.to_dict(),
        "steps": [level.steps for level in fitted.ended],
        "ended_by": [level.why for level in fitted.ended],
        "seconds": round(time.perf_counter() - began, 2),
        "device": str(encoder.mean.device),
        **({} if fitted.reference is None else {"aligned_to": good.names[fitted.reference]}),
        **provenance(),
    }
    reading = dataclasses.replace(settings.reading, brightness=depth.brightness)
    view = dataclasses.replace(fitted.view, reading=reading)
    return Parts(fitted.model, settings, calibration, about, view), screening


class GoodSplit(NamedTuple):
    """Good images, by whether a model was fitted to them."""

    images: GoodImages
    trained_on: list[int]
    """Numbers of the images that the model or its scales were fitted to."""
    unseen: list[int]
    """Numbers of the others that were not excluded from training."""


def split_by_training(parts: Parts, data: GoodData) -> GoodSplit:
    """Split good images by whether a model, or its scales, were fitted to them; see
    `Detector.split`.
    """
    good = find_good_images(data).read_as(parts.view.reading)
    trained_on, excluded = set(parts.hashes("trained_on")), set(parts.hashes("excluded"))
    numbers = range(len(good.sources))
    return GoodSplit(
        good,
        [i for i in numbers if good.hashes[i] in trained_on],
        [i for i in numbers if good.hashes[i] not in trained_on | excluded],
    )


def calibrate_parts(
    parts: Parts,
    data: GoodData | None,
    settings: Settings,
    *,
    rescale: bool,
    defects: Sequence[ImageSource],
    progress: ProgressCallback = silent,
) -> Parts:
    """Set the thresholds again, for other settings; see `Detector.calibrate`."""
    if data is not None:
        parts = _calibrate_on(parts, data, settings, rescale=rescale, progress=progress)
    elif rescale or _scoring_of(settings) != _scoring_of(parts.settings):
        raise SettingsError(
            "smoothing, precision, rescale, and another way to read images change scores or maps: "
            "give good images"
        )
    assert parts.calibration is not None
    calibration = parts.calibration
    if data is None:
        parts = parts._replace(settings=settings)
        scores, peaks, folds = calibration.scores, calibration.peaks, calibration.folds
        calibration = calibrate_thresholds(scores, peaks, settings.false_alarm_rate, folds=folds)
    if defects:
        numbered = dict(enumerate(defects))
        found = score_images(parts.model, parts.settings, numbered, view=parts.view)
        calibration = lower_to_find(calibration, found.scores)
    _warn(calibration)
    return parts._replace(calibration=calibration)


def _calibrate_on(
    parts: Parts, data: GoodData, settings: Settings, *, rescale: bool, progress: ProgressCallback
) -> Parts:
    good, _, unseen = split_by_training(parts, data)
    if not unseen:
        raise DataError(
            f"{good.name}: the model was trained on these images, so their scores set no "
            "threshold; give other good images, or none to use the scores of training"
        )
    if parts.view.reading.bits is None:  # of an imported model
        depth = require_depth(good.sources, parts.view.reading)
        settings = dataclasses.replace(settings, bits=depth.bits)
        reading = dataclasses.replace(settings.reading, brightness=depth.brightness)
        parts = parts._replace(view=dataclasses.replace(parts.view, reading=reading))
        good = good.read_as(reading)
    view = parts.view.with_own(good.regions)
    about: dict[str, Any] = {
        **parts.training,
        "calibrated_on": good.name,
        "calibration_fingerprint": good.fingerprint,
        "calibrated": provenance()["finished"],
    }
    model, folds = parts.model, 1
    sources = [good.sources[i] for i in unseen]
    if rescale or parts.calibration is None:
        scaled = fit_scales(model, settings, sources, view=view, progress=progress)
        model, found, folds = scaled.model, scaled.scores, scaled.folds
        old = parts.hashes("trained_on")
        new = [good.hashes[unseen[i]] for i in scaled.fitted_to]
        excluded = parts.hashes("excluded")
        about["hashes"] = {"trained_on": [*old, *new], "excluded": excluded}
    else:
        some = np.random.default_rng(settings.seed).permutation(len(sources))[:MOST]
        images = {int(i): sources[i] for i in np.sort(some)}
        found = score_images(model, settings, images, view=view, progress=progress)
    rate = settings.false_alarm_rate
    calibration = calibrate_thresholds(found.scores, found.peaks, rate, folds=folds)
    return parts._replace(
        model=model, settings=settings, calibration=calibration, training=about, view=view
    )


def _scoring_of(settings: Settings) -> tuple[float, str, Reading]:
    return settings.smoothing, settings.precision, settings.reading


def _warn(calibration: Calibration) -> None:
    """Warn where the thresholds do not promise the rate that was asked for."""
    if not calibration.is_as_asked:
        warnings.warn(calibration.note, CalibrationWarning, stacklevel=4)
