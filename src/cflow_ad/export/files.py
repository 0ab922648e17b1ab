"""Write a graph as a file of each format, with its metadata inside."""

from __future__ import annotations

import errno
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cflow_ad.errors import ExportError, SettingsError, first_line
from cflow_ad.runtime.backends import KEY

Format = Literal["onnx", "openvino", "torch"]

_SUFFIX: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
_SMALL = 1024  # tensors of fewer numbers stay as they are: they cost nothing


def suffix_of(format: Format) -> str:
    """How the names of a format's files end.

    Raises:
        SettingsError: there is no such format.
    """
    if format not in _SUFFIX:
        raise SettingsError(f"format is {format!r}: give {', '.join(_SUFFIX)}")
    return _SUFFIX[format]


def write_file(
    model: Any, path: Path, about: Mapping[str, Any], *, format: Format, precision: str
) -> None:
    """Write a graph.

    Args:
        model: a `torch.export` program for `torch`, an `openvino.Model`, or an ONNX model; the
            last is translated where the format is `openvino`.
        path: overwritten; OpenVINO's weights go beside it.
        about: its metadata, plain values.
        format: of the file.
        precision: `fp16` and `bf16` halve the weights' numbers.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(about, allow_nan=False)
    if format == "torch":
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that share memory
            # To memory: where the disk is full, torch's own writer ends the process.
            buffer = io.BytesIO()
            torch.export.save(model, buffer, extra_files={f"{KEY}.json": text})
        path.write_bytes(buffer.getbuffer())
    elif format == "openvino":
        import openvino

        graph = model if isinstance(model, openvino.Model) else read_openvino(model)
        graph.set_rt_info(text, [KEY])
        try:
            openvino.save_model(graph, path, compress_to_fp16=precision in ("fp16", "bf16"))
        except RuntimeError as error:
            # Its message does not say why, and its weights may be cut off without an error.
            raise OSError(errno.EIO, f"OpenVINO failed: {first_line(error)}") from error
    else:
        _write_onnx(model, path, text, precision)


def read_openvino(model: Any) -> Any:
    """An ONNX model as an `openvino.Model`."""
    import openvino

    return openvino.Core().read_model(io.BytesIO(model.SerializeToString()))


def _write_onnx(model: Any, path: Path, text: str, precision: str) -> None:
    import onnx

    new = onnx.ModelProto()
    new.CopyFrom(model)
    if precision in ("fp16", "bf16"):
        _halve(new, precision)
    new.producer_name = "cflow-ad"
    del new.metadata_props[:]
    onnx.helper.set_model_props(new, {KEY: text})
    if new.ByteSize() >= 2**31:
        raise ExportError("the graph is larger than the 2 GiB that one ONNX file holds")
    onnx.checker.check_model(new)
    path.write_bytes(new.SerializeToString())


def _halve(model: Any, precision: str) -> None:
    """Store large tensors in 16 bits; a `Cast` before their use brings them back to 32."""
    import onnx
    from onnx import helper, numpy_helper

    kind = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    half = helper.tensor_dtype_to_np_dtype(kind)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        values = numpy_helper.to_array(tensor)
        if precision == "fp16" and np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(half), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
