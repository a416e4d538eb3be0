"""How the nodes of an ONNX graph hang together: what makes a tensor, and what reads it."""

import math
from dataclasses import dataclass

import onnx

from .onnx_graph import CONVOLUTIONS

EITHER = ("Add", "Sub", "Mul", "Gather")
"""Operators whose data may be their first input or their second."""


@dataclass(frozen=True)
class Wiring:
    """A graph by the names in it."""

    makers: dict[str, onnx.NodeProto]
    """Tensor -> the node that makes it."""
    readers: dict[str, list[onnx.NodeProto]]
    tensors: dict[str, onnx.TensorProto]
    """Name -> what is stored."""
    convolutions: dict[str, onnx.NodeProto]
    """Layer -> its node; one without a name belongs to a grid."""


def wired(model: onnx.ModelProto) -> Wiring:
    """The wiring of a model's main graph."""
    found = Wiring({}, {}, {t.name: t for t in model.graph.initializer}, {})
    for node in model.graph.node:
        found.makers.update(dict.fromkeys(node.output, node))
        for name in node.input:
            found.readers.setdefault(name, []).append(node)
        if node.op_type in CONVOLUTIONS and node.name:
            found.convolutions[node.name] = node
    return found


def source(wiring: Wiring, node: onnx.NodeProto) -> str:
    """The input that carries the data of a node: not its scale, offset, shape or table.

    Of a sum, a difference or a look-up, that is the input that a node makes, or the larger one.
    """
    if node.op_type not in EITHER:
        return str(node.input[0])
    made = [name for name in node.input if name in wiring.makers]
    sizes = {name: math.prod(wiring.tensors[name].dims) for name in node.input if name not in made}
    return str(made[0]) if made else max(sizes, key=sizes.__getitem__)


def back(wiring: Wiring, name: str) -> list[onnx.NodeProto]:
    """The nodes that a tensor comes through, the last one first; they begin at what is stored or
    at an input of the graph.
    """
    found = []
    while name in wiring.makers:
        found.append(wiring.makers[name])
        name = source(wiring, found[-1])
    return found


def origin(wiring: Wiring, name: str) -> str:
    """The name of what a tensor begins as."""
    chain = back(wiring, name)
    return source(wiring, chain[-1]) if chain else name
