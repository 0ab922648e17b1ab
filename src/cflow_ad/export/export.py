"""Export a detector: write the file, run it, and keep it only if it says what the detector says."""

from __future__ import annotations

import base64
import copy
import dataclasses
import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from cflow_ad._version import __version__
from cflow_ad.data.layouts import Dataset
from cflow_ad.detector import Detector
from cflow_ad.errors import ExportError, SettingsError, missing_library
from cflow_ad.export.check import Change, Report, compare, gather, recalibrated
from cflow_ad.export.files import Format, suffix_of, write_file
from cflow_ad.export.graph import ExportGraph
from cflow_ad.export.program import OPSET, to_onnx, trace
from cflow_ad.runtime.detector import PICTURES, SCHEMA
from cflow_ad.runtime.detector import Detector as RuntimeDetector
from cflow_ad.scoring.canvas import Shape, Sizing
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.store.model_file import check_writable

Precision = Literal["fp32", "fp16", "bf16", "int8"]

BOUNDS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15, "int8": 0.3}
"""How far scores may change, relative to a score of at least 1: at fp32 the largest change of any
score or pixel, at the others the mean change of the scores of good images."""

AUROC_BOUND = 0.003
"""How far image and pixel AUROC may fall where defects are labelled."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how it compares with the trained model."""

    path: Path
    format: Format
    precision: Precision
    size: Shape | None
    """Height and width of the only canvas that the graph takes; None for any up to the box."""
    n_bytes: int
    change: Change
    calibration: Calibration
    """Of the exported model: set anew below fp32 if images were given, else the trained model's."""


