"""From a detector to a `torch.export` program, and from that to an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from cflow_ad.errors import ExportError, first_line
from cflow_ad.export.graph import ExportGraph
from cflow_ad.export.quiet import quiet
from cflow_ad.runtime.backends import INPUT, output_names
from cflow_ad.scoring.canvas import Shape

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Of ONNX: the exporter's own, which every runtime of the last years reads."""


def trace(graph: ExportGraph, box: Shape, size: Shape | None, unit: int) -> Any:
    """Trace the graph with `torch.export`.

    Args:
        graph: on the CPU.
        box: the largest canvas.
        size: the only canvas; None for any up to the box.
        unit: canvas sides are multiples of this.

    Returns:
        A `torch.export.ExportedProgram`; its batch is dynamic.

    Raises:
        ExportError: torch cannot trace the backbone.
    """
    dims: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    shape = list(size or box)
    for axis, name in enumerate(("height", "width")):
        units = box[axis] // unit
        if size is None and units > 1:
            # Traced at the largest but one, to be told apart from constants.
            shape[axis] = unit * max(2, units)
            dims[1 + axis] = unit * torch.export.Dim(f"{name}_units", min=1, max=max(2, units))
    example = torch.full((2, *shape, 3), 128.0)
    try:
        with quiet("torch.onnx", "torch.export", "onnxscript"), torch.no_grad():
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
                output_names=output_names(strides),
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
    """Dynamic dimensions by names that say what they are, in place of the tracer's numbers."""
    names = {INPUT: ("batch", "height", "width", None), "score": ("batch",)}
    names["anomaly_map"] = ("batch", "height", "width")
    for stride in strides:
        names[f"normality_{stride}"] = ("batch", f"height/{stride}", f"width/{stride}")
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for dim, name in zip(dims, names[value.name], strict=True):
            if name is not None and not dim.dim_value:
                dim.dim_param = name
