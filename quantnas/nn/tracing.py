"""The wiring of a network as torch.fx sees it, and the ways to walk through it node by node."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .quantizers import ActQuantizer

CALL = "call_module"
"""A node of a trace that stands for a module."""

RELUS = (torch.relu, F.relu)
"""Functions of a trace that are a ReLU."""

Shape = tuple[int, ...]
T = TypeVar("T")


class Tracer(fx.Tracer):
    """Convolutions and grids are one node each; it looks into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | ActQuantizer)


def modules(network: nn.Module, traced: fx.Graph) -> dict[fx.Node, nn.Module]:
    """Node -> the module that it stands for, of those that stand for one."""
    return {n: network.get_submodule(str(n.target)) for n in traced.nodes if n.op == CALL}


def grid_ahead(
    node: fx.Node, modules: Mapping[fx.Node, nn.Module]
) -> tuple[ActQuantizer | None, bool]:
    """The grid that alone reads what a node gives, and whether a ReLU lies in front of it.

    It stands by itself or belongs to a convolution; the ReLU is the node or the only one that reads
    it. There is no grid where several nodes read the tensor, or one that does not round it.
    """
    users, relu = list(node.users), node.target in RELUS
    if len(users) == 1 and users[0].target in RELUS:
        users, relu = list(users[0].users), True
    module = modules.get(users[0]) if len(users) == 1 else None
    grid = getattr(module, "input_quantizer", module)
    return (grid, relu) if isinstance(grid, ActQuantizer) else (None, relu)


def translate(
    traced: fx.Graph,
    modules: Mapping[fx.Node, nn.Module],
    image: T,
    of_module: Callable[[fx.Node, nn.Module, T], T],
    of_function: Callable[..., T],
) -> T:
    """What the output of a network becomes when all nodes of its trace are translated in order.

    image: what its input becomes. of_module: called with a node, its module and what the input of
    the module has become. of_function: called with the node of a function, and with its positional
    and keyword arguments, in which every node is replaced by what it has become.
    """
    became: dict[fx.Node, Any] = {}
    for node in traced.nodes:
        args: Any = fx.node.map_arg(node.args, became.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, became.__getitem__)
        if node.op == "placeholder":
            became[node] = image
        elif node in modules:
            became[node] = of_module(node, modules[node], args[0])
        elif node.op == "output":
            became[node] = args[0]
        else:
            became[node] = of_function(node, *args, **kwargs)
    found: T = became[node]
    return found


class _Watched(fx.Interpreter):
    """Runs a graph, and gives every tensor on the way to `see`, with its node."""

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
    """Run a traced network on an image, and call `see` with every node that gives a tensor."""
    _Watched(network, see).run(image)


def shapes(network: nn.Module, traced: fx.Graph, size: tuple[int, int]) -> dict[fx.Node, Shape]:
    """Node -> the shape of what it gives for an image of that (height, width)."""
    found: dict[fx.Node, Shape] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        found[node] = tuple(value.shape)

    watch(fx.GraphModule(network, traced), torch.zeros(1, 3, *size), see)
    return found
