"""The one noun a user meets: a detector is fitted, saved, loaded, and predicts."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cflow_ad._version import __version__
from cflow_ad.data.images import ImageSource, as_image
from cflow_ad.data.layouts import Dataset, open_dataset
from cflow_ad.data.loading import OnError
from cflow_ad.data.sizing import Canvas, cells_inside
from cflow_ad.errors import (
    CalibrationWarning,
    DataError,
    ModelFileError,
    SettingsError,
    WeightsError,
)
from cflow_ad.model.encoder import Encoder, EncoderSpec, build_encoder, empty_encoder
from cflow_ad.model.file import read_model, write_model
from cflow_ad.model.network import CflowNetwork, Level
from cflow_ad.model.prediction import Prediction
from cflow_ad.model.running import run_over
from cflow_ad.model.scorer import Precision, Scorer
from cflow_ad.model.scoring import anomaly_map
from cflow_ad.model.whitening import InputLayer
from cflow_ad.settings import Settings
from cflow_ad.training.calibration import Calibration, conformal_calibration, split_good
from cflow_ad.training.fit import fit_levels
from cflow_ad.training.flows import empty_flow
from cflow_ad.training.progress import Progress, ProgressCallback, silent


class Detector:
    """A model of good images, with the threshold that tells the others.

    Made by `fit` or `load`.

    Args:
        network: encoder and flows.
        settings: that made them.
        calibration: the threshold and what it promises.
        training: what is known of the training, plain values.
    """

    def __init__(
        self,
        network: CflowNetwork,
        *,
        settings: Settings,
        calibration: Calibration,
        training: Mapping[str, Any],
    ) -> None:
        self.network = network.eval()
        self._scorer = Scorer(network)
        self.settings = settings
        self.calibration = calibration
        self.training = dict(training)

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
            ImageError: an image cannot be used and `on_error` is unset.
        """
        maps = _anomaly_maps(
            self._scorer, self.settings, sources, batch_size=batch_size, on_error=on_error
        )
        for source, values in maps:
            name = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
            yield Prediction(anomaly_map=values, threshold=self.threshold, source=name)

    def optimize(self, *, precision: Precision = "fp32") -> Detector:
        """Choose how scores are computed from here on.

        Args:
            precision: `fp32`, the scores of training; or `bf16`, faster on processors with such
                instructions (AVX-512 BF16, AMX, GPUs), whose scores differ by about a hundredth of
                those.

        Returns:
            This detector.
        """
        self._scorer = Scorer(self.network, precision=precision)
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
        canvas = self.settings.sizing.prepare(as_image(source))
        with torch.inference_mode():
            levels = self.network.log_likelihoods(
                torch.from_numpy(canvas.pixels)[None].to(self.device)
            )
        inside = [
            [cells_inside(side, stride) for side in canvas.valid]
            for stride in self.settings.strides
        ]
        return [
            level[0, :height, :width].cpu().numpy()
            for level, (height, width) in zip(levels, inside, strict=True)
        ]

    def info(self) -> dict[str, Any]:
        """Everything stored beside the tensors, as plain values."""
        return {
            "version": __version__,
            "settings": self.settings.to_dict(),
            "encoder": dataclasses.asdict(self.network.encoder.spec),
            "calibration": self.calibration.to_dict(),
            "training": self.training,
        }

    def save(self, path: str | os.PathLike[str], *, bundle: bool = False) -> None:
        """Write the model file.

        Args:
            path: a `.safetensors` file; overwritten if it exists.
            bundle: put the encoder's weights in, so that loading needs nothing else.

        Raises:
            ModelFileError: the file cannot be written.
        """
        tensors = self.network.state_dict()
        if not bundle:
            tensors = {k: v for k, v in tensors.items() if not k.startswith("encoder.")}
        write_model(Path(path), tensors, {**self.info(), "bundled": bundle})

    @classmethod
    def fit(
        cls,
        data: str | os.PathLike[str] | Dataset | Sequence[ImageSource],
        settings: Settings | None = None,
        *,
        device: str | torch.device | None = None,
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
            device: where to train; unset, a GPU if there is one.
            max_seconds: to be done in. The images are encoded in any case, which may take longer;
                then the flows stay at their start, and the whitened features alone are scored.
            work: a folder that keeps what a killed run would lose, and from which the same call
                goes on; it is left in place.
            progress: told how far the work has come.

        Raises:
            DataError: there are no images, or one cannot be used.
            WeightsError: the backbone's weights are not to be had.
            TrainingError: training cannot go on.
        """
        settings = settings or Settings()
        began = time.perf_counter()
        sources, name, fingerprint = _good_images(data)
        training, held_out = split_good(len(sources), settings.calibration_fraction, settings.seed)
        encoder = build_encoder(
            settings.backbone,
            settings.strides,
            neighbourhood=settings.neighbourhood,
            padding=settings.padding,
            weights=settings.weights,
            seed=settings.seed,
        ).to(pick_device(device))
        levels, ended = fit_levels(
            encoder,
            [sources[i] for i in training],
            settings,
            fingerprint=fingerprint,
            seconds=max_seconds - (time.perf_counter() - began),
            to_score=len(held_out) or len(training),
            work=None if work is None else Path(work),
            progress=progress,
        )
        network = CflowNetwork(encoder, levels).eval()
        judged = [sources[i] for i in held_out or training]
        scores = []
        progress(Progress("calibrate", 0, len(judged)))
        for _, values in _anomaly_maps(Scorer(network), settings, judged):
            scores.append(float(values.max()))
            progress(Progress("calibrate", len(scores), len(judged)))
        calibration = conformal_calibration(
            scores, settings.false_alarm_rate, held_out=bool(held_out)
        )
        if not calibration.is_as_asked:
            warnings.warn(calibration.note, CalibrationWarning, stacklevel=2)
        about = {
            "dataset": name,
            "fingerprint": fingerprint,
            "n_images": len(training),
            "steps": [level.steps for level in ended],
            "ended_by": [level.why for level in ended],
            "seconds": round(time.perf_counter() - began, 2),
            "device": str(encoder.mean.device),
            "cflow_ad": __version__,
            "torch": torch.__version__,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        return cls(network, settings=settings, calibration=calibration, training=about)

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
        path = Path(path)
        metadata, tensors = read_model(path)
        try:
            settings = Settings.from_dict(metadata["settings"])
            calibration = _calibration(metadata["calibration"])
            spec = _encoder_spec(metadata["encoder"])
            training, bundled = dict(metadata["training"]), bool(metadata["bundled"])
            encoder = (
                empty_encoder(spec)
                if bundled
                else _encoder_like(spec, settings, weights or settings.weights, path)
            )
            network = CflowNetwork(encoder, _levels(settings, spec))
            missing, foreign = network.load_state_dict(tensors, strict=False, assign=True)
            if (
                foreign
                or (bundled and missing)
                or any(not k.startswith("encoder.") for k in missing)
            ):
                raise KeyError((missing + foreign)[0])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: damaged: what it holds does not fit together ({error}); "
                "copy it again from where it was made"
            ) from error
        network = network.to(pick_device(device))
        return cls(network, settings=settings, calibration=calibration, training=training)


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; unset, a GPU if there is one.

    Raises:
        SettingsError: torch has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # some can be named but hold no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"device {str(device)!r} is not to be had here ({reason}); give cpu, or leave it out"
        ) from error
    return chosen


def _anomaly_maps(
    scorer: Scorer,
    settings: Settings,
    sources: Iterable[ImageSource],
    *,
    batch_size: int = 8,
    on_error: OnError | None = None,
) -> Iterator[tuple[ImageSource, NDArray[np.float32]]]:
    """The one way from images to anomaly maps, for calibration and prediction alike."""

    def finish(canvas: Canvas, levels: list[Tensor]) -> NDArray[np.float32]:
        return anomaly_map(
            [level.numpy() for level in levels],
            settings.strides,
            valid=canvas.valid,
            original=canvas.original,
            smoothing=settings.smoothing,
        )

    return run_over(
        scorer,
        finish,
        sources,
        settings.sizing,
        device=scorer.encoder.mean.device,
        batch_size=batch_size,
        on_error=on_error,
    )


def _good_images(
    data: str | os.PathLike[str] | Dataset | Sequence[ImageSource],
) -> tuple[list[ImageSource], str, str]:
    """The images to learn from, the data set's name, and its fingerprint."""
    if isinstance(data, str | os.PathLike):
        data = open_dataset(data)
    if isinstance(data, Dataset):
        return [sample.path for sample in data.require_train()], data.name, data.fingerprint()
    sources = list(data)
    if not sources:
        raise DataError("no good images to train on: the sequence is empty")
    digest = hashlib.sha256()
    for source in sources:
        pixels = as_image(source)
        digest.update(f"{pixels.shape} {pixels.dtype}".encode())
        digest.update(pixels.tobytes())
    return sources, "images from memory", digest.hexdigest()[:16]


def _encoder_spec(values: Mapping[str, Any]) -> EncoderSpec:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return EncoderSpec(**plain)


def _calibration(values: Mapping[str, Any]) -> Calibration:
    return Calibration(**{k: v for k, v in values.items() if k != "note"})


def _encoder_like(
    spec: EncoderSpec, settings: Settings, weights: str | None, path: Path
) -> Encoder:
    """The encoder a model was trained with, from weights that are at hand."""
    encoder = build_encoder(
        spec.backbone,
        spec.strides,
        neighbourhood=spec.neighbourhood,
        padding=spec.padding,
        weights=weights,
        seed=settings.seed,
    )
    if encoder.spec.sha256 != spec.sha256:
        raise WeightsError(
            f"{path}: trained with weights of {spec.backbone} from {spec.source}, which are not "
            f"those at hand (from {encoder.spec.source}); give them with --weights FILE, or "
            "train with --bundle"
        )
    # Of the model, not of the weights' source: how pixels are scaled is part of a score.
    return Encoder(encoder.network, spec)


def _levels(settings: Settings, spec: EncoderSpec) -> list[Level]:
    """Levels of the right shapes without values, to be loaded."""
    levels = []
    with torch.device("meta"):
        for channels in spec.channels:
            shape = (channels, channels) if settings.input_layer == "whiten" else (channels,)
            layer = InputLayer(torch.empty(channels), torch.empty(shape))
            flow = empty_flow(channels, settings)
            levels.append(Level(layer, flow).requires_grad_(False))
    return levels
