"""The detector of an exported model: what it says of an image is what the trained one says."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cflow_ad._version import __version__
from cflow_ad.cflow.evidence import Evidence, seen_map
from cflow_ad.data.images import ImageSource, PathLike, source_name
from cflow_ad.data.parallel import OnError
from cflow_ad.errors import ImageError, ModelFileError, SettingsError
from cflow_ad.runtime.backends import Backend, normality_names, open_backend
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.loading import Batch, load_batches
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

PICTURES = "pictures"
"""Where the metadata has what a view needs: names, and PNG files in base 64."""

SCHEMA = 1
"""Raised by one whenever older versions of this package can no longer read what is exported."""


class Detector:
    """An exported model, ready to predict; made by `load`. Any number of threads may use it.

    Args:
        backend: runs the graph.
        settings: of the model; of them only the input's size and the scoring are used.
        calibration: the threshold and what it promises.
        about: everything the file says of itself.
        view: where it looks; unset, at all of each image.
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
        said = about.get("evidence")
        self.evidence = None if said is None else Evidence.from_dict(said)
        self._about = about
        size = about["export"]["size"]
        self._size: Shape | None = None if size == "dynamic" else (int(size[0]), int(size[1]))
        self._outputs = normality_names(settings.levels)

    @property
    def threshold(self) -> float:
        """A pixel, and an image, is anomalous where its score lies above this."""
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
        batch_size: int = 8,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Score many images, decoding ahead; the results come in the images' order.

        Args:
            sources: as for `predict`.
            batch_size: the most images the graph is given at once on a GPU. A CPU takes one at a
                time, which is as fast, and makes a score bit for bit that of the image alone.
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
                yield from self._predictions(batch)

    def look_in(self, folder: PathLike) -> Detector:
        """Give the images to come a region of interest each, as the trained detector's `look_in`.

        Raises:
            DataError: a manifest cannot be read, or has no regions.
            SettingsError: there is no such folder.
        """
        self.view = self.view.with_masks(folder)
        return self

    def info(self) -> dict[str, Any]:
        """Everything the file says of itself, as plain values."""
        said = {key: value for key, value in self._about.items() if key != PICTURES}
        return {**said, "version": __version__}

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
            path: `.onnx`, which onnxruntime runs; `.xml`, with its `.bin` beside it, which
                OpenVINO runs; or `.pt2`, which torch runs. A `.pt2` is a program: load none that
                you would not run.
            device: as the library names it, such as `cuda` or `gpu`; unset, the CPU.
            threads: that one image may use; unset, the library's choice.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or newer.
            DependencyError: the library that runs it is not installed.
            SettingsError: the library has no such device.
        """
        path = Path(path)
        if threads is not None and threads < 1:
            raise SettingsError(f"threads is {threads}: it must be at least 1")
        return cls.on(open_backend(path, device=device, threads=threads), str(path))

    @classmethod
    def on(cls, backend: Backend, name: str) -> Detector:
        """The detector of a graph that is loaded already.

        Args:
            backend: runs the graph.
            name: what errors call it.

        Raises:
            ModelFileError: its metadata is damaged or newer.
        """
        about = parse_metadata(backend.metadata, name)
        try:
            settings = Settings.restored(about["settings"])
            pictures = {
                name: base64.b64decode(text) for name, text in about.get(PICTURES, {}).items()
            }
            return cls(
                backend,
                settings=settings,
                calibration=Calibration.from_dict(about["calibration"]),
                about=about,
                view=View.restore(settings, about.get("view", {}), pictures),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{name}: damaged: its metadata does not fit together ({error}); export it again"
            ) from error

    def _check(self, batch: Batch) -> None:
        shape = batch.canvases[0].shape
        if self._size is None or shape == self._size:
            return
        source = batch.sources[0]
        name = source_name(source) or "the image"
        raise ImageError(
            f"{name}: it comes to {shape[0]} x {shape[1]} pixels (height x width), and the model "
            f"was exported for {self._size[0]} x {self._size[1]} alone; export it with "
            "--size dynamic"
        )

    def _predictions(self, batch: Batch) -> Iterator[Prediction]:
        levels = self.backend.run(batch.pixels.astype(np.float32, copy=False), self._outputs)
        for number, (source, canvas) in enumerate(zip(batch.sources, batch.canvases, strict=True)):
            normalities = [level[number] for level in levels]
            seen = seen_map(normalities, canvas, self.settings, self.evidence)
            yield Prediction(
                anomaly_map=seen.values,
                threshold=self.threshold,
                source=source_name(source),
                inside=seen.inside,
            )


def parse_metadata(text: str, name: str) -> dict[str, Any]:
    """Read what an exported file says of itself.

    Raises:
        ModelFileError: it is damaged, or of a newer version.
    """
    try:
        about: dict[str, Any] = json.loads(text)
        schema = about["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{name}: damaged: its metadata cannot be read; export it again"
        ) from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ModelFileError(
            f"{name}: exported by a newer cflow-ad (schema {schema}; this version reads {SCHEMA}); "
            "upgrade with `pip install -U cflow-ad`"
        )
    return about
