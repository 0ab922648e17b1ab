"""The detector of an exported model: it gives the results of the trained one, without torch."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cflow_ad._version import __version__
from cflow_ad.data.images import ImageSource, source_name
from cflow_ad.data.parallel import OnError
from cflow_ad.errors import ImageError, ModelFileError, SettingsError
from cflow_ad.runtime.backends import energy_names, open_backend
from cflow_ad.runtime.forking import Backend
from cflow_ad.scoring.base import BaseDetector, Scored
from cflow_ad.scoring.canvas import Canvas, Shape
from cflow_ad.scoring.loading import Batch, load_batches
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings
from cflow_ad.store.schema import check_schema

PICTURES = "pictures"
"""The metadata's key of the view's pictures: by name, PNG files in base 64."""


class Detector(BaseDetector):
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
        super().__init__(settings, calibration, view, "the exported model")
        self.backend = backend
        self._about = about
        size = about["export"]["size"]
        self._size: Shape | None = None if size == "dynamic" else (int(size[0]), int(size[1]))
        self._outputs = energy_names(len(settings.strides))

    def _stream(
        self, sources: Iterable[ImageSource], maps: bool, batch_size: int, on_error: OnError | None
    ) -> Iterator[tuple[ImageSource, Prediction]]:
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
                yield from zip(batch.sources, self._predictions(batch, maps), strict=True)

    @property
    def on_gpu(self) -> bool:
        return not self.backend.on_cpu

    def score_canvases(self, canvases: Sequence[Canvas]) -> list[Scored]:
        batch = Batch(("",) * len(canvases), tuple(canvases))
        self._check(batch)
        return [Scored(prediction, None) for prediction in self._predictions(batch, maps=False)]

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
            threads: that one image may use; unset, as many as there are cores to use.

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
            "--size dynamic",
            code="image.shape",
            name=name,
            height=shape[0],
            width=shape[1],
        )

    def _predictions(self, batch: Batch, maps: bool) -> Iterator[Prediction]:
        levels = self.backend.run(batch.pixels.astype(np.float32, copy=False), self._outputs)
        for number, canvas in enumerate(batch.canvases):
            yield self._build(canvas, [level[number] for level in levels], maps)


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
