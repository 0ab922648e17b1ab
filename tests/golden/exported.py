"""The golden model, exported; each file, and each graph that files are made from, is made once."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image

from cflow_ad import Detector
from cflow_ad.data.layouts import Dataset, open_dataset
from cflow_ad.export import export as module
from cflow_ad.export.files import suffix_of
from cflow_ad.export.graph import ExportGraph
from cflow_ad.export.program import to_onnx, trace
from cflow_ad.export.timing import Times
from tests.golden.images import MODEL, good_images


@functools.cache
def golden_detector() -> Detector:
    """The trained model; not to be changed."""
    return Detector.load(MODEL, device="cpu")


@functools.cache
def program(canvas: tuple[int, int] | None) -> Any:
    """Its graph as a `torch.export` program; not to be changed."""
    detector = golden_detector()
    graph = ExportGraph(detector.model, detector.settings, canvas)
    return trace(graph, canvas, detector.settings.sizing.multiple)


@functools.cache
def onnx_graph(canvas: tuple[int, int] | None) -> Any:
    """Its graph as an ONNX model; not to be changed."""
    return to_onnx(program(canvas), golden_detector().settings.strides)


def export_golden(path: Path, detector: Detector | None = None, **options: Any) -> Any:
    """Export it, however fast; or write its graph as if it were that of another detector."""
    size = options.get("size")
    canvas = None if size is None else tuple(map(int, size.split("x")))
    with (
        mock.patch.object(module, "trace", side_effect=lambda *_: program(canvas)),
        mock.patch.object(module, "to_onnx", side_effect=lambda *_: onnx_graph(canvas)),
        mock.patch.object(module, "time_side_by_side", new=run_both_once),
    ):
        return module.export_model(detector or golden_detector(), path, **options)


def run_both_once(own: Any, other: Any, beside: str) -> Times:
    """Stand in for `time_side_by_side`, whose result would depend on the machine."""
    own(), other()
    return Times(1.0, 1.0, 1.0, beside)


@functools.cache
def exported_file(format: Any = "onnx", precision: Any = "fp32", size: str | None = None) -> Path:
    """A file of it, for any canvas unless `size` is given; not to be changed."""
    path = _folder() / f"{format}-{precision}-{size}" / f"model{suffix_of(format)}"
    data = None if precision == "fp32" else new_images()
    # int8 moves scores of this random backbone by about as much as is allowed.
    force = precision == "int8"
    export_golden(path, format=format, precision=precision, size=size, data=data, force=force)
    return path


@functools.cache
def new_images() -> Dataset:
    """Good images that it was not trained on."""
    folder = _folder() / "good"
    folder.mkdir()
    for number, image in enumerate(good_images(60, seed=1)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return open_dataset(folder)


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="golden-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
