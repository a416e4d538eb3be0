"""An ONNX graph under construction, and the transformations that finish it."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from string import ascii_letters
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantnas.onnx_import import subgraphs

CONVOLUTIONS = ("Conv", "ConvInteger")
"""Operators that are convolutions."""
SUMS = ("out", "sums")
"""Suffixes of the names of outputs of the convolutions of layers."""
PAIR = ["QuantizeLinear", "DequantizeLinear"]
"""Operators that round a tensor to a grid."""
ENDS = ("lr", "sr")
"""Names of a file's input and output."""
CAST = 32
"""Approximate size of a Cast node in a file, bytes."""


@dataclass
class OnnxGraph:
    """An ONNX graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node -> the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any) -> str:
        """Store a constant, once per name -> its name. A Python number becomes a rank-0 tensor."""
        self.tensors.setdefault(name, numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def int32(self, name: str, values: NDArray[Any]) -> str:
        """Add an int32 constant of integers, stored in fewer bits when that is smaller -> its name.

        ONNX Runtime casts the stored integers when it loads the file.
        """
        if f"{name}.small" in self.tensors:
            return name
        fitting = (t for t in (np.int8, np.int16) if np.array_equal(values.astype(t), values))
        small = next(fitting, np.int32)
        if values.size * (4 - small().itemsize) <= CAST:
            return self.constant(name, values, np.int32)
        stored = self.constant(f"{name}.small", values, small)
        return self.add("Cast", [stored], name, to=TensorProto.INT32)


def tidied(graph: OnnxGraph) -> OnnxGraph:
    """Bring a graph into the form that ONNX Runtime runs in integers, and make it small."""
    return compact(_with_clips(_without_relus(_without_unused(graph))))


def _without_unused(graph: OnnxGraph) -> OnnxGraph:
    """Leave out nodes and tensors that "sr" does not depend on."""
    nodes, names = subgraphs.needed(graph.nodes, [ENDS[1]])
    return OnnxGraph(nodes, {k: t for k, t in graph.tensors.items() if k in names})


def _readers(graph: OnnxGraph) -> dict[str, list[onnx.NodeProto]]:
    """Name of a tensor -> the nodes that read it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _with_clips(graph: OnnxGraph) -> OnnxGraph:
    """Separate two grids in a row by a Clip without effect: ONNX Runtime would merge them."""
    readers, result = _readers(graph), OnnxGraph([], graph.tensors)

    def after(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return readers.get(node.output[0], [])

    for node in graph.nodes:
        alone = after(node) if len(after(node)) == 1 else []
        behind = [n.op_type for n in alone + [m for n in alone for m in after(n)]]
        if node.op_type == "DequantizeLinear" and behind[:2] == PAIR:
            low = result.constant("clip.low", 0, np.uint8)
            high = result.constant("clip.high8", 255, np.uint8)
            clip = result.add("Clip", [node.input[0], low, high], f"{node.output[0]}.apart")
            node.input[0] = clip
        result.nodes.append(node)
    return result


def _without_relus(graph: OnnxGraph) -> OnnxGraph:
    """Leave out each ReLU in front of a grid whose lowest level is 0: the grid clips by itself."""
    readers, kept = _readers(graph), []
    for node in graph.nodes:
        follows = readers.get(node.output[0], [])
        if node.op_type == "Relu" and all(_starts_at_zero(graph, f) for f in follows):
            for reader in follows:
                reader.input[0] = node.input[0]
        else:
            kept.append(node)
    return OnnxGraph(kept, graph.tensors)


def compact(
    graph: OnnxGraph, kept: Collection[str] = ENDS, taken: Collection[str] = ENDS
) -> OnnxGraph:
    """Store equal constants once, and give short names to all tensors but those in `kept`.

    taken: names that must not be given. In networks of this size, long names would be half the
    file. The node of a convolution gets the name of its layer.
    """
    unique: dict[bytes, str] = {}
    short = {name: name for name in (*kept, "")}  # "" is an omitted input
    names = (name for name in map(letters, itertools.count()) if name not in taken)
    tensors = {}
    for name, tensor in graph.tensors.items():
        key = content(tensor)
        if key not in unique:
            unique[key] = next(names)
            tensors[unique[key]] = _renamed(tensor, unique[key])
        short[name] = unique[key]
    for node in graph.nodes:
        for name in node.output:
            if name not in short:
                short[name] = next(names)
        layer, _, part = node.output[0].rpartition(".")
        if node.op_type in CONVOLUTIONS and part in SUMS:
            node.name = layer
        node.input[:] = [short[name] for name in node.input]
        node.output[:] = [short[name] for name in node.output]
    return OnnxGraph(graph.nodes, tensors)


def content(tensor: onnx.TensorProto) -> bytes:
    """What a stored tensor is but for its name."""
    return _renamed(tensor, "").SerializeToString()


def _renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copied = onnx.TensorProto()
    copied.CopyFrom(tensor)
    copied.name = name
    if not name:
        copied.ClearField("name")
    return copied


def letters(number: int) -> str:
    """Write a number in letters: 0 -> a, 51 -> Z, 52 -> aa."""
    head, last = divmod(number, len(ascii_letters))
    return (letters(head - 1) if head else "") + ascii_letters[last]


def _starts_at_zero(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    if node.op_type != "QuantizeLinear":
        return False
    return not numpy_helper.to_array(graph.tensors[node.input[2]]).any()
