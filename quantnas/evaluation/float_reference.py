"""The float reference of an exported integer file: the network that its speed is compared with.

Its weights are the values that the file's integers stand for, and nothing is rounded. Convolutions
have the shapes of their layers, whatever form the file gives them. Where a grid that starts at 0
replaced a ReLU, the ReLU is restored if its input can be negative.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quantnas.errors import DataError
from quantnas.exporters import plain_forms
from quantnas.exporters.onnx_graph import OnnxGraph
from quantnas.onnx_import import subgraphs

Array = NDArray[Any]

OPSET = 13
"""Operator set of the reference; later only where its operators need that, as packed weights alone
do not."""
ROUNDS = ("QuantizeLinear", "ConvInteger")
"""Operators that every integer file of this project holds; other files are in float already."""
POSITIVE = ("Relu", "Sigmoid")
"""Operators whose output has no negative values."""
KEEPS = (
    "Add", "Concat", "DepthToSpace", "Gather", "GlobalAveragePool", "Identity", "MaxPool", "Mul",
    "ReduceSum", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that give no negative values if their inputs have none; a Resize is bilinear here."""
INTEGER = (
    "QuantizeLinear",
    "DequantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "Dynamic",
    "QLinear",
)
"""Prefixes of the names of operators that compute in integers or round to them."""


@dataclass(frozen=True)
class Grid:
    """The meaning of an integer tensor q: (q - zero point) * step is the float tensor `name`."""

    name: str
    step: Array
    """Shape (), or (C,) for a step per channel."""


@dataclass
class FloatReference:
    """The float graph under construction."""

    constants: dict[str, Array]
    """Constant tensor of the file -> its value."""
    graph: OnnxGraph = field(default_factory=OnnxGraph)
    grids: dict[str, Grid] = field(default_factory=dict)
    """Integer tensor of the file -> its meaning."""
    names: dict[str, str] = field(default_factory=dict)
    """Float tensor of the file -> its name in this graph, where the two differ."""
    sums: set[str] = field(default_factory=set)
    """int32 sums of the file; in this graph they are floats with the same values."""
    positive: set[str] = field(default_factory=set)
    """Tensors of this graph that have no negative values."""
    scaled: dict[str, Grid] = field(default_factory=dict)
    """Float tensor of the file -> (tensor of this graph, factor) whose product it is."""

    def name_of(self, name: str) -> str:
        """The name in this graph of a tensor of the file."""
        if name in self.grids:
            return self.grids[name].name
        if name in self.scaled and name not in self.names:
            multiple = self.scaled[name]
            self.names[name] = _multiply(self, multiple.name, multiple.step, name)
        return self.names.get(name, name)


