"""The detector: fit, predict, calibrate, save and load."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cflow_ad._version import __version__
from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.predicting import Predictor
from cflow_ad.cflow.transformer import resolve_blocks
from cflow_ad.data.images import ImageSource
from cflow_ad.data.parallel import OnError
from cflow_ad.errors import SettingsError
from cflow_ad.fitting.defective_images import find_defective_images
from cflow_ad.fitting.detector import GoodSplit, calibrate_parts, fit_parts, split_by_training
from cflow_ad.fitting.good_images import GoodData, find_good_images
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.progress import ProgressCallback, silent
from cflow_ad.fitting.screening import Screening
from cflow_ad.fitting.trained_images import find_trained_images, join_images
from cflow_ad.scoring.base import BaseDetector, Scored
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.cells import cell_of, cells_inside
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.scoring.region import RegionSource
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Precision, Settings
from cflow_ad.store.parts import Parts, restore, store


class Detector(BaseDetector):
    """A model of good images, with its threshold.

    Made by `fit` or `load`.

    Args:
        model: encoder and levels.
        settings: of the model.
        calibration: the thresholds and what they promise; None for an imported model, which
            predicts nothing until it is calibrated.
        training: facts about the training, plain values.
        view: the region of interest and the reference image; unset, all of each image.
        name: of the model in an error.
        bundled: whether `save` puts the encoder's weights into the file by default.
        precision: to score in; unset, that of the settings.
    """

    def __init__(
        self,
        model: CflowModel,
        *,
        settings: Settings,
        calibration: Calibration | None,
        training: Mapping[str, Any],
        view: View | None = None,
        name: str = "the model",
        bundled: bool = False,
        precision: Precision | None = None,
    ) -> None:
        super().__init__(settings, calibration, view, name)
        self.model = model.eval()
        self.training = dict(training)
        self.screening: Screening | None = None
        """The outliers among the good images of `fit`; of these only their names and scores are
        stored, in `training`."""
        self._bundled = bundled
        self._precision = precision or settings.precision

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.model, self.settings, self._precision)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def _stream(
        self, sources: Iterable[ImageSource], maps: bool, batch_size: int, on_error: OnError | None
    ) -> Iterator[tuple[ImageSource, Prediction]]:
        return self._predictor.run_over(
            sources,
            self.view,
            lambda prediction, energies: prediction,
            calibration=self.calibration,
            maps=maps,
            batch_size=batch_size,
            on_error=on_error,
        )

    @property
    def on_gpu(self) -> bool:
        return self.device.type != "cpu"

    def score_canvases(self, canvases: Sequence[Canvas]) -> list[Scored]:
        pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in canvases]))
        levels, vectors = self._predictor.scorer.with_vectors(pixels.to(self.device))
        return [
            Scored(
                self._build(canvas, [level[number].cpu().numpy() for level in levels], maps=False),
                vectors[number].cpu().numpy(),
            )
            for number, canvas in enumerate(canvases)
        ]

    def log_likelihoods(self, source: ImageSource) -> list[NDArray[np.float32]]:
        """Compute the log-likelihoods of one image, by flow or memory.

        Args:
            source: as for `predict`.

        Returns:
            For each level, the log-likelihood per dimension at every position in the image, in
            nats, shape `(h, w)`; by a memory up to a constant, see `Memory.log_prob`.

        Raises:
            ImageError: the image cannot be used.
        """
        canvas = self.view.prepare(source)
        pixels = torch.from_numpy(canvas.pixels)[None].to(self.device)
        inside = []
        for level in self._predictor.scorer.log_likelihoods(pixels):
            cell = cell_of(canvas.shape, (level.shape[1], level.shape[2]))
            height, width = map(cells_inside, canvas.valid, cell)
            inside.append(level[0, :height, :width].cpu().numpy())
        return inside

    def info(self) -> dict[str, Any]:
        """Everything stored beside the tensors, as plain values."""
        return {
            "version": __version__,
            "settings": self.settings.to_dict(),
            "encoder": dataclasses.asdict(self.model.encoder.spec),
            "calibration": self.calibration.to_dict() if self.is_calibrated else None,
            "training": self.training,
            "view": self.view.metadata(),
        }

    def save(self, path: str | os.PathLike[str], *, bundle: bool | None = None) -> None:
        """Write the model file.

        Args:
            path: a `.safetensors` file; overwritten if it exists.
            bundle: put the encoder's weights in, so that loading needs nothing else; unset, as it
                was loaded or imported.

        Raises:
            ModelFileError: the file cannot be written.
        """
        bundle = self._bundled if bundle is None else bundle
        store(Path(path), self.model, self.view, self.info(), bundle=bundle)

    @classmethod
    def fit(
        cls,
        data: GoodData,
        settings: Settings | None = None,
        *,
        roi: RegionSource | None = None,
        device: str | torch.device | None = None,
        exclude: Sequence[str] = (),
        max_seconds: float = math.inf,
        work: str | os.PathLike[str] | None = None,
        group: Group = ALONE,
        progress: ProgressCallback = silent,
    ) -> Detector:
        """Fit a model to good images.

        The thresholds are set by `calibrate_thresholds`, to scores of good images by models that
        were not fitted to them; see `Settings.folds`. A single image is scored by the model that
        was fitted to it, with a warning.

        Args:
            data: a folder of good images, a folder in the MVTec layout (its `train/good`), a
                manifest CSV, a `Dataset`, or images as for `predict`.
            settings: unset, the defaults.
            roi: the region of interest, the only part of an image that is trained on and scored: a
                mask, polygons or an array, for all images (see `Region.read`); or a folder with a
                mask for each (see `RegionFiles`), and then later images need one too (see
                `look_in`). Unset where a manifest gives the images regions of their own.
            device: where to train; unset, a GPU if there is one.
            exclude: names of images to leave out: file names, or more of the path where a name is
                not unique.
            max_seconds: time limit, in seconds. The images are encoded in any case, which may take
                longer; the flows then stay in their initial state, and only statistics and memory
                are fitted.
            work: a folder for checkpoints, from which the same call continues after it was
                stopped; it is not removed.
            group: the processes that fit this model together, each by the same call, see
                `fitting.group`; unset, this one alone. All get the same model. Several need
                `work`, which those of one machine share.
            progress: called as the work advances.

        Raises:
            DataError: there are no images, one cannot be used, or they have several depths.
            SettingsError: `roi` is given, and the images have regions of their own; or
                `feature_budget` is too small; or several processes have no `work`.
            WeightsError: the backbone's weights are not on this machine and cannot be downloaded.
            TrainingError: training diverged, or the work folder cannot be used.
        """
        settings = resolve_blocks(settings or Settings())
        parts, screening = fit_parts(
            find_good_images(data, exclude),
            settings,
            roi=roi,
            device=pick_device(device or group.device),
            max_seconds=max_seconds,
            work=None if work is None else Path(work),
            group=group,
            progress=progress,
        )
        return cls._of(parts, screening)

    def update(
        self,
        more: GoodData,
        *,
        old: Sequence[str | os.PathLike[str]] = (),
        max_seconds: float = math.inf,
        work: str | os.PathLike[str] | None = None,
        progress: ProgressCallback = silent,
    ) -> Detector:
        """Fit a new model to the images of training and to more good images.

        Settings, region of interest and reference image stay. The images of training are found by
        their content.

        Args:
            more: as for `fit`; images that training had, or excluded, are not taken again.
            old: folders with the images of training; unset, where they were.
            max_seconds: as for `fit`.
            work: as for `fit`.
            progress: called as the work advances.

        Returns:
            Another detector.

        Raises:
            DataError: the images of training are not there, `more` has no new images, or one cannot
                be used.
            SettingsError: `read_as` has changed how images are read.
            TrainingError: training diverged, or the work folder cannot be used.
        """
        if dataclasses.replace(self.reading, brightness=None) != self.settings.reading:
            raise SettingsError(
                f"update reads new images as those of training, which have {self.settings.bits} "
                "bits: convert the new images, or keep the model and set its threshold on images "
                "that are read otherwise: cflow-ad calibrate MODEL GOOD --bits N"
            )
        found = find_trained_images(self.training, old, name=self._name)
        good = join_images(found, find_good_images(more), self.training)
        parts, screening = fit_parts(
            good,
            self.settings,
            view=self.view,
            device=self.device,
            max_seconds=max_seconds,
            work=None if work is None else Path(work),
            progress=progress,
        )
        return self._of(parts._replace(bundled=self._bundled), screening)

    @classmethod
    def _of(cls, parts: Parts, screening: Screening) -> Detector:
        detector = cls(**parts._asdict())
        detector.screening = screening
        return detector

    @property
    def _parts(self) -> Parts:
        calibration = self._calibration
        return Parts(
            self.model, self.settings, calibration, self.training, self.view, self._bundled
        )

    def calibrate(
        self,
        data: GoodData | None = None,
        *,
        false_alarm_rate: float | None = None,
        smoothing: float | None = None,
        precision: Precision | None = None,
        rescale: bool = False,
        miss_nothing: GoodData | None = None,
        progress: ProgressCallback = silent,
    ) -> Detector:
        """Set the thresholds again, on good images that the model was not fitted to.

        Images that it was fitted to, or that were excluded from training, are left out, see
        `split`. The scales of an imported model are fitted to the images first, and the images are
        scored out-of-fold; so are those of a trained model where `rescale` is given. Where
        `read_as` has changed how images are read, the new detector keeps that.

        Args:
            data: as for `fit`; unset, the scores are those that the model holds.
            false_alarm_rate: unset, as it was.
            smoothing: unset, as it was.
            precision: to score in from now on; unset, as it was.
            rescale: fit the scales of the levels again, to images that they are not fitted to yet.
            miss_nothing: defective images, see `find_defective_images`; the threshold is lowered
                below their scores, see `lower_to_find`.
            progress: called as the work advances.

        Returns:
            A detector with this one's flows and memory, which is left as it is.

        Raises:
            CalibrationError: no images are given, and the model holds no scores.
            DataError: there are no images that the model was not fitted to, or one cannot be used.
            SettingsError: an argument is out of its range, or needs images; or the images have two
                regions of interest.
        """
        changes = {
            "false_alarm_rate": false_alarm_rate,
            "smoothing": smoothing,
            "precision": precision or self._precision,
            "bits": self.reading.bits,
            "page": self.reading.page,
            "bayer": self.reading.bayer,
        }
        given: dict[str, Any] = {k: v for k, v in changes.items() if v is not None}
        settings = dataclasses.replace(self.settings, **given)
        defects = [] if miss_nothing is None else find_defective_images(miss_nothing)
        if data is None:
            _ = self.calibration  # raises where there is none
        parts = calibrate_parts(
            self._parts, data, settings, rescale=rescale, defects=defects, progress=progress
        )
        return Detector(**parts._asdict(), name=self._name)

    def split(self, data: GoodData) -> GoodSplit:
        """Split good images by whether the model, or its scales, were fitted to them.

        Images are recognised by their content, or by the bytes of their files. Those excluded from
        training are in neither part.

        Args:
            data: as for `fit`.

        Raises:
            DataError: there are no images, or one cannot be used.
        """
        return split_by_training(self._parts, data)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision | None = None,
    ) -> Detector:
        """Read a model file.

        Args:
            path: the file.
            weights: a file with the backbone's weights, for a model that does not carry them and
                whose weights are no longer where they were in training.
            device: where to run; unset, a GPU where there is one.
            precision: to score in: `fp32`; `tf32`, faster on NVIDIA GPUs; or `bf16`, faster on
                processors with such instructions (AVX-512 BF16, AMX, GPUs). Unset, that of
                training, in which the thresholds were set; in others scores differ by up to a
                tenth.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or of another version.
            SettingsError: the precision is unknown.
            WeightsError: the backbone's weights are not on this machine, or are not those of
                training.
        """
        stored = restore(Path(path), weights=weights, device=device)
        if precision is not None:
            dataclasses.replace(stored.settings, precision=precision)  # checks it
        return cls(**stored._asdict(), name=str(path), precision=precision)
