"""What the detectors of a trained and of an exported model have in common."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.arrays import ArrayImage, Color, Layout, Tensor
from cflow_ad.data.decoding.raster import Bayer, Reading
from cflow_ad.data.images import ImageSource, PathLike, as_image, source_name
from cflow_ad.data.parallel import OnError
from cflow_ad.errors import CalibrationError, ForkError, ImageError, SettingsError
from cflow_ad.scoring.anomaly_map import Floats
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.prediction import Prediction, build_prediction
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View

if TYPE_CHECKING:
    from cflow_ad.settings import Settings


class Scored(NamedTuple):
    """What `score_canvases` finds in an image."""

    prediction: Prediction
    """Its map is computed when it is first used."""

    vector: NDArray[np.float32] | None
    """The mean of the encoder's feature vectors, the levels one after another, each of length 1:
    parts that look alike have vectors that are near. None for an exported model.
    """


class BaseDetector(ABC):
    """A model with thresholds, which scores images."""

    def __init__(
        self, settings: Settings, calibration: Calibration | None, view: View | None, name: str
    ) -> None:
        self.settings = settings
        view = view or View(sizing=settings.sizing)
        reading = dataclasses.replace(settings.reading, brightness=view.reading.brightness)
        self.view = dataclasses.replace(view, reading=reading)
        self._calibration = calibration
        self._name = name
        self._process = os.getpid()

    @property
    def is_calibrated(self) -> bool:
        """Whether it has scales and thresholds, without which it predicts nothing."""
        return self._calibration is not None

    @property
    def calibration(self) -> Calibration:
        """The thresholds and what they promise.

        Raises:
            CalibrationError: the model is not calibrated yet.
        """
        if self._calibration is None:
            raise CalibrationError(
                f"{self._name}: not calibrated yet; run `cflow-ad calibrate MODEL GOOD` with a "
                "folder of good images"
            )
        return self._calibration

    @property
    def threshold(self) -> float:
        """An image is anomalous where its score lies above this."""
        return self.calibration.threshold

    def predict(
        self,
        source: ImageSource,
        *,
        color: Color = "rgb",
        layout: Layout = "hwc",
        scale: float | None = None,
    ) -> Prediction:
        """Score one image.

        Args:
            source: a path, a Pillow image, or an array or torch tensor, `(H, W)` or
                `(H, W, 1 | 3 | 4)`, uint8, uint16 or float.
            color: of an array: `rgb`, or `bgr` as OpenCV has it.
            layout: of an array: `hwc`, or `chw` for `(1 | 3 | 4, H, W)`.
            scale: value of white in an array. Unset: 255; for uint16, that of the model's depth.

        Raises:
            CalibrationError: the model is not calibrated yet.
            ImageError: the image cannot be used, or does not fit the size that was exported.
            SettingsError: an argument is out of its range.
        """
        return next(self.stream([source], color=color, layout=layout, scale=scale))

    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        maps: bool = True,
        batch_size: int = 32,
        on_error: OnError | None = None,
        color: Color = "rgb",
        layout: Layout = "hwc",
        scale: float | None = None,
    ) -> Iterator[Prediction]:
        """Score many images, decoding ahead; the results come in the images' order.

        Args:
            sources: as for `predict`.
            maps: compute anomaly maps of the images' size ahead as well; else a result computes its
                map, mask and regions when they are first used. Scores do not need them.
            batch_size: the most images in one run of the network on a GPU. On a CPU it is one,
                which is as fast, and makes a score bit for bit that of the image alone; a trained
                model has one image on each core, see `running.run_over`.
            on_error: called with an image that cannot be used, which is then left out; unset, the
                error is raised.
            color: as for `predict`.
            layout: as for `predict`.
            scale: as for `predict`.

        Raises:
            CalibrationError: the model is not calibrated yet.
            ForkError: this process was made by `os.fork`, and the model is on a GPU.
            ImageError: an image cannot be used and `on_error` is unset.
            SettingsError: an argument is out of its range.
        """
        _ = self.calibration  # raises before the first image is decoded
        if isinstance(sources, str | os.PathLike):
            raise SettingsError(
                f"sources is {os.fspath(sources)}: give a list of images, or one to predict"
            )
        if batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}: it must be at least 1")
        if self.on_gpu and self._process != os.getpid():
            raise ForkError(
                f"{self._name}: opened on a GPU before os.fork, after which no library can use it; "
                "open it in the new process, or start that by multiprocessing's spawn"
            )
        ArrayImage(np.zeros((1, 1)), color, layout, scale)  # checks the arguments

        def opened() -> Iterator[ImageSource]:
            for source in sources:
                if isinstance(source, np.ndarray | Tensor):
                    source = ArrayImage(source, color, layout, scale)
                yield source

        def report(source: ImageSource, error: ImageError) -> None:
            assert on_error is not None
            on_error(source.array if isinstance(source, ArrayImage) else source, error)

        found = self._stream(opened(), maps, batch_size, None if on_error is None else report)
        return (
            dataclasses.replace(prediction, source=source_name(source))
            for source, prediction in found
        )

    @property
    def reading(self) -> Reading:
        """How images are read, where they do not say it; see `read_as`."""
        return self.view.reading

    def pixels_of(self, source: ImageSource) -> NDArray[Any]:
        """Return an image as it is scored: RGB, upright, from 0 to 255, at its own size.

        Raises:
            ImageError: the image cannot be used.
        """
        return as_image(source, self.reading)

    def read_as(
        self, *, bits: int | None = None, page: int | None = None, bayer: Bayer | None = None
    ) -> Self:
        """Say how images are read from now on, where that differs from the images of training.

        Args:
            bits: depth of images with 16 bits a value.
            page: which image of a file that holds several, from 1.
            bayer: colours of the first two rows of a sensor's mosaic, or `none`.

        Returns:
            This detector.

        Raises:
            SettingsError: a value is out of its range.
        """
        given = {"bits": bits, "page": page, "bayer": bayer}
        changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
        dataclasses.replace(self.settings, **changes)  # checks them
        reading = dataclasses.replace(self.reading, **changes)
        self.view = dataclasses.replace(self.view, reading=reading)
        return self

    def look_in(self, folder: PathLike) -> Self:
        """Give each image that is scored from now on its own region of interest.

        Args:
            folder: with a mask for each image, named after it (see `RegionFiles`); or a manifest
                with the column `roi`.

        Returns:
            This detector.

        Raises:
            DataError: the manifest cannot be read, or has no regions.
            SettingsError: there is no such folder.
        """
        self.view = self.view.with_masks(folder)
        return self

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return the model's metadata, as plain values."""

    @property
    @abstractmethod
    def on_gpu(self) -> bool:
        """Whether it runs elsewhere than on the CPU, where images in one run take less time."""

    @abstractmethod
    def score_canvases(self, canvases: Sequence[Canvas]) -> list[Scored]:
        """Score images in one run of the network, in the calling thread: for programs with threads
        of their own. On a CPU one image at a time is as fast, and its score bit for bit that of
        `predict`, where the thread has one core (see `threads.one_core_pool`).

        Args:
            canvases: as `view.prepare` makes them, of one shape.

        Raises:
            ImageError: they do not fit the size that was exported.
        """

    @abstractmethod
    def _stream(
        self, sources: Iterable[ImageSource], maps: bool, batch_size: int, on_error: OnError | None
    ) -> Iterator[tuple[ImageSource, Prediction]]: ...

    def _build(self, canvas: Canvas, energies: Sequence[Floats], maps: bool) -> Prediction:
        return build_prediction(
            energies, canvas, self.settings, calibration=self.calibration, with_map=maps
        )
