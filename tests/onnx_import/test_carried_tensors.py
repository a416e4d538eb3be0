"""Checks which tensors of imported networks are found to be carried in 8 bits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quantnas.onnx_import import carried_tensors
from quantnas.onnx_import.graph_builder import TENSOR


class Traced(nn.Module):
    """Convolutions around a function of tensors (N, 4, H, W)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.last = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        return self.function(self, x)


def carried(function):
    """Name of each node that has a grid -> what is known of it."""
    traced = torch.fx.symbolic_trace(Traced(function))
    for node in traced.graph.nodes:
        node.meta[TENSOR] = node.name
    layers = ("first", "second", "last")
    return {t.name: t for t in carried_tensors.carried(traced, layers)}


def test_one_reader_rounds_by_itself():
    assert not carried(lambda n, x: n.last(F.relu(n.first(x))) + x)["last"].pixels
    assert "relu" not in carried(lambda n, x: n.last(F.relu(n.first(x))))


def test_the_pixels_lie_on_the_grid_of_bytes():
    found = carried(lambda n, x: F.pixel_shuffle(n.last(n.first(x)), 2))
    assert {name: t.pixels for name, t in found.items()} == {"last": True}
    assert carried(lambda n, x: torch.clamp(n.last(x), 0, 1))["clamp"].pixels


def test_several_readers_share_a_grid_and_a_relu_makes_it_unsigned():
    found = carried(lambda n, x: n.second(y := F.relu(n.first(x))) + n.last(y))
    assert not found["relu"].signed and found["relu"].ceiling is None
    assert "first" not in found


def test_a_clip_from_zero_on_is_done_by_the_grid():
    found = carried(lambda n, x: n.second(y := torch.clamp(n.first(x), 0, 6)) + n.last(y))
    assert found["clamp"].ceiling == 6 and "first" not in found
    found = carried(lambda n, x: n.second(torch.clamp(n.first(x), -1, 6)))
    assert found["first"].ceiling is None


def test_sums_before_a_convolution_are_in_integers_and_those_of_pixels_are_not():
    found = carried(lambda n, x: n.last(F.relu(n.second(y := n.first(x)) + y)) + x)
    assert found.keys() == {"first", "second", "last"}
    found = carried(lambda n, x: n.last(z := (n.second(y := n.first(x)) + y)) * z)
    assert {"add", "second", "first"} <= found.keys()


def test_moved_values_stay_on_their_grid():
    found = carried(lambda n, x: n.second(F.max_pool2d(n.first(x), 2)))
    assert found.keys() == {"first", "second"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * (1 + torch.erf(x / 2)) * 0.5,
        lambda x: x * 0.5 * (1 + torch.tanh(0.8 * (x + 0.04 * x**3))),
        lambda x: x * torch.tanh(x),
    ],
)
def test_a_written_function_of_one_tensor_has_no_grids_inside(function):
    found = carried(lambda n, x: n.second(function(n.first(x))))
    assert found.keys() == {"first", "second"}


def test_a_product_with_a_sigmoid_is_in_integers():
    found = carried(lambda n, x: n.second((y := n.first(x)) * torch.sigmoid(y)))
    assert found.keys() == {"first", "sigmoid", "second"}


def test_deep_networks_and_long_sums_take_no_time():
    def deep(n, x):
        y = n.first(x)
        for _ in range(600):
            y = y + torch.tanh(n.second(y))
        for _ in range(200):
            y = y + y
        return n.last(y)

    assert len(carried(deep)) > 1000


def test_only_means_over_images_are_in_integers():
    def mean(*how, **more):
        return carried(lambda n, x: n.second(torch.tanh(torch.mean(n.first(x), *how, **more))))

    assert "mean" in mean((2, 3), keepdim=True)
    assert "mean" not in mean((1,), keepdim=True)


def test_constants_and_sizes_have_no_grid():
    found = carried(lambda n, x: n.second(n.first(x) * 0.5 + torch.ones(1, 4, 1, 1)))
    assert found.keys() == {"first", "mul", "second"}  # a product with a number is in integers
