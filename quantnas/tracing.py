"""The wiring of a network as torch.fx sees it, for those that walk through it node by node."""

import torch
from torch import fx, nn

from .quantizer import ActQuantizer

CALL = "call_module"
"""A node of a trace that stands for a module."""


Shape = tuple[int, ...]


class Tracer(fx.Tracer):
    """Convolutions and grids are one node each; it looks into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | ActQuantizer)


def modules(network: nn.Module, traced: fx.Graph) -> dict[fx.Node, nn.Module]:
    """Node -> the module that it stands for, of those that stand for one."""
    return {n: network.get_submodule(str(n.target)) for n in traced.nodes if n.op == CALL}


@torch.no_grad()
def shapes(network: nn.Module, traced: fx.Graph, size: tuple[int, int]) -> dict[fx.Node, Shape]:
    """Node -> the shape of what it gives for an image of that (height, width)."""
    run = fx.Interpreter(fx.GraphModule(network, traced), garbage_collect_values=False)
    run.run(torch.zeros(1, 3, *size))
    return {node: tuple(value.shape) for node, value in run.env.items()}
