"""Checks roles of layers, proved signs, and shared kernels of imported networks."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quantnas.onnx_import import layer_roles


def traced(function: Callable[..., Tensor], **layers: nn.Module) -> fx.GraphModule:
    """The graph of a function of (network, image), where the network has these layers."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, layer in layers.items():
                self.add_module(name, layer)
            self.register_buffer("plus", torch.rand(1, 3, 1, 1))
            self.register_buffer("minus", -torch.rand(1, 3, 1, 1))
            self.learned = nn.Parameter(torch.rand(1, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return function(self, x)

    return fx.symbolic_trace(Net())


def names(nodes: set[fx.Node]) -> set[str]:
    return {str(node.target) for node in nodes}


# Signs


@pytest.mark.parametrize(
    ("function", "proved"),
    [
        (lambda n, x: F.relu(x) * -0.5, False),
        (lambda n, x: F.relu(x) * 0.5, True),
        (lambda n, x: F.relu(x) / 4, True),
        (lambda n, x: F.relu(x) / -4, False),
        (lambda n, x: F.relu(x) + 1, True),
        (lambda n, x: F.relu(x) - 1, False),
        (lambda n, x: F.relu(x) + -1, False),
        (lambda n, x: -F.relu(x), False),
        (lambda n, x: 1 - torch.sigmoid(x), False),
        (lambda n, x: torch.sigmoid(x) ** 3, True),
        (lambda n, x: (x - 1) ** 2, True),
        (lambda n, x: (x - 1) ** 3, False),
        (lambda n, x: F.relu(x) * n.plus, True),
        (lambda n, x: F.relu(x) * n.minus, False),
        (lambda n, x: F.relu(x) * n.learned, False),
        (lambda n, x: torch.clamp(x - 1, 0, 6), True),
        (lambda n, x: torch.clamp(x - 1, -1, 6), False),
        (lambda n, x: torch.clamp(F.relu(x), None, 6), True),
        (lambda n, x: torch.clamp(F.relu(x), None, -6), False),
        (lambda n, x: torch.maximum(x - 1, n.plus), True),
        (lambda n, x: torch.minimum(x, n.minus), False),
        (lambda n, x: torch.cat([x, F.relu(x)], 1), True),
        (lambda n, x: torch.cat([x, x - 1], 1), False),
        (lambda n, x: F.pixel_shuffle(F.relu(x), 2), True),
        (lambda n, x: F.interpolate(F.relu(x), scale_factor=2, mode="bilinear"), True),
        (lambda n, x: F.interpolate(F.relu(x), scale_factor=2, mode="bicubic"), False),
        (lambda n, x: F.pad(F.relu(x), (1, 1), value=-1), False),
        (lambda n, x: F.pad(F.relu(x), (1, 1)), True),
        (lambda n, x: n.conv(x), False),
        (lambda n, x: torch.abs(n.conv(x)), True),
        (lambda n, x: F.leaky_relu(n.conv(x), 0.1), False),
        (lambda n, x: (x - 1).expand(2, 3, 4, 4), False),
    ],
)
def test_a_sign_is_stated_only_where_the_graph_proves_it(function, proved):
    network = traced(function, conv=nn.Conv2d(3, 3, 1))
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    assert (output.args[0] in layer_roles.positive(network)) == proved


# Ends


def mean_shift(sign: float) -> nn.Conv2d:
    layer = nn.Conv2d(3, 3, 1)
    layer.weight.data = torch.eye(3)[:, :, None, None]
    layer.bias.data = sign * torch.tensor([0.4488, 0.4371, 0.4040])
    return layer


def conv(c_in: int = 4, c_out: int = 4) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1)


def test_the_ends_lie_behind_scalings_of_single_channels():
    def forward(n, x):
        y = n.tail(F.relu(n.body(n.head(n.sub(x / 255)))))
        return n.add(F.pixel_shuffle(y, 2)) * 255

    network = traced(
        forward,
        sub=mean_shift(-1), head=conv(3), body=conv(), tail=conv(4, 12), add=mean_shift(1),
    )  # fmt: skip
    readers, makers = layer_roles.ends(network)
    assert names(readers) == {"sub", "head"} and names(makers) == {"tail", "add"}


def test_a_mixture_of_colours_is_no_scaling():
    network = traced(lambda n, x: n.tail(n.mix(x)), mix=nn.Conv2d(3, 3, 1), tail=conv(3, 3))
    readers, makers = layer_roles.ends(network)
    assert names(readers) == {"mix"} and names(makers) == {"tail"}


def test_all_layers_that_read_the_image_or_make_the_pixels_are_ends():
    def forward(n, x):
        skip = F.interpolate(n.skip(x), scale_factor=2.0)
        y = n.head(x.clamp(0, 1))
        y = n.body(torch.cat([y, x], 1))
        return F.pixel_shuffle(n.tail(F.relu(y)), 2) + skip + F.interpolate(x, scale_factor=2.0)

    network = traced(forward, head=conv(3), skip=conv(3, 3), body=conv(7), tail=conv(4, 12))
    readers, makers = layer_roles.ends(network)
    assert names(readers) == {"head", "skip"} and names(makers) == {"tail", "skip"}


# Attention


def test_a_sigmoid_times_a_constant_is_no_attention():
    network = traced(lambda n, x: torch.sigmoid(n.b(F.relu(n.a(x)))) * 255, a=conv(3), b=conv(4, 3))
    assert not layer_roles.weighing(network)
    network = traced(lambda n, x: torch.sigmoid(n.a(x)) * n.plus, a=conv(3, 3))
    assert not layer_roles.weighing(network)


@pytest.mark.parametrize("twice", [False, True])
def test_what_weighs_another_tensor_is_attention(twice):
    def forward(n, x):
        y = n.a(x)
        weight = torch.sigmoid(n.c(F.relu(n.b(y.mean((2, 3), keepdim=True)))))
        return n.d(y * (2 * weight if twice else weight))

    network = traced(forward, a=conv(3), b=nn.Conv2d(4, 2, 1), c=nn.Conv2d(2, 4, 1), d=conv())
    assert {"b", "c"} <= names(layer_roles.weighing(network))
    assert not {"a", "d"} & names(layer_roles.weighing(network))


# Kernels


def test_layers_share_a_kernel_when_they_apply_the_same_one_in_the_same_way():
    a, b, wide = conv(), conv(), nn.Conv2d(4, 4, 3, padding=2, dilation=2)
    for layer in (b, wide):
        layer.weight = a.weight
    network = traced(lambda n, x: n.d(n.c(n.b(n.a(n.head(x))))), head=conv(3), a=a, b=b, c=wide,
                     d=conv())  # fmt: skip
    assert layer_roles.shared_kernels(network) == {"b": "a"}