def make(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The float reference of a model; None for a model in which nothing is rounded.

    Its input is that of the file, its output is float. Raises DataError for integer operators that
    this project does not export.
    """
    if not any(node.op_type in ROUNDS for node in model.graph.node):
        return None
    model = plain_forms.plain(model)
    constants, others = _fold_constants(model)
    reference = FloatReference(constants)
    for image in model.graph.input:
        reference.positive.add(image.name)
        if image.type.tensor_type.elem_type == TensorProto.UINT8:
            pixels = reference.graph.add(
                "Cast", [image.name], f"{image.name}.wide", to=TensorProto.FLOAT
            )
            reference.grids[image.name] = Grid(pixels, np.ones(()))
            reference.positive.add(pixels)
    for node in others:
        _translate(reference, node)
    return _model(reference, model)


def _fold_constants(model: onnx.ModelProto) -> tuple[dict[str, Array], list[onnx.NodeProto]]:
    """(constant tensors that the other nodes read, the other nodes)."""
    stored = {tensor.name for tensor in model.graph.initializer}
    constant_nodes, others = subgraphs.parted(model.graph.node, stored)
    constants = stored.union(*(node.output for node in constant_nodes))
    read = {name for node in others for name in node.input if name in constants}
    return subgraphs.constants(model, sorted(read)), others


def _translate(reference: FloatReference, node: onnx.NodeProto) -> None:
    """Append to the float graph the counterpart of a node that is not constant."""
    out, first = node.output[0], node.input[0]
    if node.op_type == "QuantizeLinear":
        _quantize(reference, node)
    elif node.op_type == "DequantizeLinear":
        _dequantize(reference, node)
    elif node.op_type == "ConvInteger":
        grid = reference.grids[first]
        _convolve(
            reference, node, Grid(grid.name, 1 / grid.step), reference.constants[node.input[3]]
        )
        reference.sums.add(out)
    elif node.op_type == "Conv" and first in reference.scaled and _scales_channels(reference, node):
        factor = reference.constants[node.input[1]].flatten()
        reference.scaled[out] = Grid(
            reference.scaled[first].name, reference.scaled[first].step * factor
        )
    elif node.op_type == "Conv" and first in reference.scaled:
        _convolve(reference, node, reference.scaled[first])
    elif node.op_type == "Clip" and first in reference.grids:
        reference.grids[out] = reference.grids[first]
    elif node.op_type == "Cast" and (first in reference.sums or first in reference.grids):
        reference.names[out] = _integer_values(reference, first, out)
    else:
        _copy(reference, node)


def _scales_channels(reference: FloatReference, node: onnx.NodeProto) -> bool:
    """Whether a convolution only multiplies every channel by a number."""
    kernel = reference.constants[node.input[1]]
    groups = [a.i for a in node.attribute if a.name == "group"]
    return len(node.input) == 2 and groups == [kernel.size]


def _quantize(reference: FloatReference, node: onnx.NodeProto) -> None:
    """Record the grid of a QuantizeLinear; it clips like a ReLU where its zero point is 0."""
    (out,) = node.output
    multiple = reference.scaled.get(node.input[0]) or Grid(
        reference.name_of(node.input[0]), np.ones(())
    )
    source, step = multiple.name, reference.constants[node.input[1]] / multiple.step
    zero = reference.constants[node.input[2]]
    if not zero.any() and zero.dtype == np.uint8 and source not in reference.positive:
        source = reference.graph.add("Relu", [source], f"{out}.relu")
        reference.positive.add(source)
    reference.grids[out] = Grid(source, step)


def _dequantize(reference: FloatReference, node: onnx.NodeProto) -> None:
    """Record a DequantizeLinear, whose output is a multiple of the tensor that was rounded."""
    (out,), grid = node.output, reference.grids[node.input[0]]
    reference.scaled[out] = Grid(grid.name, reference.constants[node.input[1]] / grid.step)


def _integer_values(reference: FloatReference, name: str, out: str) -> str:
    """The float tensor that holds the integer values of `name`, whose zero point is 0."""
    if name in reference.sums:
        return reference.name_of(name)
    grid = reference.grids[name]
    return _multiply(reference, grid.name, 1 / grid.step, out)


def _multiply(reference: FloatReference, source: str, factor: Array, out: str) -> str:
    """The product of a factor of shape () or (C,) and a tensor (N, C, H, W)."""
    if np.all(factor == 1):
        return source
    by = reference.graph.constant(f"{out}.by", np.reshape(factor, (1, -1, 1, 1)), np.float32)
    scaled = reference.graph.add("Mul", [source, by], f"{out}.scaled")
    if source in reference.positive:
        reference.positive.add(scaled)
    return scaled


def _convolve(
    reference: FloatReference, node: onnx.NodeProto, source: Grid, zero: Array | int = 0
) -> None:
    """Append a float convolution; the factor of its input is multiplied into its weights."""
    (out,) = node.output
    kernel = reference.constants[node.input[1]].astype(np.float32) - zero
    w = reference.graph.constant(
        f"{out}.w", kernel * _input_factors(source.step, kernel), np.float32
    )
    bias = node.input[2:3] if node.op_type == "Conv" else []
    for name in bias:
        reference.graph.constant(name, reference.constants[name], np.float32)
    conv = helper.make_node("Conv", [source.name, w, *bias], [out], node.name)
    conv.attribute.extend(node.attribute)
    reference.graph.nodes.append(conv)


def _input_factors(factor: Array, kernel: Array) -> Array:
    """Factors of the input channels, shaped to multiply weights (c_out, c_in / groups, k, k)."""
    if factor.ndim == 0:
        return factor
    groups = len(factor) // kernel.shape[1]
    return np.repeat(factor.reshape(groups, -1), len(kernel) // groups, 0)[:, :, None, None]


def _copy(reference: FloatReference, node: onnx.NodeProto) -> None:
    """Append the same operator on floats."""
    outputs, inputs = list(node.output), [reference.name_of(name) for name in node.input]
    summed = reference.sums.intersection(node.input)
    fixed = {name: reference.constants[name] for name in node.input if name in reference.constants}
    for name, value in fixed.items():
        reference.graph.constant(name, value, np.float32 if summed else value.dtype)
    if summed:
        reference.sums.update(outputs)
    if node.input[0] in reference.grids:  # the operator only moves values
        step = reference.grids[node.input[0]].step
        reference.grids.update({out: Grid(out, step) for out in outputs})
    moved = {name for name in inputs if name and name not in fixed}
    kept = moved <= reference.positive and all((value >= 0).all() for value in fixed.values())
    if node.op_type in POSITIVE or (node.op_type in KEEPS and kept):
        reference.positive.update(outputs)
    copy = helper.make_node(node.op_type, inputs, outputs, node.name, domain=node.domain)
    copy.attribute.extend(node.attribute)
    reference.graph.nodes.append(copy)


def _model(reference: FloatReference, model: onnx.ModelProto) -> onnx.ModelProto:
    """The ONNX model of the float graph. Raises DataError if an integer operator is left."""
    inputs, outputs = list(model.graph.input), []
    computed = {name for node in reference.graph.nodes for name in node.output}
    for output in model.graph.output:
        float_output = onnx.ValueInfoProto()
        float_output.CopyFrom(output)
        if output.name in reference.grids or output.name in reference.sums:
            float_output.type.tensor_type.elem_type = TensorProto.FLOAT
        outputs.append(float_output)
        if output.name not in computed:
            reference.graph.add("Identity", [reference.name_of(output.name)], output.name)
    left = [node.op_type for node in reference.graph.nodes if node.op_type.startswith(INTEGER)]
    if left:
        raise DataError(
            f"The network holds a {left[0]}, of which no float form can be made.",
            "Give a file that `quantnas export` wrote.",
        )
    graph = helper.make_graph(
        reference.graph.nodes, "float", inputs, outputs, list(reference.graph.tensors.values())
    )
    return _oldest(graph, model)


def _oldest(graph: onnx.GraphProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model of a graph, with the first operator set from `OPSET` on that has its operators.

    ONNX Runtime fuses most with old ones; the last one is that of `model`.
    """
    last = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for version in range(min(OPSET, last), last + 1):
        opset = [helper.make_opsetid("", version)]
        ir_version = 7 if version <= OPSET else max(7, model.ir_version)
        made = helper.make_model(graph, opset_imports=opset, ir_version=ir_version)
        if version == last or _is_valid(made):
            break
    return made


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True
