"""Export a detector: write the file, run it, and keep it only if it gives the same results."""

from __future__ import annotations

import base64
import contextlib
import copy
import importlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from cflow_ad._version import __version__
from cflow_ad.cflow.scorer import Scorer
from cflow_ad.data.images import ImageSource
from cflow_ad.data.layouts import Dataset
from cflow_ad.detector import Detector
from cflow_ad.errors import CalibrationWarning, SettingsError, optional_library
from cflow_ad.export.bounds import Precision, check_change, check_times
from cflow_ad.export.check import Change, Progress, compare, gather, recalibrate
from cflow_ad.export.files import Format, suffix_of, write_file
from cflow_ad.export.graph import ExportGraph
from cflow_ad.export.program import OPSET, to_onnx, trace
from cflow_ad.export.timing import Times, time_side_by_side
from cflow_ad.runtime.backends import energy_names, open_backend
from cflow_ad.runtime.detector import PICTURES
from cflow_ad.runtime.detector import Detector as RuntimeDetector
from cflow_ad.scoring.canvas import Shape, Sizing
from cflow_ad.scoring.loading import load_batches
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.store.model_file import cannot_write, check_writable
from cflow_ad.store.schema import SCHEMA

_LIBRARIES: dict[Format, list[str]] = {
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "openvino": ["onnx", "onnxscript", "openvino"],
    "torch": [],
}
"""The optional libraries that write and run a file."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how it compares with the trained model."""

    path: Path
    format: Format
    precision: Precision
    size: Shape | None
    """Height and width of the only canvas that the graph takes; None for any."""
    n_bytes: int
    change: Change
    calibration: Calibration
    """Of the exported model: set anew below fp32 where unseen images were given, else that of the
    trained model."""
    times: Times
    """Beside the graph in fp32; of a graph in fp32, beside the trained model."""


def export_model(
    detector: Detector,
    path: Path,
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    size: str | None = None,
    data: Dataset | None = None,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> ExportReport:
    """Write a detector as one graph, from an image's pixels to anomaly map and score.

    The file is run and compared with the detector on `data`, or on generated images, before it is
    put in its place. Below fp32 the thresholds are set anew, on good images of `data` that neither
    the model nor the export was fitted to.

    Args:
        detector: as trained.
        path: ends in `.onnx`, `.xml` or `.pt2`, as the format requires; overwritten.
        format: `onnx`, `openvino`, or `torch` (a `torch.export` program).
        precision: `fp32`; or, not for torch, `fp16` or `bf16` weights, or `int8`.
        size: `dynamic`, or `HEIGHTxWIDTH` of the only canvas; unset, `dynamic`, except where all
            canvases have one size (`resize` is `pad` or `stretch`).
        data: good images: those of training give the ranges of `int8`, which needs them; others
            set the thresholds below fp32. Labelled test images are compared on if there are any.
        force: write the file even if a precision below fp32 changes more than `BOUNDS` allows, or
            is slower here than fp32.
        progress: called with the number of images done and of all, in each pass over them.

    Raises:
        ExportError: the graph cannot be made, or does not give the detector's results.
        SettingsError: the arguments do not go together.
        ModelFileError: the file cannot be written.
        DataError: the images cannot be used.
        DependencyError: a library that the format needs is not installed.
    """
    _check(path, format, precision, data)
    if detector.settings.precision != "fp32":
        raise SettingsError(
            f"the model's threshold was set for scores in {detector.settings.precision}, but a "
            "graph scores in fp32; set it for fp32 first: "
            "cflow-ad calibrate MODEL GOOD --precision fp32 -o NEW"
        )
    canvas = _canvas(size, detector.settings.sizing)
    material = gather(detector, data, canvas, needs_ranges=precision == "int8")
    ours = _on_cpu(detector, material.view)
    about = _about(detector, format, precision, canvas)
    with _folder_beside(path) as folder:
        new = folder / path.name
        model = in_fp32 = _translate(ours, canvas, is_onnx=format != "torch")
        if precision == "int8":
            from cflow_ad.export.quantise import quantise

            batches = load_batches(material.ranges, material.view, batch_size=1)
            images = [batch.pixels.astype(np.float32, copy=False) for batch in batches]
            model = quantise(in_fp32, format, images, stride=ours.settings.strides[0])

        def write() -> RuntimeDetector:
            """Write the file with its metadata as they are now, and open it."""
            write_file(model, new, about, format=format, precision=precision)
            exported = RuntimeDetector.load(new)
            exported.view = ours.view
            return exported

        calibration, exported = ours.calibration, write()
        if precision != "fp32" and material.unseen and not calibration.defects:
            calibration = recalibrate(exported, material, ours, progress)
            about["calibration"] = calibration.to_dict()
            exported = write()
        if precision != "fp32" and not (material.unseen and calibration.is_as_asked):
            warnings.warn(
                calibration.note
                if material.unseen
                else "the threshold is that of the trained model; give good images that it was not "
                "trained on, with --data, to set it again",
                CalibrationWarning,
                stacklevel=2,
            )
        change = compare(
            ours,
            exported,
            material,
            with_auroc=precision != "fp32",
            generated=data is None,
            progress=progress,
        )
        check_change(change, precision, force=force)
        times = _time(ours, exported, in_fp32, material.compared[0], precision, folder)
        check_times(times, precision, force=force)
        n_bytes = _move(new, path)
    return ExportReport(path, format, precision, canvas, n_bytes, change, calibration, times)


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Make a folder on the disk of a file, for what is to be checked; it is removed at the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:32]}.") as folder:
            yield Path(folder)
    except OSError as error:
        raise cannot_write(path, error) from error


