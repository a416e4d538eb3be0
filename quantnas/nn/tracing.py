"""Traces of networks by torch.fx, and ways to walk through a trace node by node."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .quantizers import ActQuantizer

CALL = "call_module"
"""Value of `op` for nodes that call a module."""

RELUS = (torch.relu, F.relu)
"""Functions that compute a ReLU."""

Shape = tuple[int, ...]
T = TypeVar("T")


class Tracer(fx.Tracer):
    """A tracer for which convolutions and grids are single nodes; it traces all other modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | ActQuantizer)


def modules(network: nn.Module, traced: fx.Graph) -> dict[fx.Node, nn.Module]:
    """Node -> the module that it calls, for all nodes that call one."""
    return {n: network.get_submodule(str(n.target)) for n in traced.nodes if n.op == CALL}


def grid_ahead(
    node: fx.Node, modules: Mapping[fx.Node, nn.Module]
) -> tuple[ActQuantizer | None, bool]:
    """The only quantizer that reads a node's output, and whether a ReLU comes before it.

    The quantizer is a module of its own or the input quantizer of a convolution. The ReLU is the
    node itself or its only reader. The quantizer is None when several nodes read the output, or
    when its reader does not round it.
    """
    users, relu = list(node.users), node.target in RELUS
    if len(users) == 1 and users[0].target in RELUS:
        users, relu = list(users[0].users), True
    return only_grid(users, modules), relu


def only_grid(
    users: Sequence[fx.Node], modules: Mapping[fx.Node, nn.Module]
) -> ActQuantizer | None:
    """The quantizer of the only one of these nodes; None for several, or one that rounds nothing.

    It is a module of its own or the input quantizer of a convolution.
    """
    module = modules.get(users[0]) if len(users) == 1 else None
    grid = getattr(module, "input_quantizer", module)
    return grid if isinstance(grid, ActQuantizer) else None


def translate(
    traced: fx.Graph,
    modules: Mapping[fx.Node, nn.Module],
    image: T,
    of_module: Callable[[fx.Node, nn.Module, T], T],
    of_function: Callable[..., T],
) -> T:
    """Translate all nodes of a trace in order, and return the translation of the output.

    image: translation of the network's input. of_module: function of a node, its module and the
    translation of the module's input. of_function: function of a node that calls a function, and of
    the positional and keyword arguments, in which translations replace nodes.
    """
    translated: dict[fx.Node, Any] = {}
    for node in traced.nodes:
        args: Any = fx.node.map_arg(node.args, translated.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, translated.__getitem__)
        if node.op == "placeholder":
            translated[node] = image
        elif node in modules:
            translated[node] = of_module(node, modules[node], args[0])
        elif node.op == "output":
            translated[node] = args[0]
        else:
            translated[node] = of_function(node, *args, **kwargs)
    output: T = translated[node]
    return output


class Watched(fx.Interpreter):
    """An interpreter of a graph that calls `see` with every node and the tensor it computes."""

    def __init__(self, network: fx.GraphModule, see: Callable[[fx.Node, Tensor], None]) -> None:
        super().__init__(network)
        self.see = see

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.see(n, value)
        return value


@torch.no_grad()
def watch(network: fx.GraphModule, image: Tensor, see: Callable[[fx.Node, Tensor], None]) -> None:
    """Run a traced network on an image, and call `see` with every node and its tensor."""
    Watched(network, see).run(image)


def shapes(network: nn.Module, traced: fx.Graph, size: tuple[int, int]) -> dict[fx.Node, Shape]:
    """Node -> shape of its output for one image of `size`, (height, width)."""
    return shapes_for(fx.GraphModule(network, traced), torch.zeros(1, 3, *size))


def shapes_for(network: fx.GraphModule, image: Tensor) -> dict[fx.Node, Shape]:
    """Node -> shape of its output for an image."""
    node_shapes: dict[fx.Node, Shape] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        node_shapes[node] = tuple(value.shape)

    watch(network, image, see)
    return node_shapes
