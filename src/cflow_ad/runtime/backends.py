"""Run an exported graph with onnxruntime, OpenVINO or torch behind one interface.

Each library is imported when a file needs it, so that the others need not be installed.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cflow_ad.errors import (
    CflowError,
    ModelFileError,
    SettingsError,
    first_line,
    optional_library,
)
from cflow_ad.process import usable_cores
from cflow_ad.runtime.forking import AfterFork, Backend, Floats
from cflow_ad.scoring.canvas import Shape

KEY = "cflow_ad"
"""The key of an exported file's metadata."""

_IN_A_ROW = 4  # batches of one shape, after which a graph for that shape is worth its making
_MOST_OF_ONE_SHAPE = 2**20  # pixels of a batch: what is computed once takes memory

INPUT = "image"
"""The graph's input: shape `(B, H, W, 3)`, float32, RGB in 0..255."""


def output_names(n_levels: int) -> list[str]:
    """Name the graph's outputs: the map, the score, and each level's energies."""
    return ["anomaly_map", "score", *energy_names(n_levels)]


def energy_names(n_levels: int) -> list[str]:
    """Name the outputs that the Python runtime scores with: one for each level."""
    return [f"energy_{number}" for number in range(n_levels)]


def open_backend(path: Path, *, device: str | None, threads: int | None) -> Backend:
    """Load an exported file into the library that runs its kind.

    Args:
        path: `.onnx`, `.xml` (OpenVINO) or `.pt2` (torch).
        device: the library's name of it; unset, the CPU.
        threads: that one image may use; unset, as many as there are cores to use.

    Raises:
        ModelFileError: the file is missing, damaged or of another kind.
        DependencyError: the library is not installed.
        SettingsError: the library has no such device.
    """
    kind = _kind_of(path)
    with optional_library():
        return AfterFork(lambda threads: kind(path, device, threads), threads)


def read_text(path: Path) -> str:
    """Read an exported file's metadata.

    Raises:
        ModelFileError: as for `open_backend`.
    """
    if _kind_of(path) is not _OpenVino:
        return open_backend(path, device=None, threads=1).metadata
    with optional_library():  # to compile it would take longer
        import openvino

        return _read_openvino(openvino.Core(), path)[1]


