"""Checks the walks through a traced network: which functions are called, and in which order."""

import pytest
import torch
from torch import Tensor, fx, nn

from quantnas.nn import tracing
from quantnas.nn.quantizers import ActQuantizer


class Small(nn.Module):
    """A network of a convolution, a ReLU, a grid and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grid = nn.Conv2d(3, 3, 3, padding=1), ActQuantizer(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.grid(torch.relu(self.conv(x)))


@pytest.fixture
def small():
    net = Small().eval()
    traced = tracing.Tracer().trace(net)
    return net, traced, tracing.modules(net, traced)


def test_every_node_is_translated_from_what_its_inputs_became(small):
    _, traced, modules = small

    def of_module(node: fx.Node, module: nn.Module, x: str) -> str:
        return f"{type(module).__name__}({x})"

    def of_function(node: fx.Node, *args: str, **kwargs: str) -> str:
        return f"{node.target.__name__}({', '.join(args)})"

    output = tracing.translate(traced, modules, "lr", of_module, of_function)
    assert output == "add(lr, ActQuantizer(relu(Conv2d(lr))))"


def test_every_tensor_on_the_way_is_seen(small):
    net, traced, _ = small
    seen: dict[str, Tensor] = {}
    low = torch.rand(1, 3, 4, 5)
    tracing.watch(fx.GraphModule(net, traced), low, lambda node, x: seen.update({node.name: x}))
    assert list(seen) == [node.name for node in traced.nodes]
    assert torch.equal(seen["conv"], net.conv(low)) and not seen["conv"].requires_grad
    assert torch.equal(seen["output"], net(low))
    shapes = tracing.shapes(net, traced, (4, 5))
    assert {*shapes} == {*traced.nodes} and {*shapes.values()} == {(1, 3, 4, 5)}


def test_the_grid_ahead_is_found_behind_a_relu(small):
    net, traced, modules = small
    nodes = {node.name: node for node in traced.nodes}
    assert tracing.grid_ahead(nodes["conv"], modules) == (net.grid, True)
    assert tracing.grid_ahead(nodes["relu"], modules) == (net.grid, True)
    assert tracing.grid_ahead(nodes["x"], modules) == (None, False), "two nodes read it"
    assert tracing.grid_ahead(nodes["grid"], modules) == (None, False), "a sum reads it"
