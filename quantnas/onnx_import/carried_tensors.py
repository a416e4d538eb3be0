"""The tensors of an imported network that are carried in 8 bits between its convolutions.

A runtime computes a convolution in integers when its input comes from a grid and its output goes to
one; so do sums, products and a few functions. Between them, values that are only moved stay on the
grid that they lie on. Whatever else there is stays in float, between two grids.
"""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from quantnas.nn.tracing import CALL, RELUS

from . import layer_roles
from .graph_builder import TENSOR

NEAREST = ("nearest", "nearest-exact")
"""Modes of resizing that only move values."""
IN_INTEGERS = (
    operator.add, operator.mul, torch.cat, F.leaky_relu, torch.sigmoid, F.avg_pool2d, torch.mean,
)  # fmt: skip
"""Functions that a runtime computes in integers between grids, where all operands are tensors."""
ELEMENTWISE = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg,
    torch.sigmoid, torch.tanh, torch.erf, torch.exp, torch.log, torch.sqrt, torch.abs, torch.clamp,
    torch.relu, F.relu, F.relu6, F.leaky_relu, F.hardsigmoid, F.hardtanh, F.softplus, F.elu, F.celu,
    torch.maximum, torch.minimum,
)  # fmt: skip
"""Functions that compute each value from the values at the same place."""
DEPTH = 50
"""Number of nodes in a row of which a written function of one tensor has fewer."""


@dataclass(frozen=True)
class Carried:
    """A tensor that lies on a grid of its own."""

    name: str
    """Name of the tensor in the file."""
    node: fx.Node
    """The node that computes it."""
    signed: bool
    """Whether it may have negative values."""
    pixels: bool
    """Whether it holds the pixels of the output, so that its grid is that of bytes."""
    ceiling: float | None
    """The value above which it was cut off, if it was."""


def carried(network: fx.GraphModule, layers: Collection[str]) -> tuple[Carried, ...]:
    """The tensors to carry in 8 bits, in the order of the graph.

    layers: names of the convolutions that are rounded. A tensor that one convolution makes, perhaps
    with a ReLU, and another alone reads needs no grid of its own: the reader has one.
    """
    return _Analysis(network, layers).result()