def _kind_of(path: Path) -> Any:
    """Choose what runs a file, by its name, and see that the file can be read."""
    kinds: dict[str, Any] = {".onnx": _OnnxRuntime, ".xml": _OpenVino, ".pt2": _Torch}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ModelFileError(
            f"{path}: the name is not that of an exported model; give a file that ends in "
            ".onnx, .xml or .pt2, or make one with `cflow-ad export`"
        )
    if path.is_dir():
        raise ModelFileError(f"{path}: this is a folder; name a file in it")
    if not path.exists():
        raise ModelFileError(f"{path}: there is no such model file; export one, or check the path")
    if not os.access(path, os.R_OK):
        raise ModelFileError(f"{path}: no permission to read it; change its permissions")
    return kind


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turn what a library raises for a file that it cannot use into an error of one line."""
    try:
        yield
    except (CflowError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise ModelFileError(
            f"{path}: damaged, or not a model that can be run here ({first_line(error)}); copy it "
            "again from where it was made, or export it again"
        ) from error


def _foreign(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path}: not an exported cflow-ad model, or its metadata was lost; make one with "
        "`cflow-ad export`"
    )


class _OnnxRuntime:
    """A graph in onnxruntime.

    After four batches of one shape in a row there is a second graph for that shape, in which all
    that depends on the shape alone is computed once. Four batches in a row of another shape replace
    it. The results of both are bit for bit the same.
    """

    def __init__(self, path: Path, device: str | None, threads: int | None) -> None:
        import onnxruntime

        self.on_cpu = device in (None, "cpu")
        provider = "CPUExecutionProvider"
        if not self.on_cpu:
            provider = f"{str(device).split(':')[0].upper()}ExecutionProvider"
            there = onnxruntime.get_available_providers()
            if provider not in there:
                raise SettingsError(
                    f"device {device!r} is not available: this onnxruntime has " + ", ".join(there)
                )

        def open_session(**sides: int) -> Any:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # errors are raised as exceptions
            # Threads that spin while they wait make everything slower on a busy machine.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.intra_op_num_threads = threads or usable_cores()
            for name, side in sides.items():
                options.add_free_dimension_override_by_name(name, side)
            return onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])

        self._open_session = open_session
        with _one_line_errors(path):
            self._of_any_shape = open_session()
            self.outputs = {value.name for value in self._of_any_shape.get_outputs()}
            found = self._of_any_shape.get_modelmeta().custom_metadata_map.get(KEY)
        if found is None:
            raise _foreign(path)
        self.metadata: str = found
        self._of_one_shape: Any = None
        self._one_shape, self._last, self._in_a_row = (0, 0, 0), (0, 0, 0), 0
        self._lock = threading.Lock()

    def run(self, pixels: Floats, names: Sequence[str]) -> list[Floats]:
        session = self._session_for(*pixels.shape[:3])
        outputs: list[Floats] = session.run(list(names), {INPUT: pixels})
        return outputs

    def _session_for(self, batch: int, height: int, width: int) -> Any:
        if not self.on_cpu or batch * height * width > _MOST_OF_ONE_SHAPE:
            return self._of_any_shape
        shape = (batch, height, width)
        with self._lock:
            if shape == self._one_shape:
                self._in_a_row = 0
                return self._of_one_shape
            self._last, self._in_a_row = shape, self._in_a_row + 1 if shape == self._last else 1
            if self._in_a_row < _IN_A_ROW:
                return self._of_any_shape
            self._of_one_shape = self._open_session(batch=batch, height=height, width=width)
            self._one_shape, self._in_a_row = shape, 0
            return self._of_one_shape


def _read_openvino(core: Any, path: Path) -> tuple[Any, str]:
    """Read a graph by a core of OpenVINO, and its metadata."""
    with _one_line_errors(path):
        model = core.read_model(path)
        if not model.has_rt_info([KEY]):
            raise _foreign(path)
        return model, model.get_rt_info([KEY]).astype(str)


class _OpenVino:
    """A graph in OpenVINO.

    On a CPU there is a program for one image of the usual size, that of most images of training or
    the only one that the graph was exported for, by which a batch of them is scored image by image.
    In int8 it takes two thirds of the time of the program for any size, which is compiled when the
    first image of another size comes. Results of the two differ: in fp32 in the last digits, in
    int8 by up to a hundredth. So the program depends on the image's size alone.
    """

    def __init__(self, path: Path, device: str | None, threads: int | None) -> None:
        import openvino

        core = openvino.Core()
        model, self.metadata = _read_openvino(core, path)
        with _one_line_errors(path):
            self.outputs = {name for value in model.outputs for name in value.names}
            hints: dict[str, Any] = {
                "PERFORMANCE_HINT": "LATENCY",
                # By default processors that can compute in bfloat16, which loses the differences
                # between whitened vectors and their means.
                "INFERENCE_PRECISION_HINT": "f32",
            }
            wanted = "CPU" if device is None else device.upper()
            self.on_cpu = wanted == "CPU"
            if wanted.split(".")[0] not in {name.split(".")[0] for name in core.available_devices}:
                raise SettingsError(
                    f"device {device!r} is not available: this OpenVINO has "
                    + ", ".join(core.available_devices)
                )
            if self.on_cpu:
                # A thread that is bound to a core waits for whatever else runs there.
                hints["ENABLE_CPU_PINNING"] = False
                hints["INFERENCE_NUM_THREADS"] = threads or usable_cores()
                # By default it keeps programs for every size of images seen, at some 6 MiB each,
                # and with more than this it grows slowly over sizes that are all new.
                hints["CPU_RUNTIME_CACHE_CAPACITY"] = 64
            self._model = model
            self._compile = partial(core.compile_model, device_name=wanted, config=hints)
            about = json.loads(self.metadata)
            usual = about.get("export", {}).get("usual_size") if self.on_cpu else None
            self._usual: Shape | None = usual and (usual[0], usual[1])
            self._programs: dict[tuple[Shape | None, tuple[str, ...]], Any] = {}
            self._lock = threading.Lock()
            self._of_thread = threading.local()
            self._request_for(self._usual, energy_names(len(about["settings"]["strides"])))

    def run(self, pixels: Floats, names: Sequence[str]) -> list[Floats]:
        sides = self._usual if pixels.shape[1:3] == self._usual else None
        request = self._request_for(sides, names)
        parts = [pixels] if sides is None else np.split(pixels, len(pixels))
        found = []
        for part in parts:
            request.infer({INPUT: part})
            found.append([np.array(request.get_tensor(name).data) for name in names])
        return [np.concatenate(values) for values in zip(*found, strict=True)]

    def _request_for(self, sides: Shape | None, names: Sequence[str]) -> Any:
        """Return this thread's request to the program for some outputs at a size, or at any."""
        key = sides, tuple(names)
        requests = vars(self._of_thread).setdefault("requests", {})
        if key not in requests:
            with self._lock:
                if key not in self._programs:
                    self._programs[key] = self._build_program(*key)
            requests[key] = self._programs[key].create_infer_request()
        return requests[key]

    def _build_program(self, sides: Shape | None, names: Sequence[str]) -> Any:
        part = self._model.clone()
        if sides is not None:
            part.reshape({INPUT: [1, *sides, 3]})
        # What only other outputs need would be computed as well.
        for output in part.outputs:
            if not output.names & set(names):
                part.remove_result(output.node)
        return self._compile(part)


class _Torch:
    def __init__(self, path: Path, device: str | None, threads: int | None) -> None:
        import torch

        self.on_cpu = device in (None, "cpu")
        extra = {f"{KEY}.json": ""}
        with _one_line_errors(path):
            program = torch.export.load(path, extra_files=extra)
            if not extra[f"{KEY}.json"]:
                raise _foreign(path)
            self.metadata: str = extra[f"{KEY}.json"]
            self._names = output_names(len(json.loads(self.metadata)["settings"]["strides"]))
            self.outputs = set(self._names)
            # Its guards, which older versions of torch lack, refuse a canvas that is one cell wide:
            # they say how tensors of the example lie in memory, on which no value depends.
            options = inspect.signature(program.module).parameters
            without = {"check_guards": False} if "check_guards" in options else {}
            self._module = program.module(**without).to(device or "cpu")
        self._device = device or "cpu"
        torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))

    def run(self, pixels: Floats, names: Sequence[str]) -> list[Floats]:
        import torch

        with torch.inference_mode():
            outputs = self._module(torch.from_numpy(pixels).to(self._device))
        return [outputs[self._names.index(name)].cpu().numpy() for name in names]
