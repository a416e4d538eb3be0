"""A torch.fx graph under construction from the nodes of an ONNX file.

Every value has examples at two sizes of the image, on torch's meta device, so without numbers: they
tell ranks and types, and which sides are the same for every image. What differs becomes arithmetic
on `Tensor.size` in the graph, so the graph stays open in height and width.

Three kinds of value: a node of the graph (a tensor, or a number that depends on the image's size);
a constant, as an array; and an array of objects, integers and nodes: a shape, or a part of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from quantnas.errors import UsageError

Array = NDArray[Any]
Value = fx.Node | Array
Translation = Callable[..., Any]
"""(build, step, *inputs; None where one is left out) -> what the node gives; several: a tuple"""
TENSOR, NODE, MADE = "tensor", "node", "made"
"""Keys of a node's `meta`: the tensor and the node of the file that it stands for, and the tensor
that this node gives there, without what is folded into it here."""


@dataclass(frozen=True)
class FileNode:
    """One node of the file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute; texts as str."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


def refuse(reason: str) -> UsageError:
    """The error for what torch cannot do in the same way."""
    return UsageError(reason, "Export the network in another form.")


@dataclass
class Build:
    """A graph under construction."""

    learned: frozenset[str] = frozenset()
    """Constants that become parameters."""
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    examples: dict[fx.Node, tuple[Any, Any]] = field(default_factory=dict)
    sides: dict[tuple[fx.Node, int], Any] = field(default_factory=dict)
    """(tensor, dimension) -> its size"""
    stored: dict[tuple[str, tuple[int, ...]], fx.Node] = field(default_factory=dict)
    at: str = ""
    """The node of the file that is being translated."""

    def placeholder(self, name: str, examples: tuple[Tensor, Tensor]) -> fx.Node:
        """The input of the graph."""
        node = self.graph.placeholder(name)
        self.examples[node] = examples
        return node

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """What a function gives; nodes may lie within its arguments, at any depth."""
        node = self.graph.call_function(function, args, kwargs)
        return self._tried(node, function)

    def method(self, name: str, *args: Any) -> fx.Node:
        """What a method of the first argument gives."""
        node = self.graph.call_method(name, args)
        return self._tried(node, getattr(Tensor, name))

    def layer(self, module: nn.Module, x: fx.Node, stem: str) -> fx.Node:
        """What a module gives; `stem` is the name it is to have in the network."""
        name = self._free(stem)
        self.root.add_module(name, module)
        node = self.graph.call_module(name, (x,))
        meta = {k: v.to("meta") for k, v in module.state_dict().items()}
        return self._tried(node, lambda x: torch.func.functional_call(module, meta, (x,)))

    def tensor(self, value: Value, name: str, learned: bool = True) -> fx.Node:
        """A constant as a node: a parameter where it is stored in the file as a float, and is no
        statistic (not `learned`)."""
        if isinstance(value, fx.Node):
            return value
        key = name, value.shape
        if key not in self.stored:
            content = torch.tensor(value.astype(np.int64) if value.dtype == object else value)
            attribute = self._free(name)
            if learned and name in self.learned and content.is_floating_point():
                self.root.register_parameter(attribute, nn.Parameter(content))
            else:
                self.root.register_buffer(attribute, content)
            with self.graph.inserting_after(next(iter(self.graph.nodes))):  # before all readers
                node = self.stored[key] = self.graph.get_attr(attribute)
            self.examples[node] = (content.to("meta"),) * 2
        return self.stored[key]

    def side(self, x: fx.Node, dim: int) -> Any:
        """A size of a tensor: an integer where it is the same for every image, else a node."""
        first, second = (int(e.shape[dim]) for e in self.examples[x])
        if first == second:
            return first
        dim %= self.rank(x)
        if (x, dim) not in self.sides:
            self.sides[x, dim] = self.method("size", x, dim)
        return self.sides[x, dim]

    def rank(self, x: Value) -> int:
        """Dimensions of a tensor."""
        return len(self.example(x).shape)

    def example(self, x: Value) -> Any:
        """What a value looks like at the first size."""
        return self.examples[x][0] if isinstance(x, fx.Node) else x

    def seen(self, number: Any) -> tuple[Any, Any]:
        """What a number is at both sizes."""
        return self.examples[number] if isinstance(number, fx.Node) else (number, number)

    def _tried(self, node: fx.Node, function: Callable[..., Any]) -> fx.Node:
        """The node, with what it gives for the examples of its arguments."""

        def at(index: int) -> Any:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.examples[n][index])
            with torch.device("meta"), torch.no_grad():
                return function(*args, **kwargs)

        self.examples[node] = at(0), at(1)
        node.meta[NODE] = self.at
        return node

    def _free(self, name: str) -> str:
        """A name for a part of the network that no other one has."""
        stem = "".join(c if c.isalnum() and c.isascii() else "_" for c in name).strip("_")
        stem = stem if stem and not stem[0].isdigit() else f"layer_{stem}"
        found, count = stem, 1
        while hasattr(self.root, found):
            found, count = f"{stem}_{count}", count + 1
        return found


def numbers(value: Value | None) -> tuple[Any, ...]:
    """The elements of a shape or of a constant, in a row; some may be nodes. Refuses a tensor."""
    if value is None:
        return ()
    if isinstance(value, fx.Node):
        raise refuse("sizes or settings that depend on the image's content")
    return tuple(value.ravel().tolist())


def fixed(value: Value | None) -> tuple[Any, ...]:
    """The same where no element may depend on the image's size."""
    found = numbers(value)
    if any(isinstance(n, fx.Node) for n in found):
        raise refuse("settings that depend on the image's size")
    return found


def shape(elements: Sequence[Any]) -> Array:
    """(n,) of integers and nodes."""
    found = np.empty(len(elements), object)
    found[:] = elements
    return found
