"""Set a network's scale and threshold on good images, whatever it was trained by."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor

from cflow_ad.cflow.evidence import FEWEST, Evidence, peaks_of, seen_map
from cflow_ad.cflow.maps import stream_maps
from cflow_ad.cflow.model import CflowNetwork, Level
from cflow_ad.cflow.running import run_over
from cflow_ad.cflow.scorer import scorer_of
from cflow_ad.data.images import ImageSource
from cflow_ad.errors import CalibrationWarning
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.fit import judges_of
from cflow_ad.fitting.place_means import centred_by
from cflow_ad.fitting.progress import Progress, ProgressCallback
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.threshold import Calibration, conformal_calibration, split_good
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings


def gather_evidence(
    network: CflowNetwork,
    settings: Settings,
    sources: Sequence[ImageSource],
    *,
    view: View | None = None,
) -> Evidence | None:
    """What the peaks of good images are; None if `Settings.image_score` does not go by them.

    Args:
        network: whose levels have their scale.
        settings: those of the model.
        sources: images that its flows were not trained on. With fewer than `evidence.FEWEST` there
            is none.
        view: of the model; unset, all of each image.

    Raises:
        ImageError: an image cannot be used.
    """
    if settings.image_score == "peak" or len(sources) < FEWEST:
        return None

    def finish(canvas: Canvas, levels: list[Tensor]) -> list[float]:
        grids = [level.numpy() for level in levels]
        return peaks_of(grids, canvas, seen_map(grids, canvas, settings, None))

    scorer = scorer_of(network, settings)
    found = run_over(
        scorer,
        finish,
        sources,
        view or View(sizing=settings.sizing),
        device=scorer.encoder.mean.device,
    )
    return Evidence.of([peaks for _, peaks in found])


def set_threshold(
    network: CflowNetwork,
    settings: Settings,
    sources: Sequence[ImageSource],
    *,
    view: View | None = None,
    evidence: Evidence | None = None,
    held_out: bool,
    progress: ProgressCallback,
) -> Calibration:
    """Score good images, and set the threshold for `Settings.false_alarm_rate`.

    Args:
        network: whose levels have their scale.
        settings: those of the model.
        sources: the images, at least one.
        view: of the model; unset, all of each image.
        evidence: of the model.
        held_out: whether the network was fitted without them.
        progress: told how far the work has come.

    Raises:
        ImageError: an image cannot be used.
    """
    view = view or View(sizing=settings.sizing)
    scores = []
    progress(Progress("calibrate", 0, len(sources)))
    scorer = scorer_of(network, settings)
    for _, seen in stream_maps(scorer, settings, view, sources, evidence=evidence):
        scores.append(float(seen.values.max()))
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
    view: View | None = None,
    evidence: Evidence | None = None,
    rescale: bool,
    seen: bool,
    progress: ProgressCallback,
) -> tuple[CflowNetwork, Evidence | None, Calibration]:
    """Set the threshold of a trained network anew, and if asked for the scales of its levels.

    Args:
        network: left as it is.
        settings: those of the model.
        sources: the images, at least one.
        view: of the model; unset, all of each image.
        evidence: of the model.
        rescale: fit the scales to a part of the images, and set the threshold on the others.
        seen: the images are those that the network was fitted to, less the ones that
            `split_good` held out then.
        progress: told how far the work has come.

    Returns:
        A network that shares encoder and flows with the one given, its evidence, which is new if
        the scales are, and the threshold.

    Raises:
        DivergenceError: a likelihood is NaN or infinite.
        ImageError: an image cannot be used.
    """
    view = view or View(sizing=settings.sizing)
    n = len(sources)
    fraction = settings.calibration_fraction
    if rescale and not seen:
        # A model trained on all of its images may well spare some of these.
        fraction = fraction or Settings().calibration_fraction
    fitted, held_out = split_good(n, fraction, settings.seed)
    if not rescale and not seen:
        fitted, held_out = [], list(range(n))
    if rescale:
        network = _rescaled(
            network, [sources[i] for i in fitted], settings, view, seen=seen, progress=progress
        )
        judges = judges_of(len(fitted), settings) if seen else range(len(fitted))
        evidence = gather_evidence(
            network, settings, [sources[fitted[i]] for i in sorted(judges)], view=view
        )
    calibration = set_threshold(
        network,
        settings,
        [sources[i] for i in held_out or fitted],
        view=view,
        evidence=evidence,
        held_out=bool(held_out),
        progress=progress,
    )
    return network, evidence, calibration


def _rescaled(
    network: CflowNetwork,
    sources: Sequence[ImageSource],
    settings: Settings,
    view: View,
    *,
    seen: bool,
    progress: ProgressCallback,
) -> CflowNetwork:
    """A network with the encoder and the flows of this one, and scales fitted to the images."""
    encoder = network.encoder
    features = build_cache(
        encoder,
        sources,
        view,
        budget=settings.feature_budget,
        seed=settings.seed,
        frame=settings.positions,
        tile=settings.tile_shape,
        precision=settings.precision,
        progress=lambda done, total: progress(Progress("encode", done, total)),
    )
    levels = []
    for number, (old, of_level) in enumerate(
        zip(cast(Iterable[Level], network.levels), features, strict=True)
    ):
        if old.means is not None:
            of_level = centred_by(old.means, of_level, seen=seen)
        level = Level(old.input_layer, old.flow, means=old.means).to(encoder.mean.device)
        fit_scale(level, of_level, settings, number)
        levels.append(level)
    return CflowNetwork(encoder, levels).eval()
