"""An index of an ONNX graph: the node that makes each tensor, and the nodes that read it."""

import math
from dataclasses import dataclass

import onnx

from .onnx_graph import CONVOLUTIONS

EITHER = ("Add", "Sub", "Mul", "Gather")
"""Operators whose data may be their first or their second input."""


@dataclass(frozen=True)
class Wiring:
    """Index of a graph by the names in it."""

    makers: dict[str, onnx.NodeProto]
    """Name of a tensor -> the node that makes it."""
    readers: dict[str, list[onnx.NodeProto]]
    """Name of a tensor -> the nodes that read it."""
    tensors: dict[str, onnx.TensorProto]
    """Name of a stored tensor -> the tensor."""
    convolutions: dict[str, onnx.NodeProto]
    """Name of a layer -> its node; convolutions without a name belong to grids and are left out."""


def wired(model: onnx.ModelProto) -> Wiring:
    """Index a model's main graph."""
    wiring = Wiring({}, {}, {t.name: t for t in model.graph.initializer}, {})
    for node in model.graph.node:
        wiring.makers.update(dict.fromkeys(node.output, node))
        for name in node.input:
            wiring.readers.setdefault(name, []).append(node)
        if node.op_type in CONVOLUTIONS and node.name:
            wiring.convolutions[node.name] = node
    return wiring


def source(wiring: Wiring, node: onnx.NodeProto) -> str:
    """Name of the input that carries a node's data: not its scale, offset, shape or table.

    For a sum, a difference, a product or a look-up, that is the input that a node makes, or the
    larger one when both are stored.
    """
    if node.op_type not in EITHER:
        return str(node.input[0])
    made = [name for name in node.input if name in wiring.makers]
    sizes = {name: math.prod(wiring.tensors[name].dims) for name in node.input if name not in made}
    return str(made[0]) if made else max(sizes, key=sizes.__getitem__)


def ancestors(wiring: Wiring, name: str) -> list[onnx.NodeProto]:
    """Nodes that lead to a tensor, from the last one back to a stored tensor or a graph input."""
    nodes = []
    while name in wiring.makers:
        nodes.append(wiring.makers[name])
        name = source(wiring, nodes[-1])
    return nodes


def origin(wiring: Wiring, name: str) -> str:
    """Name of the stored tensor or graph input that a tensor comes from."""
    chain = ancestors(wiring, name)
    return source(wiring, chain[-1]) if chain else name