class _Analysis:
    """What is known about the nodes of a graph while its carried tensors are looked for."""

    def __init__(self, network: fx.GraphModule, layers: Collection[str]) -> None:
        self.network = network
        self.nodes, self.layers = list(network.graph.nodes), layers
        self.fixed = layer_roles.without_content(network)
        self.positive = layer_roles.positive(network)
        self.origins: dict[fx.Node, list[fx.Node]] = {}
        for node in self.nodes:
            self.origins[node] = self._origins(node)
        self.tail = self._tail()

    def result(self) -> tuple[Carried, ...]:
        chosen = [node for node in self.nodes if node.meta.get(TENSOR) and self._has_grid(node)]
        return tuple(self._carried(node) for node in chosen)

    def _carried(self, node: fx.Node) -> Carried:
        signed, pixels = node not in self.positive, self._makes_pixels(node)
        return Carried(node.meta[TENSOR], node, signed, pixels, ceiling(node))

    def _has_grid(self, node: fx.Node) -> bool:
        """Whether the tensor of a node has a grid of its own."""
        if node in self.fixed or is_move(node) or node.op in ("placeholder", "output"):
            return False
        if self._is_computed(node) or (is_limit(node) and self._behind_computed(node)):
            return not self._is_read_by_one(node)
        readers = self._readers(node)
        return sum(map(self.is_layer, readers)) > 1 or any(map(self.in_integers, readers))

    def _is_computed(self, node: fx.Node) -> bool:
        """Whether a runtime computes a node in integers, if its output goes to a grid."""
        return self.is_layer(node) or self.in_integers(node)

    def _behind_computed(self, node: fx.Node) -> bool:
        (maker,) = node.all_input_nodes
        plain = self._is_computed(maker) and not self._is_transposed(maker)
        return plain and len(maker.users) == 1

    def _is_transposed(self, node: fx.Node) -> bool:
        """Whether a node is a transposed convolution, behind which there is a pixel shuffle."""
        if node.op != CALL:
            return False
        return isinstance(self.network.get_submodule(str(node.target)), nn.ConvTranspose2d)

    def _is_read_by_one(self, node: fx.Node) -> bool:
        """Whether only a ReLU, a Clip or one convolution reads a node, and rounds it itself."""
        if len(node.users) != 1 or self._is_transposed(node):
            return False
        (reader,) = node.users
        return self.is_layer(reader) or is_limit(reader)

    def is_layer(self, node: fx.Node) -> bool:
        """Whether a node is a convolution that is rounded."""
        return node.op == CALL and node.target in self.layers

    def in_integers(self, node: fx.Node) -> bool:
        """Whether a runtime computes a node in integers, if its operands lie on grids."""
        if node.target not in IN_INTEGERS or node in self.tail or node in self.fixed:
            return False
        operands: Any = node.args[0] if node.target is torch.cat else node.args[:2]
        if node.target is torch.mean:
            return tuple(node.args[1]) == (2, 3) and bool(node.kwargs.get("keepdim"))  # type: ignore[arg-type]
        if node.target not in (operator.add, operator.mul, torch.cat):
            return True
        if node.target is operator.mul and isinstance(operands[1], float | int):
            return self.is_layer(operands[0]) and len(operands[0].users) == 1
        if not all(isinstance(x, fx.Node) and self._has_content(x) for x in operands):
            return False
        return node.target is torch.cat or not self._is_part_of_function(node)

    def _is_part_of_function(self, node: fx.Node) -> bool:
        """Whether a sum or a product belongs to a function of one tensor, such as a written GELU.

        A runtime knows such a function as one operation in float.
        """
        start = self._start(node)
        if start is None:
            return False
        inside, waiting = set[fx.Node](), [node]
        while waiting:
            new = [n for n in waiting.pop().all_input_nodes if n not in inside]
            new = [n for n in new if n is not start and n not in self.fixed]
            inside.update(new)
            waiting += new
        return any(n.target not in IN_INTEGERS for n in inside)

    def _start(self, node: fx.Node) -> fx.Node | None:
        """The one tensor from which both operands of a node are computed, value by value."""
        first, second = (self.origins[x] for x in node.args[:2])  # type: ignore[index]
        return next((origin for origin in first if origin in second), None)

    def _origins(self, node: fx.Node) -> list[fx.Node]:
        """The tensors of which a tensor is a function, value by value, from itself backwards.

        Those of its inputs are known already.
        """
        inputs = [n for n in node.all_input_nodes if n not in self.fixed]
        if node.target not in ELEMENTWISE or len(inputs) not in (1, 2):
            return [node]
        origin = inputs[0] if len(inputs) == 1 else self._start(node)
        return [node] if origin is None else [node, *self.origins[origin][:DEPTH]]

    def _has_content(self, node: fx.Node) -> bool:
        """Whether a tensor is computed from the image, and is not the image itself."""
        while is_move(node):
            node = node.all_input_nodes[0]
        return node not in self.fixed and node.op != "placeholder"

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that read a tensor, directly or behind moves."""
        readers = []
        for user in node.users:
            readers += self._readers(user) if is_move(user) else [user]
        return readers

    def _tail(self) -> set[fx.Node]:
        """The nodes behind which there is no rounded convolution any more."""
        tail: set[fx.Node] = set()
        for node in reversed(self.nodes):
            if all(user in tail and not self.is_layer(user) for user in node.users):
                tail.add(node)
        return tail

    def _makes_pixels(self, node: fx.Node) -> bool:
        """Whether a tensor becomes the output, moved and cut off at most."""
        while node.op != "output":
            if len(node.users) != 1:
                return False
            (node,) = node.users
            if not (is_move(node) or node.target is torch.clamp or node.op == "output"):
                return False
        return True


def is_limit(node: fx.Node) -> bool:
    """Whether a node is a ReLU, or a Clip from 0 on, which a grid behind it does by itself."""
    if node.target is torch.clamp:
        _, low, high = node.args
        return bool(low == 0) and isinstance(high, float | int | None)
    return node.target in RELUS


def ceiling(node: fx.Node) -> float | None:
    """The largest value that a Clip leaves; None for any other node."""
    if node.target is not torch.clamp or not is_limit(node):
        return None
    high: Any = node.args[2]
    return high


def is_move(node: fx.Node) -> bool:
    """Whether a node's values are those of its first argument in other places."""
    if node.target is F.interpolate:
        return node.kwargs.get("mode") in NEAREST
    if node.target is F.pad:
        return not node.kwargs.get("value")
    return node.target in layer_roles.MOVES