def export_model(
    detector: Detector,
    path: Path,
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    size: str | None = None,
    data: Dataset | None = None,
    force: bool = False,
    progress: Report = lambda done, total: None,
) -> ExportReport:
    """Write a detector as one graph, from an image's pixels to anomaly map and score.

    The file is run before it takes its place, and compared with the detector on `data`, or on
    generated images.

    Args:
        detector: as trained.
        path: ends in `.onnx`, `.xml` or `.pt2`, as the format has it; overwritten.
        format: `onnx`, `openvino`, or `torch` (a `torch.export` program).
        precision: `fp32`; or, not for torch, `fp16` or `bf16` weights, or `int8`.
        size: `dynamic`, or `HEIGHTxWIDTH` of the only canvas; unset, dynamic where images may
            come in several.
        data: good images, and if labelled test images are among them, those too. `int8` needs it.
        force: write the file even if a precision below fp32 changes more than `BOUNDS` allows.
        progress: told how many images were run, of how many, in each pass over them.

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
            "the model scores in bf16, its graph would in fp32, by a threshold that was not set "
            "for it; set one first: cflow-ad calibrate MODEL GOOD --precision fp32 -o NEW"
        )
    canvas = _canvas(size, detector.settings.sizing)
    material = gather(detector, data, canvas)
    ours = _on_cpu(detector)
    ours.view = _compared_in(detector.view, data)
    with tempfile.TemporaryDirectory(dir=_folder(path), prefix=f".{path.name}.") as folder:
        new = Path(folder) / path.name
        graph = _graph(ours, canvas)
        about = _about(detector, format, precision, canvas, graph[1])
        model = _translate(ours, graph, canvas, format)
        if precision == "int8":
            from cflow_ad.export.quantise import quantise

            model = quantise(model, format, material.calibration_pixels(ours.view))
        write_file(model, new, about, format=format, precision=precision)
        calibration = ours.calibration
        if precision != "fp32" and material.held_out:
            calibration = recalibrated(_runtime(new, ours), material, ours, progress)
            about["calibration"] = calibration.to_dict()
            write_file(model, new, about, format=format, precision=precision)
        change = compare(
            ours,
            _runtime(new, ours),
            material,
            with_auroc=precision != "fp32",
            generated=data is None,
            report=progress,
        )
        _judge(change, precision, force=force)
        n_bytes = _move(new, path)
    return ExportReport(path, format, precision, canvas, n_bytes, change, calibration)


def _check(path: Path, format: Format, precision: Precision, data: Dataset | None) -> None:
    suffix = suffix_of(format)
    if precision not in get_args(Precision):
        raise SettingsError(f"precision is {precision!r}: give {', '.join(get_args(Precision))}")
    if format == "torch" and precision != "fp32":
        raise SettingsError(f"precision {precision}: a torch program is written in fp32 alone")
    if path.suffix.lower() != suffix:
        raise SettingsError(f"{path}: the name of this format ends in {suffix}")
    if precision == "int8" and data is None:
        raise SettingsError("int8 is calibrated on good images: give some, with --data FOLDER")
    check_writable(path)
    try:  # all now, before the work
        for library in _needed(format, precision):
            importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise missing_library(error) or error from error


def _needed(format: Format, precision: Precision) -> tuple[str, ...]:
    """The optional libraries that write and run a file."""
    if format == "torch":
        return ()
    if format == "onnx":
        return ("onnx", "onnxscript", "onnxruntime")
    quantiser = ("nncf",) if precision == "int8" else ()
    return ("onnx", "onnxscript", "openvino", *quantiser)


def _canvas(size: str | None, sizing: Sizing) -> Shape | None:
    """The only canvas, or None where any up to the box may come."""
    if sizing.mode == "native" and size in (None, "dynamic"):
        raise ExportError(
            "size native: a graph holds the positions of the canvases it can take, and this model "
            "takes any; export it for one, with --size HEIGHTxWIDTH"
        )
    box = _box(sizing)
    if size == "dynamic" or (size is None and sizing.mode in ("snap", "fit", "longest")):
        return None
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


def _box(sizing: Sizing) -> Shape:
    height, width = (-(-side // sizing.multiple) for side in (sizing.height, sizing.width))
    return height * sizing.multiple, width * sizing.multiple


def _on_cpu(detector: Detector) -> Detector:
    """Traced and compared there, whatever the detector runs on."""
    network = detector.network
    if detector.device.type != "cpu":
        network = copy.deepcopy(network).cpu()
    return Detector(
        network,
        settings=detector.settings,
        calibration=detector.calibration,
        training=detector.training,
        view=detector.view,
        evidence=detector.evidence,
    )


def _graph(detector: Detector, canvas: Shape | None) -> tuple[ExportGraph, Shape]:
    settings = detector.settings
    box = _box(settings.sizing) if canvas is None else canvas
    graph = ExportGraph(
        detector.network,
        box,
        smoothing=settings.smoothing,
        weights=settings.level_weights,
        evidence=detector.evidence,
        only=canvas is not None,
    )
    return graph, box


def _compared_in(view: View, data: Dataset | None) -> View:
    """Where the two models look while they are compared: generated images have no part that lies
    where a region or a reference says, and what regions other images have is not known.
    """
    return View(sizing=view.sizing) if data is None else dataclasses.replace(view, regions=None)


def _runtime(path: Path, ours: Detector) -> RuntimeDetector:
    exported = RuntimeDetector.load(path)
    exported.view = ours.view
    return exported


def _translate(
    detector: Detector, graph: tuple[ExportGraph, Shape], canvas: Shape | None, format: Format
) -> Any:
    sizing = detector.settings.sizing
    program = trace(*graph, canvas, sizing.multiple)
    return program if format == "torch" else to_onnx(program, detector.settings.levels)


def _about(
    detector: Detector, format: Format, precision: Precision, canvas: Shape | None, box: Shape
) -> dict[str, Any]:
    """The file's metadata."""
    return {
        "schema": SCHEMA,
        **detector.info(),
        PICTURES: {
            name: base64.b64encode(data).decode() for name, data in detector.view.pictures().items()
        },
        "export": {
            "format": format,
            "precision": precision,
            # Of OpenVINO: what is not int8 runs in bfloat16 there, where the processor can.
            "computed_in": "bf16"
            if format == "openvino" and precision in ("bf16", "int8")
            else "f32",
            "size": "dynamic" if canvas is None else list(canvas),
            "box": list(box),
            "opset": None if format == "torch" else OPSET,
            "torch": torch.__version__,
            "cflow_ad": __version__,
        },
    }


def _judge(change: Change, precision: Precision, *, force: bool) -> None:
    bound = BOUNDS[precision]
    way_out = "keep the trained model, and report this with the model's settings"
    problems = []
    if precision == "fp32":
        if change.largest > bound:
            problems.append(f"a score or map changes by {change.largest:.2g} (allowed {bound:g})")
        if change.flipped:
            problems.append(f"{change.flipped} images are judged differently")
    elif not force:
        way_out = "write it all the same with --force, or choose a higher precision"
        if change.mean > bound:
            problems.append(
                f"scores of good images change by {change.mean:.2g} on average (allowed {bound:g})"
            )
        for name, before, after in change.auroc:
            if before - after > AUROC_BOUND:
                problems.append(
                    f"{name} AUROC falls from {100 * before:.2f} to {100 * after:.2f} "
                    f"(allowed {100 * AUROC_BOUND:g} points)"
                )
    if problems:
        raise ExportError(
            f"the {precision} graph does not give the model's results: {'; '.join(problems)}; "
            + way_out
        )


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _move(new: Path, path: Path) -> int:
    """Put what was checked in its place, and say how large it is."""
    n_bytes = 0
    for file in sorted(new.parent.iterdir(), key=lambda file: file.suffix == new.suffix):
        n_bytes += file.stat().st_size
        file.replace(path.with_suffix(file.suffix))
    return n_bytes
