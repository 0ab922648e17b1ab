"""The detector of an exported model: it gives the results of the trained one, without torch."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cflow_ad._version import __version__
from cflow_ad.data.images import ImageSource, PathLike, source_name
from cflow_ad.data.parallel import OnError
from cflow_ad.errors import ImageError, ModelFileError, SettingsError
from cflow_ad.runtime.backends import Backend, energy_names, open_backend
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.loading import Batch, load_batches
from cflow_ad.scoring.prediction import Prediction, build_prediction
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings
from cflow_ad.store.schema import check_schema

PICTURES = "pictures"
"""The metadata's key of the view's pictures: by name, PNG files in base 64."""


class Detector:
    """An exported model, made by `load`; several threads may use it at once.

    Args:
        backend: runs the graph.
        settings: of the model; only the input's size and the scoring are used.
        calibration: the thresholds and what they promise.
        about: the file's metadata.
        view: the region of interest and the reference image; unset, all of each image.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        settings: Settings,
        calibration: Calibration,
        about: dict[str, Any],
        view: View | None = None,
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.view = view or View(sizing=settings.sizing)
        self.calibration = calibration
        self._about = about
        size = about["export"]["size"]
        self._size: Shape | None = None if size == "dynamic" else (int(size[0]), int(size[1]))
        self._outputs = energy_names(len(settings.strides))

    @property
    def threshold(self) -> float:
        """An image is anomalous where its score lies above this."""
        return self.calibration.threshold

    def predict(self, source: ImageSource) -> Prediction:
        """Score one image.

        Args:
            source: a path, a Pillow image, or an array `(H, W)`, `(H, W, 1 | 3 | 4)`, uint8,
                uint16, or float32 in 0..255.

        Raises:
            ImageError: the image cannot be used, or does not fit the size that was exported.
        """
        return next(self.stream([source]))

    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        maps: bool = True,
        batch_size: int = 8,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Score many images, decoding ahead; the results come in the images' order.

        Args:
            sources: as for `predict`.
            maps: compute the anomaly maps now; else a result computes its map, mask and regions
                when they are first used. Scores do not need them.
            batch_size: the most images in one run of the graph on a GPU. On a CPU it is one, which
                is as fast, and makes a score bit for bit that of the image alone.
            on_error: called with an image that cannot be used, which is then left out; unset, the
                error is raised.

        Raises:
            ImageError: an image cannot be used and `on_error` is unset.
        """
        if self.backend.on_cpu:
            batch_size = min(batch_size, 1)
        batches = load_batches(sources, self.view, batch_size=batch_size, on_error=on_error)
        for batch in batches:
            try:
                self._check(batch)
            except ImageError as error:
                if on_error is None:
                    raise
                for source in batch.sources:
                    on_error(source, error)
            else:
                yield from self._predictions(batch, maps)

    def look_in(self, folder: PathLike) -> Detector:
        """Give the images to come a region of interest each; see `cflow_ad.Detector.look_in`.

        Raises:
            DataError: a manifest cannot be read, or has no regions.
            SettingsError: there is no such folder.
        """
        self.view = self.view.with_masks(folder)
        return self

    def info(self) -> dict[str, Any]:
        """Return the file's metadata, without pictures, as plain values."""
        about = {key: value for key, value in self._about.items() if key != PICTURES}
        return {**about, "version": __version__}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        threads: int | None = None,
    ) -> Detector:
        """Read an exported file.

        Args:
            path: `.onnx`, for onnxruntime; `.xml`, with its `.bin` beside it, for OpenVINO; or
                `.pt2`, for torch. A `.pt2` is a program: load only one that you trust.
            device: the library's name of it, such as `cuda` or `gpu`; unset, the CPU.
            threads: that one image may use; unset, the library's choice.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or of another version.
            DependencyError: the library that runs it is not installed.
            SettingsError: the library has no such device.
        """
        path = Path(path)
        if threads is not None and threads < 1:
            raise SettingsError(f"threads is {threads}: it must be at least 1")
        return cls.on(open_backend(path, device=device, threads=threads), str(path))

    @classmethod
    def on(cls, backend: Backend, name: str) -> Detector:
        """Build the detector of a graph that is already loaded.

        Args:
            backend: runs the graph.
            name: of the file, for errors.

        Raises:
            ModelFileError: its metadata is damaged or of another version.
        """
        about = parse_metadata(backend.metadata, name)
        try:
            settings = Settings.from_dict(about["settings"])
            pictures = {key: base64.b64decode(text) for key, text in about[PICTURES].items()}
            detector = cls(
                backend,
                settings=settings,
                calibration=Calibration.from_dict(about["calibration"]),
                about=about,
                view=View.restore(settings, about["view"], pictures),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{name}: damaged: its metadata does not fit together ({error}); export it again"
            ) from error
        if missing := sorted(set(detector._outputs) - backend.outputs):
            raise ModelFileError(
                f"{name}: damaged: the graph has no outputs {', '.join(missing)}; export it again"
            )
        return detector

    def _check(self, batch: Batch) -> None:
        shape = batch.canvases[0].shape
        if self._size is None or shape == self._size:
            return
        name = source_name(batch.sources[0]) or "the image"
        raise ImageError(
            f"{name}: its canvas has {shape[0]} x {shape[1]} pixels (height x width), but the "
            f"model was exported for {self._size[0]} x {self._size[1]} alone; export it with "
            "--size dynamic"
        )

    def _predictions(self, batch: Batch, maps: bool) -> Iterator[Prediction]:
        levels = self.backend.run(batch.pixels.astype(np.float32, copy=False), self._outputs)
        for number, (source, canvas) in enumerate(zip(batch.sources, batch.canvases, strict=True)):
            yield build_prediction(
                [level[number] for level in levels],
                canvas,
                smoothing=self.settings.smoothing,
                image_score=self.settings.method.image_score,
                threshold=self.calibration.threshold,
                map_threshold=self.calibration.map_threshold,
                source=source_name(source),
                with_map=maps,
            )


def parse_metadata(text: str, name: str) -> dict[str, Any]:
    """Read the metadata of an exported file.

    Raises:
        ModelFileError: it is damaged, or of another version.
    """
    try:
        about: dict[str, Any] = json.loads(text)
        schema = about["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{name}: damaged: its metadata cannot be read; export it again"
        ) from error
    check_schema(schema, name)
    return about