def _check(path: Path, format: Format, precision: Precision, data: Dataset | None) -> None:
    suffix = suffix_of(format)
    if precision not in get_args(Precision):
        raise SettingsError(f"precision is {precision!r}: give {', '.join(get_args(Precision))}")
    if format == "torch" and precision != "fp32":
        raise SettingsError(f"precision {precision}: a torch program is written in fp32 only")
    if path.suffix.lower() != suffix:
        raise SettingsError(
            f"{path}: the name of a file of the format {format} ends in {suffix}; change the name "
            "or the format"
        )
    if precision == "int8" and data is None:
        raise SettingsError("int8 is calibrated on good images: give some with --data FOLDER")
    check_writable(path, exported=True)
    quantiser = ["nncf"] if format == "openvino" and precision == "int8" else []
    with optional_library():  # before the work
        for library in [*_LIBRARIES[format], *quantiser]:
            importlib.import_module(library)


def _canvas(size: str | None, sizing: Sizing) -> Shape | None:
    """Height and width of the only canvas, or None for any."""
    if size == "dynamic" or (size is None and sizing.mode not in ("pad", "stretch")):
        return None
    box = sizing.canvas_shape((sizing.height, sizing.width))
    if size is None:
        return box
    wanted = Sizing.parse(size)
    canvas = (wanted.height, wanted.width)
    for side, most in zip(canvas, box, strict=True):
        if side % sizing.multiple or side > most:
            raise SettingsError(
                f"size {size}: the sides of this model's canvas are multiples of "
                f"{sizing.multiple} up to {box[0]}x{box[1]}"
            )
    if sizing.mode in ("pad", "stretch") and canvas != box:
        raise SettingsError(f"size {size}: this model's canvas is always {box[0]}x{box[1]}")
    return canvas


def _on_cpu(detector: Detector, view: View) -> Detector:
    """Copy a detector to the CPU, where it is traced and compared."""
    return Detector(
        detector.model if detector.device.type == "cpu" else copy.deepcopy(detector.model).cpu(),
        settings=detector.settings,
        calibration=detector.calibration,
        training=detector.training,
        view=view,
    )


def _translate(detector: Detector, canvas: Shape | None, *, is_onnx: bool) -> Any:
    """Turn the model into a `torch.export` program, or that into an ONNX model."""
    settings = detector.settings
    graph = ExportGraph(detector.model, settings, canvas)
    program = trace(graph, canvas, settings.sizing.multiple)
    return to_onnx(program, settings.strides) if is_onnx else program


def _about(
    detector: Detector, format: Format, precision: Precision, canvas: Shape | None
) -> dict[str, Any]:
    """Build the file's metadata."""
    return {
        "schema": SCHEMA,
        **detector.info(),
        PICTURES: {
            name: base64.b64encode(data).decode() for name, data in detector.view.pictures().items()
        },
        "export": {
            "format": format,
            "precision": precision,
            "size": "dynamic" if canvas is None else list(canvas),
            "usual_size": list(canvas) if canvas else detector.training.get("canvas"),
            "opset": None if format == "torch" else OPSET,
            "torch": torch.__version__,
            "cflow_ad": __version__,
        },
    }


def _time(
    detector: Detector,
    exported: RuntimeDetector,
    in_fp32: Any,
    image: ImageSource,
    precision: Precision,
    folder: Path,
) -> Times:
    """Time a graph on one image, beside the one in fp32 or, of that, beside the trained model."""
    pixels = detector.view.prepare(image).pixels[None].astype(np.float32)
    names = energy_names(len(detector.settings.strides))
    if precision == "fp32":
        scorer, tensor = Scorer(detector.model), torch.from_numpy(pixels)
        return time_side_by_side(
            lambda: exported.backend.run(pixels, names), lambda: scorer(tensor), "the trained model"
        )
    about = exported.info()
    format: Format = about["export"]["format"]
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        path = Path(inner) / f"fp32{suffix_of(format)}"
        write_file(in_fp32, path, about, format=format, precision="fp32")
        backend = open_backend(path, device=None, threads=None)
        return time_side_by_side(
            lambda: exported.backend.run(pixels, names),
            lambda: backend.run(pixels, names),
            "fp32",
        )


def _move(new: Path, path: Path) -> int:
    """Put the checked files in their place; returns their size in bytes."""
    n_bytes = 0
    for file in sorted(new.parent.iterdir(), key=lambda file: file.suffix == new.suffix):
        n_bytes += file.stat().st_size
        file.replace(path.with_suffix(file.suffix))
    return n_bytes
