"""Classes of channels that must have one factor when the channels of a network are rescaled.

A convolution can divide its output channels by any factors, if those that read them multiply by the
same. A sum needs the same factors in both operands, a product hands on those of its first one, a
concatenation puts them side by side. Where nothing is known, channels keep their values.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from quantnas.architectures.imported_onnx import convolution_of
from quantnas.nn.convolutions import Conv2d
from quantnas.onnx_import import layer_roles

FIXED = 0
"""The class of the channels that must keep their values."""
Shapes = Mapping[fx.Node, tuple[int, ...]]
Channels = dict[fx.Node, list[int]]
"""Tensor -> the class of each of its channels."""
HOMOGENEOUS = (
    torch.relu, F.relu, F.leaky_relu, F.prelu, F.max_pool2d, torch.max_pool2d, F.avg_pool2d,
    F.interpolate, F.pad, torch.Tensor.expand, "expand",
)  # fmt: skip
"""Functions, of single channels, that commute with a positive factor."""


def channel_classes(network: fx.GraphModule, shapes: Shapes) -> Channels:
    """The classes of all image-shaped tensors; shapes: those of all tensors for some image."""
    return _Search(network, shapes).result()


@dataclass
class _Classes:
    """Classes as sets that can be joined."""

    parents: list[int] = field(default_factory=lambda: [FIXED])

    def new(self, count: int) -> list[int]:
        first = len(self.parents)
        self.parents += range(first, first + count)
        return list(range(first, first + count))

    def find(self, one: int) -> int:
        while self.parents[one] != one:
            one = self.parents[one] = self.parents[self.parents[one]]
        return one

    def join(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """Join classes pair by pair; the smaller number stays, so `FIXED` does."""
        for one, other in zip(ones, others, strict=True):
            first, second = sorted((self.find(one), self.find(other)))
            self.parents[second] = first

    def fix(self, ones: Sequence[int]) -> None:
        self.join(ones, [FIXED] * len(ones))

    def are_fixed(self, ones: Sequence[int]) -> bool:
        return all(self.find(one) == FIXED for one in ones)


class _Search:
    """A walk through a graph that finds the classes of its channels."""

    def __init__(self, network: fx.GraphModule, shapes: Shapes) -> None:
        self.network, self.shapes, self.classes = network, shapes, _Classes()
        self.constant = layer_roles.without_content(network)
        self.shared = {m.shares for m in network.modules() if isinstance(m, Conv2d)}
        """Names of the convolutions whose kernel later ones have."""
        self.channels: Channels = {}

    def result(self) -> Channels:
        for node in self.network.graph.nodes:
            if node in self.constant:
                continue
            known = self._of(node) if node in self.shapes else None
            if known is None or len(known) != self._count(node):
                self._keep_inputs(node)
                known = [FIXED] * self._count(node)
            self.channels[node] = known
        find = self.classes.find
        return {node: [find(one) for one in ones] for node, ones in self.channels.items()}

    def _count(self, node: fx.Node) -> int:
        shape = self.shapes.get(node, ())
        return shape[1] if len(shape) == 4 else 0

    def _keep_inputs(self, node: fx.Node) -> None:
        for each in node.all_input_nodes:
            self.classes.fix(self.channels.get(each, []))

    def _of(self, node: fx.Node) -> list[int] | None:
        """The classes of a node's channels; None where it is not known how inputs hand them on."""
        conv = convolution_of(self.network, node)
        if conv is not None:
            made = self.classes.new(self._count(node))
            if conv.up > 1 or conv.shares or conv.name in self.shared:
                self.classes.fix(made)
                self._keep_inputs(node)
            return made
        return HANDED_ON[node.target](self, node) if node.target in HANDED_ON else None

    def images(self, node: fx.Node, *inputs: Any) -> bool:
        """Whether a node and these inputs of it are tensors (N, C, H, W) with content."""
        shaped = all(len(self.shapes.get(n, ())) == 4 for n in (node, *inputs))
        return shaped and all(n in self.channels for n in inputs)

    def same(self, node: Any) -> list[int] | None:
        x = node.args[0]
        is_shifted = bool(node.kwargs.get("value"))
        return self.channels[x] if self.images(node, x) and not is_shifted else None

    def mean(self, node: Any) -> list[int] | None:
        return self.same(node) if tuple(node.args[1]) == (2, 3) else None

    def side_by_side(self, node: Any) -> list[int] | None:
        parts, *dims = node.args
        if dims != [1] or not self.images(node, *parts):
            return None
        return [one for part in parts for one in self.channels[part]]

    def sum(self, node: Any) -> list[int] | None:
        x, y = node.args[:2]
        if not isinstance(y, fx.Node) or not isinstance(x, fx.Node) or not self.images(node, x, y):
            return None
        if len(self.channels[x]) != len(self.channels[y]):
            return None
        self.classes.join(self.channels[x], self.channels[y])
        return self.channels[x]

    def product(self, node: Any) -> list[int] | None:
        x, y = node.args[:2]
        pair = [n for n in (x, y) if isinstance(n, fx.Node) and n not in self.constant]
        if not self.images(node, *pair) or (len(pair) == 2 and pair[0] is pair[1]):
            return None
        if len(pair) == 1:
            return self.channels[pair[0]]
        whole = [n for n in pair if self.shapes[n] == self.shapes[node]]
        free = [n for n in whole if not self.classes.are_fixed(self.channels[n])]
        if not whole:
            return None
        kept = (free or whole)[0]
        for other in pair:
            if other is not kept:
                self.classes.fix(self.channels[other])
        return self.channels[kept]


HANDED_ON: dict[Any, Callable[[_Search, fx.Node], list[int] | None]] = {
    **dict.fromkeys(HOMOGENEOUS, _Search.same),
    torch.mean: _Search.mean,
    torch.cat: _Search.side_by_side,
    operator.add: _Search.sum,
    operator.sub: _Search.sum,
    operator.mul: _Search.product,
}
"""Function -> how the classes of its output follow from those of its inputs."""
