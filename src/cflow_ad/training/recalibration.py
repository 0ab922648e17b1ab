"""Set a network's scale and threshold on good images, whatever it was trained by."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from cflow_ad.data.images import ImageSource
from cflow_ad.errors import CalibrationWarning
from cflow_ad.model.maps import stream_maps
from cflow_ad.model.network import CflowNetwork
from cflow_ad.settings import Settings
from cflow_ad.training.calibration import Calibration, conformal_calibration, split_good
from cflow_ad.training.fit import rescale_levels
from cflow_ad.training.progress import Progress, ProgressCallback


def set_threshold(
    network: CflowNetwork,
    settings: Settings,
    sources: Sequence[ImageSource],
    *,
    held_out: bool,
    progress: ProgressCallback,
) -> Calibration:
    """Score good images, and set the threshold for `Settings.false_alarm_rate`.

    Args:
        network: whose levels have their scale.
        settings: those of the model.
        sources: the images, at least one.
        held_out: whether the network was fitted without them.
        progress: told how far the work has come.

    Raises:
        ImageError: an image cannot be used.
    """
    scores = []
    progress(Progress("calibrate", 0, len(sources)))
    for _, values in stream_maps(network, settings, sources):
        scores.append(float(values.max()))
        progress(Progress("calibrate", len(scores), len(sources)))
    calibration = conformal_calibration(scores, settings.false_alarm_rate, held_out=held_out)
    if not calibration.is_as_asked:
        warnings.warn(calibration.note, CalibrationWarning, stacklevel=3)
    return calibration


def recalibrate(
    network: CflowNetwork,
    settings: Settings,
    sources: Sequence[ImageSource],
    *,
    rescale: bool,
    seen: bool,
    progress: ProgressCallback,
) -> tuple[CflowNetwork, Calibration]:
    """Set the threshold of a trained network anew, and if asked for the scales of its levels.

    Args:
        network: left as it is.
        settings: those of the model.
        sources: the images, at least one.
        rescale: fit the scales to a part of the images, and set the threshold on the others.
        seen: the images are those that the network was fitted to, less the ones that
            `split_good` held out then.
        progress: told how far the work has come.

    Returns:
        A network that shares encoder and flows with the one given, and the threshold.

    Raises:
        ImageError: an image cannot be used.
    """
    n = len(sources)
    fraction = settings.calibration_fraction
    if rescale and not seen:
        # A model trained on all of its images may well spare some of these.
        fraction = fraction or Settings().calibration_fraction
    fitted, held_out = split_good(n, fraction, settings.seed)
    if not rescale and not seen:
        fitted, held_out = [], list(range(n))
    if rescale:
        network = rescale_levels(network, [sources[i] for i in fitted], settings, progress=progress)
    calibration = set_threshold(
        network,
        settings,
        [sources[i] for i in held_out or fitted],
        held_out=bool(held_out),
        progress=progress,
    )
    return network, calibration
