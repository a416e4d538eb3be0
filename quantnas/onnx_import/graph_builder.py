"""A torch.fx graph under construction from the nodes of an ONNX file.

Every value has examples for two sizes of the image. They lie on torch's meta device, so they have
no content; they give ranks and types, and show which sides are the same for every image. A side
that differs becomes arithmetic on `Tensor.size` in the graph, so the graph takes any size.

There are three kinds of values: a node of the graph (a tensor, or a number that depends on the
image's size); a constant array; and a shape or a part of one, as an array of objects that are
integers and nodes.
"""

import keyword
from collections import Counter
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
"""Function (build, step, *inputs) -> output of a node, or a tuple of several outputs; an input that
is left out is None."""
TENSOR, NODE, MADE, RANK = "tensor", "node", "made", "rank"
"""Keys of `meta` of a node of the graph. TENSOR: the tensor of the file that it computes; NODE: the
node of the file that it stands for; MADE: the tensor that the node computed before other nodes
were folded into it; RANK: number of dimensions of that tensor in the file, where the node is a 1x1
convolution that stands for a product with a matrix."""
LEARNED = "learned"
"""Key of `meta` of a network: name of a parameter, besides those of layers -> the only tensor of
the file that holds it."""


RESERVED = frozenset({"self", *dir(fx.GraphModule(nn.Module(), fx.Graph()))})
"""Names that a part of a network cannot have, for the generated code has them already."""


@dataclass(frozen=True)
class FileNode:
    """One node of the file."""

    kind: str
    """Operator of the node."""
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, with text as str, or `default` when the node lacks it."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


def refuse(reason: str) -> UsageError:
    """The error for a node that torch cannot compute in the same way."""
    return UsageError(reason, "Export the network in another form.")


@dataclass
class Build:
    """A graph under construction."""

    learned: frozenset[str] = frozenset()
    """Names of the constants that become parameters."""
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    examples: dict[fx.Node, tuple[Any, Any]] = field(default_factory=dict)
    """Node -> what it computes for the two sizes of the image, on the meta device."""
    sides: dict[tuple[fx.Node, int], Any] = field(default_factory=dict)
    """(tensor, dimension) -> node of its size."""
    stored: dict[tuple[str, tuple[int, ...]], fx.Node] = field(default_factory=dict)
    """(name, shape) of a constant -> its node."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Name of a parameter -> the constant that it was made from."""
    reads: Counter[str] = field(default_factory=Counter)
    """Constant -> how often a node of the file reads it as a parameter."""
    at: str = ""
    """Name of the node of the file that is being translated."""

    def placeholder(self, name: str, examples: tuple[Tensor, Tensor]) -> fx.Node:
        """Add the input of the graph."""
        node = self.graph.placeholder(name)
        self.examples[node] = examples
        return node

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call of a function; its arguments may contain nodes at any depth."""
        node = self.graph.call_function(function, args, kwargs)
        return self._with_examples(node, function)

    def method(self, name: str, *args: Any) -> fx.Node:
        """Add a call of a method of the first argument."""
        node = self.graph.call_method(name, args)
        return self._with_examples(node, getattr(Tensor, name))

    def layer(self, module: nn.Module, x: fx.Node, stem: str) -> fx.Node:
        """Add a module that reads x; its name in the network is `stem` or begins with it."""
        name = self._free_name(stem)
        self.root.add_module(name, module)
        node = self.graph.call_module(name, (x,))
        meta = {k: v.to("meta") for k, v in module.state_dict().items()}
        return self._with_examples(node, lambda x: torch.func.functional_call(module, meta, (x,)))

    def tensor(self, value: Value, name: str, learned: bool = True) -> fx.Node:
        """The node of a value; a constant becomes a parameter or a buffer of the network.

        It becomes a parameter when the file stores it in float and it is `learned`, which the
        statistics of a normalisation are not.
        """
        if isinstance(value, fx.Node):
            return value
        key = name, value.shape
        self.reads[name] += learned
        if key not in self.stored:
            plain = value.tolist() if value.dtype == object and value.size else value
            content = torch.tensor(plain)  # int64, float32 or bool for numbers of a shape
            attribute = self._free_name(name)
            if learned and name in self.learned and content.is_floating_point():
                self.root.register_parameter(attribute, nn.Parameter(content))
                self.parameters[attribute] = name
            else:
                self.root.register_buffer(attribute, content)
            # Inserted at the beginning, it comes before all nodes that read it.
            with self.graph.inserting_after(next(iter(self.graph.nodes))):
                node = self.stored[key] = self.graph.get_attr(attribute)
            self.examples[node] = (content.to("meta"),) * 2
        return self.stored[key]

    def side(self, x: fx.Node, dim: int) -> Any:
        """Size of a dimension: an integer if it is the same for every image, else a node."""
        first, second = (int(e.shape[dim]) for e in self.examples[x])
        if first == second:
            return first
        dim %= self.rank(x)
        if (x, dim) not in self.sides:
            self.sides[x, dim] = self.method("size", x, dim)
        return self.sides[x, dim]

    def rank(self, x: Value) -> int:
        """Number of dimensions of a tensor."""
        return len(self.example(x).shape)

    def example(self, x: Value) -> Any:
        """The value for the first size of the image."""
        return self.examples[x][0] if isinstance(x, fx.Node) else x

    def seen(self, number: Any) -> tuple[Any, Any]:
        """The values of a number for both sizes of the image."""
        return self.examples[number] if isinstance(number, fx.Node) else (number, number)

    def _with_examples(self, node: fx.Node, function: Callable[..., Any]) -> fx.Node:
        """Run `function` on the examples of the node's arguments, and keep the results."""

        def at(index: int) -> Any:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.examples[n][index])
            with torch.device("meta"), torch.no_grad():
                return function(*args, **kwargs)

        self.examples[node] = at(0), at(1)
        node.meta[NODE] = self.at
        return node

    def _free_name(self, name: str) -> str:
        """A valid name, made from `name`, that no other part of the network has."""
        stem = "".join(c if c.isalnum() and c.isascii() else "_" for c in name).strip("_")
        stem = stem if stem and not stem[0].isdigit() else f"layer_{stem}"
        free, count = stem, 1
        while keyword.iskeyword(free) or free in RESERVED or hasattr(self.root, free):
            free, count = f"{stem}_{count}", count + 1
        return free


def numbers(value: Value | None) -> tuple[Any, ...]:
    """The elements of a shape or a constant, flattened; some may be nodes. Refuses a tensor."""
    if value is None:
        return ()
    if isinstance(value, fx.Node):
        raise refuse("sizes or settings that depend on the image's content")
    return tuple(value.ravel().tolist())


def fixed(value: Value | None) -> tuple[Any, ...]:
    """The elements as of `numbers`. Refuses those that depend on the image's size."""
    elements = numbers(value)
    if any(isinstance(n, fx.Node) for n in elements):
        raise refuse("settings that depend on the image's size")
    return elements


def shape(elements: Sequence[Any]) -> Array:
    """An array of objects, (n,), with these integers and nodes."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
