"""From a detector to a `torch.export` program, and from that to an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from cflow_ad.errors import ExportError, first_line
from cflow_ad.export.graph import ExportGraph
from cflow_ad.export.positions import exportable_positions
from cflow_ad.quiet import quiet
from cflow_ad.runtime.backends import INPUT, energy_names, output_names
from cflow_ad.scoring.canvas import MAX_NATIVE, Shape

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Of ONNX; runtimes have read it since 2023."""

_EXAMPLE = (4, 6)
"""Height and width of the example for a dynamic size, in units: different numbers, so that the
tracer takes neither for a constant or for the other."""


def trace(graph: ExportGraph, size: Shape | None, unit: int) -> Any:
    """Trace the graph with `torch.export`.

    Args:
        graph: on the CPU.
        size: height and width of the only canvas; None for any.
        unit: canvas sides are multiples of this.

    Returns:
        A `torch.export.ExportedProgram`; its batch is dynamic.

    Raises:
        ExportError: torch cannot trace the backbone.
    """
    dims: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    shape = size or (unit * _EXAMPLE[0], unit * _EXAMPLE[1])
    if size is None:
        most = MAX_NATIVE // unit
        for axis, name in enumerate(("height", "width"), start=1):
            dims[axis] = unit * torch.export.Dim(f"{name}_units", min=1, max=most)
    example = torch.full((2, *shape, 3), 128.0)
    try:
        with (
            quiet("torch.onnx", "torch.export", "onnxscript"),
            exportable_positions(),
            torch.no_grad(),
        ):
            return torch.export.export(graph, (example,), dynamic_shapes={INPUT: dims})
    except Exception as error:
        raise ExportError(
            f"torch.export cannot trace this backbone at this size ({first_line(error)}); "
            "try --size HEIGHTxWIDTH, or another backbone"
        ) from error


def to_onnx(program: Any, strides: Sequence[int]) -> onnx.ModelProto:
    """Translate a traced program.

    Raises:
        ExportError: torch cannot translate it.
    """
    try:
        with quiet("torch.onnx", "torch.export", "onnxscript"), torch.no_grad():
            translated = torch.onnx.export(
                program,
                input_names=[INPUT],
                output_names=output_names(len(strides)),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        model = cast(Any, translated).model_proto
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ExportError(f"torch cannot write this graph as ONNX ({first_line(error)})") from error
    _name_dimensions(model, strides)
    return cast("onnx.ModelProto", model)


def _name_dimensions(model: Any, strides: Sequence[int]) -> None:
    """Give dynamic dimensions names that say what they are, in place of the tracer's."""
    names: dict[str, tuple[str | None, ...]] = {
        INPUT: ("batch", "height", "width", None),
        "anomaly_map": ("batch", "height", "width"),
        "score": ("batch",),
    }
    for name, stride in zip(energy_names(len(strides)), strides, strict=True):
        names[name] = ("batch", f"height/{stride}", f"width/{stride}")
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for dim, text in zip(dims, names[value.name], strict=True):
            if text is not None and not dim.dim_value:
                dim.dim_param = text
