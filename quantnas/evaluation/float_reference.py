"""The float network that an exported integer file stands for: what its speed is compared with.

Weights are what the file's integers mean; nothing is rounded any more. A grid that starts at 0 had
taken the place of a ReLU, which is put back where it does something.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quantnas.errors import DataError
from quantnas.exporters.onnx_graph import OnnxGraph
from quantnas.onnx_import import subgraphs

Array = NDArray[Any]

OPSET = 13
"""The operators' version at most: without packed weights none of them needs a later one."""
ROUNDS = ("QuantizeLinear", "ConvInteger")
"""Operators of the files that this project exports; a file without them is in float already."""
POSITIVE = ("Relu", "Sigmoid")
"""What these give has no negative numbers."""
KEEPS = (
    "Add", "Concat", "DepthToSpace", "Gather", "GlobalAveragePool", "Identity", "MaxPool", "Mul",
    "ReduceSum", "Resize", "Slice",
)  # fmt: skip
"""Nor has what these give of such tensors; a Resize is bilinear here."""
INTEGER = (
    "QuantizeLinear",
    "DequantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "Dynamic",
    "QLinear",
)
"""Beginnings of the operators that compute in integers or round to them."""


@dataclass(frozen=True)
class Grid:
    """What an integer tensor stands for: (q - zero point) * step is the tensor `name`."""

    name: str
    step: Array
    """() or, a step per channel, (C,)"""


@dataclass
class Twin:
    """The float graph under construction."""

    constants: dict[str, Array]
    graph: OnnxGraph = field(default_factory=OnnxGraph)
    grids: dict[str, Grid] = field(default_factory=dict)
    """Integer tensor of the file -> what it stands for."""
    names: dict[str, str] = field(default_factory=dict)
    """Float tensor of the file -> the same one here, where that has another name."""
    sums: set[str] = field(default_factory=set)
    """Sums in int32: floats here, of the same size."""
    positive: set[str] = field(default_factory=set)
    """Tensors here that have no negative numbers."""
    scaled: dict[str, Grid] = field(default_factory=dict)
    """Float tensor of the file -> the tensor here that it is a multiple of, and by how much."""

    def here(self, name: str) -> str:
        """The tensor that stands for one of the file."""
        if name in self.grids:
            return self.grids[name].name
        if name in self.scaled and name not in self.names:
            found = self.scaled[name]
            self.names[name] = _times(self, found.name, found.step, name)
        return self.names.get(name, name)


