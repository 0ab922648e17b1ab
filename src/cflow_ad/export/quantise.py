"""int8 after training: what is quantised, what is not, and with which library.

The whitening magnifies rounding, and most of all that of the first layers, which all levels see.
The encoder's layers that read a grid finer than the first level's, the whitening itself, the sums
of the encoder's residual branches, and all that comes after the memory and the flows stay in
floating point. (Pixel AUROC in fp32, in int8, and in int8 with all 1x1 convolutions, by OpenVINO:
the data set pcb 93.6, 93.6, 91.9; MVTec bottle 99.2, 99.2, 99.2, with a flow on every level 97.1;
by onnxruntime bottle has 68.6.)

Of the products with a memory's vectors only the least is used. onnxruntime rounds products to 8
bits too, so there the 8 bits cover the range of the least ones, and greater products are cut off.
OpenVINO gives the products in floating point.

Weights have seven bits: processors without VNNI add two products of eight-bit numbers in sixteen
bits, which overflow with weights of eight.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cflow_ad.errors import ExportError, first_line
from cflow_ad.export.files import Format, read_openvino
from cflow_ad.files import naming
from cflow_ad.quiet import quiet
from cflow_ad.runtime.backends import INPUT

if TYPE_CHECKING:
    import onnx

Canvases = Sequence[NDArray[np.float32]]

_SUBNET = re.compile(r"(^|\.)levels\.\d+\.density\.blocks\.\d+\.(first|second)$")
"""Names of the weights of the couplings' subnets."""
_MEMORY = re.compile(r"(^|\.)levels\.\d+\.density\.vectors$")
"""Names of the vectors of memories."""


def quantise(model: onnx.ModelProto, format: Format, images: Canvases, *, stride: int) -> Any:
    """Quantise a graph.

    Args:
        model: the graph in fp32.
        format: `onnx`, by onnxruntime, or `openvino`, by NNCF.
        images: canvases of good images, each `(1, H, W, 3)`, from which ranges are taken.
        stride: of the first level.

    Returns:
        An ONNX model, or an `openvino.Model`.

    Raises:
        ExportError: the library cannot quantise the graph.
        OSError: a temporary file cannot be written.
    """
    by_library = _by_nncf if format == "openvino" else _by_onnxruntime
    try:
        with quiet(None, "nncf"), contextlib.redirect_stderr(io.StringIO()):
            return by_library(model, images, stride)
    except (ModuleNotFoundError, OSError):
        raise
    except Exception as error:
        raise ExportError(f"the graph cannot be quantised ({first_line(error)})") from error


def _by_nncf(model: Any, images: Canvases, stride: int) -> Any:
    import nncf

    # OpenVINO runs depthwise convolutions in floating point whatever they hold.
    chosen = _quantised(model, stride) - _depthwise(model)
    seen = _observe(model, _inputs(model, chosen), images)
    graph = read_openvino(_correct_biases(model, chosen, seen, steps=63.5))
    # Translation splits a convolution from its bias, and has operations of its own.
    names = {operation.get_friendly_name() for operation in graph.get_ops()}
    kept = {name for name in names if name.removesuffix("/WithoutBiases") not in chosen}
    return nncf.quantize(
        graph,
        nncf.Dataset(images, lambda pixels: {INPUT: pixels}),
        subset_size=len(images),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE, disable_bias_correction=True
        ),
        ignored_scope=nncf.IgnoredScope(names=sorted(kept), validate=False),
    )


def _by_onnxruntime(model: Any, images: Canvases, stride: int) -> Any:
    import onnx
    from onnxruntime import quantization as ort

    chosen, minima = _quantised(model, stride), _minima(model)
    seen = _observe(model, [*_inputs(model, chosen), *minima.values()], images)
    ranges = {
        product: [{"rmin": seen[least].low, "rmax": seen[least].high}]
        for product, least in minima.items()
    }

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            pixels = next(self._left, None)
            return None if pixels is None else {INPUT: pixels}

    with tempfile.TemporaryDirectory() as folder, naming(Path(folder)):
        before, after = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        corrected = _correct_biases(model, chosen, seen, steps=64)
        onnx.save(onnx.shape_inference.infer_shapes(corrected), before)
        ort.quantize_static(
            before,
            after,
            Reader(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            reduce_range=True,
            nodes_to_quantize=sorted(chosen | _hidden_sums(model)),
            extra_options={"TensorQuantOverrides": ranges},
        )
        quantised = onnx.load(after)
    _find_minima_first(quantised, minima)
    return quantised


def _correct_biases(
    model: Any, chosen: set[str], seen: Mapping[str, _Values], *, steps: float
) -> Any:
    """Take from each convolution's bias what rounding its weights will add on average.

    Args:
        model: the graph in fp32, which is left as it is.
        chosen: names of the nodes that will be quantised.
        seen: the convolutions' inputs, by name.
        steps: of a weight's rounding, from 0 to the largest weight of its output channel.

    References:
        Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
        2019, Sec. 4.2.
    """
    import onnx
    from onnx import numpy_helper

    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in corrected.graph.initializer}
    for node in _convolutions(corrected, chosen):
        weight, mean = weights[node.input[1]], seen[node.input[0]].mean
        bias = weights[node.input[2]] if len(node.input) == 3 else np.float32(0)
        scale = np.abs(weight).max((1, 2, 3), keepdims=True) / steps + 1e-30
        rounding = (np.round(weight / scale) * scale - weight).sum((2, 3))
        # Of a depthwise convolution each output channel has one input channel.
        added = rounding[:, 0] * mean if weight.shape[1] == 1 else rounding @ mean
        name = f"{node.name}.corrected_bias"
        new = numpy_helper.from_array((bias - added).astype(np.float32), name)
        corrected.graph.initializer.append(new)
        node.input[2:] = [name]
    used = {name for node in corrected.graph.node for name in node.input}
    for tensor in [t for t in corrected.graph.initializer if t.name not in used]:
        corrected.graph.initializer.remove(tensor)  # else onnxruntime warns at every load
    return corrected


