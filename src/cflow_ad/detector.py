"""The one noun a user meets: a detector is fitted, saved, loaded, and predicts."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cflow_ad._version import __version__
from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.encoder import encoder_of
from cflow_ad.cflow.evidence import Evidence
from cflow_ad.cflow.maps import stream_maps
from cflow_ad.cflow.model import CflowNetwork
from cflow_ad.cflow.scorer import Scorer, scorer_of
from cflow_ad.cflow.tiles import Tiling
from cflow_ad.data.images import ImageSource, PathLike, source_name
from cflow_ad.data.parallel import OnError
from cflow_ad.errors import CalibrationError, DataError, SettingsError, first_line
from cflow_ad.fitting.calibration import gather_evidence, recalibrate, set_threshold
from cflow_ad.fitting.fit import fit_levels
from cflow_ad.fitting.good_images import GoodData, GoodImages, good_images
from cflow_ad.fitting.progress import ProgressCallback, silent
from cflow_ad.fitting.screening import ScreenedImages
from cflow_ad.scoring.canvas import cell_of, cells_inside
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.scoring.region import RegionSource
from cflow_ad.scoring.threshold import Calibration, split_good
from cflow_ad.scoring.view import View
from cflow_ad.settings import Precision, Settings
from cflow_ad.store.model_file import provenance
from cflow_ad.store.parts import restore, store


class Detector:
    """A model of good images, with the threshold that tells the others.

    Made by `fit` or `load`.

    Args:
        network: encoder and flows.
        settings: that made them.
        calibration: the threshold and what it promises; None for a model that was imported and
            can predict nothing until it is calibrated.
        training: what is known of the training, plain values.
        view: where it looks; unset, at all of each image.
        name: what to call it in an error.
        bundled: whether its file is to hold the encoder's weights where `save` is not told.
    """

    def __init__(
        self,
        network: CflowNetwork,
        *,
        settings: Settings,
        calibration: Calibration | None,
        training: Mapping[str, Any],
        view: View | None = None,
        evidence: Evidence | None = None,
        name: str = "the model",
        bundled: bool = False,
    ) -> None:
        self.network = network.eval()
        self.settings = settings
        self.view = view or View(sizing=settings.sizing)
        self.evidence = evidence
        self.training = dict(training)
        self.screening: ScreenedImages | None = None
        """What the good images of `fit` say of one another; not stored, but for the names of
        those that stand out, in `training`."""
        self._calibration = calibration
        self._name = name
        self._bundled = bundled

    @cached_property
    def _scorer(self) -> Scorer:
        return scorer_of(self.network, self.settings)

    @cached_property
    def _tiling(self) -> Tiling:
        return Tiling(self.network.encoder, self.settings.tile_shape)

    @property
    def is_calibrated(self) -> bool:
        """Whether it has a scale and a threshold, without which it predicts nothing."""
        return self._calibration is not None

    @property
    def calibration(self) -> Calibration:
        """The threshold and what it promises.

        Raises:
            CalibrationError: there is none yet.
        """
        if self._calibration is None:
            raise CalibrationError(
                f"{self._name}: not calibrated yet; run `cflow-ad calibrate MODEL GOOD` with a "
                "folder of good images"
            )
        return self._calibration

    @property
    def threshold(self) -> float:
        """A pixel, and an image, is anomalous where its score lies above this."""
        return self.calibration.threshold

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.encoder.mean.device

    def predict(self, source: ImageSource) -> Prediction:
        """Score one image.

        Args:
            source: a path, a Pillow image, or an array `(H, W)`, `(H, W, 1 | 3 | 4)`, uint8,
                uint16, or float32 in 0..255.

        Raises:
            CalibrationError: the model is not calibrated yet.
            ImageError: the image cannot be used.
        """
        return next(self.stream([source]))

    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Score many images, decoding ahead; the results come in the images' order.

        Args:
            sources: as for `predict`.
            batch_size: the most images encoded at once on a GPU. On a CPU each core takes one at a
                time; see `running.run_over`.
            on_error: called with an image that cannot be used, which is then left out; unset, the
                error is raised.

        Raises:
            CalibrationError: the model is not calibrated yet.
            ImageError: an image cannot be used and `on_error` is unset.
        """
        threshold = self.threshold  # known to be there before the first image is decoded
        maps = stream_maps(
            self._scorer,
            self.settings,
            self.view,
            sources,
            evidence=self.evidence,
            batch_size=batch_size,
            on_error=on_error,
        )
        return (
            Prediction(
                anomaly_map=seen.values,
                threshold=threshold,
                source=source_name(source),
                inside=seen.inside,
            )
            for source, seen in maps
        )

    def look_in(self, folder: PathLike) -> Detector:
        """Give the images to come a region of interest each.

        Args:
            folder: with a mask for each image, named after it (see `RegionFolder`); or a manifest
                with the column `roi`.

        Returns:
            This detector.

        Raises:
            DataError: the manifest cannot be read, or has no regions.
            SettingsError: there is no such folder.
        """
        self.view = self.view.with_masks(folder)
        return self

    def optimize(
        self,
        *,
        precision: Precision | None = None,
        compiled: bool = False,
        tile: str | None = None,
    ) -> Detector:
        """Choose how scores are computed from here on.

        Args:
            precision: `fp32`; or `bf16`, faster on processors with such instructions (AVX-512 BF16,
                AMX, GPUs). Unset, `Settings.precision`, in which the threshold was set; in the
                other one scores differ from it by up to a tenth.
            compiled: make code for this machine with `torch.compile`, which needs a C++ compiler,
                about a minute here for the model's own input size, and as much later for each of
                up to three others. It pays for long runs.
            tile: as `Settings.tile`, which it replaces here: a matter of memory, not of scores.

        Returns:
            This detector.

        Raises:
            SettingsError: there is no working compiler, or no such tile.
        """
        if tile is not None:
            self.settings = dataclasses.replace(self.settings, tile=tile)
        scorer = Scorer(
            self.network,
            precision=precision or self.settings.precision,
            tile=self.settings.tile_shape,
        )
        if compiled:
            sizing = self.settings.sizing
            try:
                typical = (256, 256) if sizing.mode == "native" else (sizing.height, sizing.width)
                scorer.compile(sizing.canvas_shape(typical))
            except Exception as error:  # the compilers' errors have no type in common
                raise SettingsError(
                    f"compiled: torch.compile does not work here ({first_line(error)}); leave it "
                    "out, or install a C++ compiler"
                ) from error
        self._scorer = scorer
        return self

    def log_likelihoods(self, source: ImageSource) -> list[NDArray[np.float32]]:
        """What the flows say of one image, before anything is made of it.

        Args:
            source: as for `predict`.

        Returns:
            For each level, the log-likelihood per dimension at every position in the image, in
            nats, shape `(h, w)`.

        Raises:
            ImageError: the image cannot be used.
        """
        canvas = self.view.prepare(source)
        with torch.inference_mode():
            levels = self.network.log_likelihoods(
                torch.from_numpy(canvas.pixels)[None].to(self.device), self._tiling
            )
        inside = []
        for level in levels:
            cell = cell_of(canvas.shape, (level.shape[1], level.shape[2]))
            height, width = map(cells_inside, canvas.valid, cell)
            inside.append(level[0, :height, :width].cpu().numpy())
        return inside

    def info(self) -> dict[str, Any]:
        """Everything stored beside the tensors, as plain values."""
        return {
            "version": __version__,
            "settings": self.settings.to_dict(),
            "encoder": dataclasses.asdict(self.network.encoder.spec),
            "calibration": self.calibration.to_dict() if self.is_calibrated else None,
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
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
        store(Path(path), self.network, self.view, self.info(), bundle=bundle)

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
        progress: ProgressCallback = silent,
    ) -> Detector:
        """Learn what good looks like.

        Some of the images are held out of training, and the threshold is set on them; see
        `Settings.calibration_fraction`. With fewer than 4 images none are, and a warning says what
        that loses.

        Args:
            data: a folder of good images, a folder in the MVTec layout (its `train/good`), a
                manifest CSV, a `Dataset`, or images as for `predict`.
            settings: unset, the defaults.
            roi: the region of interest, outside which nothing is learnt or scored: a mask, polygons
                or an array, for all images (see `Region.read`); or a folder with a mask for each
                (see `RegionFolder`), and then one is needed for later images too (see `look_in`).
                Unset where a manifest gives the images regions of their own.
            device: where to train; unset, a GPU if there is one.
            exclude: names of images to leave out: file names, or more of the path where that is
                not enough.
            max_seconds: to be done in. The images are encoded in any case, which may take longer;
                then the flows stay at their start, and the whitened features alone are scored.
            work: a folder that keeps what a killed run would lose, and from which the same call
                goes on; it is left in place.
            progress: told how far the work has come.

        Raises:
            DataError: there are no images, or one cannot be used.
            SettingsError: `roi` is given, and the images have regions of their own.
            WeightsError: the backbone's weights are not to be had.
            TrainingError: training cannot go on.
        """
        settings = settings or Settings()
        began = time.perf_counter()
        good = good_images(data, exclude)
        sources = good.sources
        view = View.of(settings, sources, roi=roi, own=good.regions)
        training, held_out = split_good(len(sources), settings.calibration_fraction, settings.seed)
        encoder = encoder_of(settings).to(pick_device(device))
        levels, ended, screening, judges = fit_levels(
            encoder,
            [sources[i] for i in training],
            settings,
            fingerprint=good.fingerprint + view.fingerprint(),
            view=view,
            seconds=max_seconds - (time.perf_counter() - began),
            held_out=[sources[i] for i in held_out],
            work=None if work is None else Path(work),
            progress=progress,
        )
        network = CflowNetwork(encoder, levels).eval()
        evidence = gather_evidence(
            network, settings, [sources[training[i]] for i in judges], view=view
        )
        calibration = set_threshold(
            network,
            settings,
            [sources[i] for i in held_out or training],
            view=view,
            evidence=evidence,
            held_out=bool(held_out),
            progress=progress,
        )
        order = training + held_out
        screened = ScreenedImages(
            screening,
            [good.names[i] for i in order],
            [sources[i] for i in order],
            trained_on=len(training),
        )
        about = {
            "dataset": good.name,
            "fingerprint": good.fingerprint,
            "n_images": len(training),
            "excluded": good.excluded,
            "screening": screened.to_dict(),
            "steps": [level.steps for level in ended],
            "ended_by": [level.why for level in ended],
            "seconds": round(time.perf_counter() - began, 2),
            "device": str(encoder.mean.device),
            **({"aligned_to": view.reference.name} if view.reference else {}),
            **provenance(),
        }
        detector = cls(
            network,
            settings=settings,
            calibration=calibration,
            training=about,
            view=view,
            evidence=evidence,
        )
        detector.screening = screened
        return detector

    def calibrate(
        self,
        data: GoodData,
        *,
        false_alarm_rate: float | None = None,
        smoothing: float | None = None,
        precision: Precision | None = None,
        rescale: bool = False,
        progress: ProgressCallback = silent,
    ) -> Detector:
        """Set the threshold anew, on good images that the network was not trained on.

        An imported model has no scale yet: each level's is fitted to part of the images, and the
        threshold is set on the others. A trained model keeps its scale unless `rescale` is given,
        and its threshold is set on all the images; but of those it was trained on, recognised by
        their fingerprint, only on the ones held out of training.

        Args:
            data: as for `fit`.
            false_alarm_rate: unset, as it was.
            smoothing: unset, as it was.
            precision: unset, as it was.
            rescale: fit the levels' scales anew as well.
            progress: told how far the work has come.

        Returns:
            A detector with this one's flows, which is left as it is.

        Raises:
            DataError: there are no images, or one cannot be used.
            SettingsError: something given has a value it cannot have, or the images have two
                regions of interest.
        """
        changes = {
            "false_alarm_rate": false_alarm_rate,
            "smoothing": smoothing,
            "precision": precision,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        settings = Settings.from_dict(self.settings.to_dict() | given)
        good, seen = self._recognise(data)
        view = self.view.with_own(good.regions)
        network, evidence, calibration = recalibrate(
            self.network,
            settings,
            good.sources,
            view=view,
            evidence=self.evidence,
            rescale=rescale or not self.is_calibrated,
            seen=seen,
            progress=progress,
        )
        about = {
            "calibrated_on": good.name,
            "calibration_fingerprint": good.fingerprint,
            "calibrated": provenance()["finished"],
        }
        return Detector(
            network,
            settings=settings,
            calibration=calibration,
            training=self.training | about,
            view=view,
            evidence=evidence,
            name=self._name,
            bundled=self._bundled,
        )

    def _recognise(self, data: GoodData) -> tuple[GoodImages, bool]:
        """Good images, and whether they are those of training, without what was excluded then."""
        good = good_images(data)
        own = self.training.get("fingerprint")
        if good.fingerprint != own and (excluded := self.training.get("excluded")):
            try:
                without = good_images(data, excluded)
            except DataError:
                return good, False  # they are not even there
            if without.fingerprint == own:
                return without, True
        return good, good.fingerprint == own

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        device: str | torch.device | None = None,
    ) -> Detector:
        """Read a model file.

        Args:
            path: the file.
            weights: a file with the backbone's weights, for a model that does not carry them and
                whose weights are no longer where they were in training.
            device: where to run; unset, a GPU if there is one.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or newer.
            WeightsError: the backbone's weights are not to be had, or are not those of training.
        """
        stored = restore(Path(path), weights=weights, device=device)
        return cls(
            stored.network,
            settings=stored.settings,
            calibration=stored.calibration,
            training=stored.training,
            view=stored.view,
            evidence=stored.evidence,
            name=str(path),
            bundled=stored.bundled,
        )