def make(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The same network in float; none for a file in which nothing is rounded.

    Input as in the file, output in float. Raises DataError for integer operators of other projects.
    """
    if not any(node.op_type in ROUNDS for node in model.graph.node):
        return None
    constants, rest = _folded(model)
    twin = Twin(constants)
    for given in model.graph.input:  # an image
        twin.positive.add(given.name)
        if given.type.tensor_type.elem_type == TensorProto.UINT8:
            wide = twin.graph.add("Cast", [given.name], f"{given.name}.wide", to=TensorProto.FLOAT)
            twin.grids[given.name] = Grid(wide, np.ones(()))
            twin.positive.add(wide)
    for node in rest:
        _translate(twin, node)
    return _model(twin, model)


def _folded(model: onnx.ModelProto) -> tuple[dict[str, Array], list[onnx.NodeProto]]:
    """(what is constant and read by the other nodes, the other nodes)."""
    stored = {tensor.name for tensor in model.graph.initializer}
    constant, others = subgraphs.parted(model.graph.node, stored)
    known = stored.union(*(node.output for node in constant))
    read = {name for node in others for name in node.input if name in known}
    return subgraphs.constants(model, sorted(read)), others


def _translate(twin: Twin, node: onnx.NodeProto) -> None:
    """Append what a node that is not constant becomes."""
    (out,) = node.output
    first = node.input[0]
    if node.op_type == "QuantizeLinear":
        _rounded(twin, node)
    elif node.op_type == "DequantizeLinear":
        _meant(twin, node)
    elif node.op_type == "ConvInteger":
        grid = twin.grids[first]
        _convolved(twin, node, Grid(grid.name, 1 / grid.step), twin.constants[node.input[3]])
        twin.sums.add(out)
    elif node.op_type == "Conv" and first in twin.scaled and _by_channel(twin, node):
        factor = twin.constants[node.input[1]].flatten()
        twin.scaled[out] = Grid(twin.scaled[first].name, twin.scaled[first].step * factor)
    elif node.op_type == "Conv" and first in twin.scaled:
        _convolved(twin, node, twin.scaled[first])
    elif node.op_type == "Clip" and first in twin.grids:
        twin.grids[out] = twin.grids[first]
    elif node.op_type == "Cast" and (first in twin.sums or first in twin.grids):
        twin.names[out] = _whole(twin, first, out)
    else:
        _same(twin, node)


def _by_channel(twin: Twin, node: onnx.NodeProto) -> bool:
    """Whether a convolution multiplies every channel by a number, and does nothing else."""
    kernel = twin.constants[node.input[1]]
    groups = [a.i for a in node.attribute if a.name == "group"]
    return len(node.input) == 2 and groups == [kernel.size]


def _rounded(twin: Twin, node: onnx.NodeProto) -> None:
    """A grid; below its zero point there is nothing."""
    (out,) = node.output
    given = twin.scaled.get(node.input[0]) or Grid(twin.here(node.input[0]), np.ones(()))
    source, step = given.name, twin.constants[node.input[1]] / given.step
    zero = twin.constants[node.input[2]]
    if not zero.any() and zero.dtype == np.uint8 and source not in twin.positive:
        source = twin.graph.add("Relu", [source], f"{out}.relu")
        twin.positive.add(source)
    twin.grids[out] = Grid(source, step)


def _meant(twin: Twin, node: onnx.NodeProto) -> None:
    """What integers mean: with the step of their grid, the tensor itself."""
    (out,), grid = node.output, twin.grids[node.input[0]]
    twin.scaled[out] = Grid(grid.name, twin.constants[node.input[1]] / grid.step)


def _whole(twin: Twin, name: str, out: str) -> str:
    """Integers as they are, zero point 0."""
    if name in twin.sums:
        return twin.here(name)
    grid = twin.grids[name]
    return _times(twin, grid.name, 1 / grid.step, out)


def _times(twin: Twin, source: str, factor: Array, out: str) -> str:
    """() or (C,) times a tensor (N, C, H, W)."""
    if np.all(factor == 1):
        return source
    by = twin.graph.constant(f"{out}.by", np.reshape(factor, (1, -1, 1, 1)), np.float32)
    scaled = twin.graph.add("Mul", [source, by], f"{out}.scaled")
    if source in twin.positive:
        twin.positive.add(scaled)
    return scaled


def _convolved(twin: Twin, node: onnx.NodeProto, source: Grid, zero: Array | int = 0) -> None:
    """A convolution with constant weights; what multiplies its input goes into them."""
    (out,) = node.output
    kernel = twin.constants[node.input[1]].astype(np.float32) - zero
    w = twin.graph.constant(f"{out}.w", kernel * _inputs(source.step, kernel), np.float32)
    bias = node.input[2:3] if node.op_type == "Conv" else []
    for name in bias:
        twin.graph.constant(name, twin.constants[name], np.float32)
    conv = helper.make_node("Conv", [source.name, w, *bias], [out], node.name)
    conv.attribute.extend(node.attribute)
    twin.graph.nodes.append(conv)


def _inputs(factor: Array, kernel: Array) -> Array:
    """Factors of the channels of the input, as they multiply (c_out, c_in / groups, k, k)."""
    if factor.ndim == 0:
        return factor
    groups = len(factor) // kernel.shape[1]
    return np.repeat(factor.reshape(groups, -1), len(kernel) // groups, 0)[:, :, None, None]


def _same(twin: Twin, node: onnx.NodeProto) -> None:
    """The operator itself, on floats."""
    (out,), inputs = node.output, [twin.here(name) for name in node.input]
    summed = twin.sums.intersection(node.input)
    fixed = {name: twin.constants[name] for name in node.input if name in twin.constants}
    for name, value in fixed.items():
        twin.graph.constant(name, value, np.float32 if summed else value.dtype)
    if summed:
        twin.sums.add(out)
    if node.input[0] in twin.grids:  # it only moves values
        twin.grids[out] = Grid(out, twin.grids[node.input[0]].step)
    moved = {name for name in inputs if name and name not in fixed}
    kept = moved <= twin.positive and all((value >= 0).all() for value in fixed.values())
    if node.op_type in POSITIVE or (node.op_type in KEEPS and kept):
        twin.positive.add(out)
    copy = helper.make_node(node.op_type, inputs, [out], node.name, domain=node.domain)
    copy.attribute.extend(node.attribute)
    twin.graph.nodes.append(copy)


def _model(twin: Twin, model: onnx.ModelProto) -> onnx.ModelProto:
    """The file of the float graph. Raises DataError when there is still an integer operator."""
    given, gives = list(model.graph.input), []
    made = {name for node in twin.graph.nodes for name in node.output}
    for output in model.graph.output:
        wide = onnx.ValueInfoProto()
        wide.CopyFrom(output)
        wide.type.tensor_type.elem_type = TensorProto.FLOAT
        gives.append(wide)
        if output.name not in made:
            twin.graph.add("Identity", [twin.here(output.name)], output.name)
    left = [node.op_type for node in twin.graph.nodes if node.op_type.startswith(INTEGER)]
    if left:
        raise DataError(
            f"The network holds a {left[0]}, of which no float form can be made.",
            "Give a file that `quantnas export` wrote.",
        )
    version = min(OPSET, max(o.version for o in model.opset_import if o.domain == ""))
    return helper.make_model(
        helper.make_graph(
            twin.graph.nodes, "float", given, gives, list(twin.graph.tensors.values())
        ),
        opset_imports=[helper.make_opsetid("", version)],
        ir_version=7,
    )