def _convolutions(model: Any, chosen: set[str]) -> list[Any]:
    return [node for node in model.graph.node if node.name in chosen and node.op_type == "Conv"]


def _inputs(model: Any, chosen: set[str]) -> list[str]:
    """Names of the inputs of the convolutions among the chosen nodes."""
    return [node.input[0] for node in _convolutions(model, chosen)]


class _Values(NamedTuple):
    """The values of a tensor inside the graph, over all images."""

    mean: NDArray[np.float32]
    """Of each channel."""
    low: np.float32
    high: np.float32


def _observe(model: Any, names: Iterable[str], images: Canvases) -> dict[str, _Values]:
    """Run the graph, and note values inside it, by their names."""
    import onnx
    import onnxruntime

    noted: dict[str, list[Any]] = {name: [] for name in names}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in noted)
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for pixels in images:
        for name, values in zip(noted, session.run(list(noted), {INPUT: pixels}), strict=True):
            axes = tuple(axis for axis in range(values.ndim) if axis != 1)
            noted[name].append((values.mean(axes), values.min(), values.max()))
    found = {}
    for name, of_images in noted.items():
        means, lows, highs = zip(*of_images, strict=True)
        found[name] = _Values(sum(means) / len(images), min(lows), max(highs))
    return found


def _minima(model: Any) -> dict[str, str]:
    """Map the name of each memory's products to the name of the least of them."""
    products = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Conv" and _MEMORY.search(node.input[1])
    }
    return {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type == "ReduceMin" and node.input[0] in products
    }


def _find_minima_first(model: Any, minima: Mapping[str, str]) -> None:
    """Take the least product of each memory before the conversion to floating point, so that one
    number is converted in place of all. The result is the same.
    """
    nodes = list(model.graph.node)
    for least in minima.values():
        reduction = next(node for node in nodes if least in node.output)
        dequantised = next(node for node in nodes if reduction.input[0] in node.output)
        reduction.input[0], dequantised.input[0] = dequantised.input[0], f"{least}.int8"
        reduction.output[0], dequantised.output[0] = f"{least}.int8", least
        nodes.remove(dequantised)
        nodes.insert(nodes.index(reduction) + 1, dequantised)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)


def _quantised(model: Any, stride: int) -> set[str]:
    """Names of the nodes to quantise: the convolutions of the couplings' subnets and of memories,
    and those of the encoder, with their activations, that read a grid of at least this stride.
    """
    strides = _strides(model)
    chosen = set()
    convolved: set[str] = set()
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "Conv" else ""
        if _SUBNET.search(weight) or _MEMORY.search(weight):
            chosen.add(node.name)
        elif ".encoder." in f".{weight}" and strides[node.input[0]] >= stride:
            chosen.add(node.name)
            convolved.update(node.output)
        elif node.op_type in ("Clip", "Relu") and node.input[0] in convolved:
            chosen.add(node.name)
    return chosen


def _strides(model: Any) -> dict[str, int]:
    """Map the name of each tensor that depends on pixels to the pixels from one row to the next;
    shapes do not depend on them.
    """
    found = {INPUT: 1}
    for node in model.graph.node:
        inputs = [found[name] for name in node.input if name in found]
        if inputs and node.op_type != "Shape":
            own = next((each.ints[0] for each in node.attribute if each.name == "strides"), 1)
            found.update(dict.fromkeys(node.output, own * max(inputs)))
    return found


def _hidden_sums(model: Any) -> set[str]:
    """Names of the nodes that add the position's share to a subnet's hidden layer, and of the
    activations after them: in onnxruntime they are quicker between two quantised convolutions where
    they are quantised too.
    """
    maker = {name: node for node in model.graph.node for name in node.output}
    found = set()
    for relu in (node for node in model.graph.node if node.op_type == "Relu"):
        if (total := maker.get(relu.input[0])) is None:
            continue
        made = [maker[name] for name in total.input if name in maker]
        if any(node.op_type == "Conv" and _SUBNET.search(node.input[1]) for node in made):
            found |= {total.name, relu.name}
    return found


def _depthwise(model: Any) -> set[str]:
    """Names of the convolutions of which each output channel has one input channel."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in shapes and shapes[node.input[1]][1] == 1
    }
