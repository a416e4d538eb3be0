"""Checks the shape, the gradient and the cost of every operation."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from quantnas.architectures import cost
from quantnas.config.search_space import Precision, Slot
from quantnas.nas.relaxations import RELAXATIONS
from quantnas.nas.search_conv import Mix, SearchConv2d
from quantnas.nn import operations
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer

PUBLISHED = {  # millions of multiply-accumulates at 32x32: 48 -> 48, 48 -> 24 (arXiv 2208.14839)
    "conv1x1": (2.36, 1.18),
    "conv3x3": (21.2, 10.6),
    "conv5x5": (59.0, 29.5),
    "growth1x1": (4.72, 3.54),
    "growth3x3": (42.5, 31.9),
    "growth5x5": (118, 88.5),
    "conv1x1_groups2": (1.18, 0.59),
    "conv3x3_groups2": (10.6, 5.31),
    "conv5x5_groups2": (29.5, 14.7),
}
WORK = {  # per pixel, from 12 channels over 18 to 6
    "conv1x1": 12 * 6,
    "conv3x3": 12 * 6 * 9,
    "conv5x5": 12 * 6 * 25,
    "conv1x1_groups2": 12 * 6 / 2,
    "conv3x3_groups2": 12 * 6 * 9 / 2,
    "conv5x5_groups2": 12 * 6 * 25 / 2,
    "conv3x3_groups3": 12 * 6 * 9 / 3,
    "conv5x5_groups3": 12 * 6 * 25 / 3,
    "growth1x1": 12 * 18 + 18 * 6,
    "growth3x3": (12 * 18 + 18 * 6) * 9,
    "growth5x5": (12 * 18 + 18 * 6) * 25,
    "factorised3x3": (12 * 18 + 18 * 6) * 3,
    "factorised5x5": (12 * 18 + 18 * 6) * 5,
    "separable3x3": 12 * 9 + 12 * 6,
    "separable5x5": 12 * 25 + 12 * 6,
    "transposed9x9": 12 * 6 * 81,
}


def slot_of(name: str, c_in: int = 12, c_mid: int = 18, c_out: int = 6, **more: object) -> Slot:
    up = 2 if name.startswith("transposed") else 1
    widths = (Precision(4, 4), Precision(8, 8))
    return Slot("e", c_in, c_mid, c_out * up**2, (name,), widths, **{"up": up, **more})


def counted(op: nn.Module, x: torch.Tensor) -> int:
    """Multiply-accumulates per pixel, counted on the actual outputs of the convolutions."""
    counts = []

    def hook(conv: Conv2d, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        per_output = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
        counts.append(out[0].numel() * per_output // conv.up**2)

    hooks = [m.register_forward_hook(hook) for m in op.modules() if isinstance(m, nn.Conv2d)]
    op(x)
    for h in hooks:
        h.remove()
    return sum(counts) // (x.shape[2] * x.shape[3])


def test_every_operation_is_checked_here():
    assert {*WORK, "identity"} == set(operations.OPS)


@pytest.mark.parametrize("name", WORK)
def test_an_operation_keeps_the_size_learns_and_costs_what_is_counted(name):
    slot = slot_of(name)
    op = operations.build(name, Conv2d, slot)
    x = torch.rand(2, 12, 7, 5, requires_grad=True)
    y = op(x)
    assert y.shape == (2, slot.c_out, 7, 5)
    y.square().sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in (x, *op.parameters()))
    assert counted(op, x) == cost.weights(name, slot) == WORK[name]


def test_the_identity_hands_its_input_on_for_nothing():
    slot = slot_of("identity", c_out=12)
    x = torch.rand(2, 12, 7, 5)
    assert torch.equal(operations.build("identity", Conv2d, slot)(x), x)
    assert operations.shapes("identity", slot) == () and cost.weights("identity", slot) == 0


@pytest.mark.parametrize("name", operations.OPS)
def test_the_shapes_are_those_of_the_real_kernels(name):
    slot = slot_of(name, c_out=12)
    convs = [m for m in operations.build(name, Conv2d, slot) if isinstance(m, Conv2d)]
    assert operations.shapes(name, slot) == tuple(tuple(c.weight.shape) for c in convs)


@pytest.mark.parametrize("relaxation", ["noise", "direct", "authors"])
@pytest.mark.parametrize("name", WORK)
def test_an_operation_takes_every_kind_of_convolution(name, relaxation):
    slot, source, x = slot_of(name), ActQuantizer(8), torch.rand(1, 12, 5, 6)
    rounded = partial(QuantConv2d, precision=Precision(4, 4), source=source)
    assert operations.build(name, rounded, slot)(x).shape == (1, slot.c_out, 5, 6)
    relaxed = {"slot": slot, "source": source, "relaxation": RELAXATIONS[relaxation]}
    op = operations.build(name, partial(SearchConv2d, **relaxed), slot)
    half = torch.tensor([0.5, 0.5])
    mix = Mix(half, half, torch.tensor(0.3))
    assert op(x, [ActQuantizer(4), source], mix).shape == (1, slot.c_out, 5, 6)
    inner = [m.inner for m in op.modules() if isinstance(m, SearchConv2d)]
    assert inner == [False, True][: len(inner)]


@pytest.mark.parametrize("name", [n for n in WORK if len(operations.shapes(n, slot_of(n))) == 2])
def test_there_is_a_relu_between_two_convolutions(name):
    op = operations.build(name, Conv2d, slot_of(name))
    with torch.no_grad():
        op[0].bias.fill_(-1e6)
        out = op(torch.rand(1, 12, 5, 6))
    assert torch.equal(out, op[2].bias[:, None, None].expand(6, 5, 6)[None])


def test_a_strided_operation_leaves_the_edges_out():
    op = operations.build("conv3x3", Conv2d, slot_of("conv3x3", stride=2))
    assert op(torch.rand(1, 12, 8, 5)).shape == (1, 6, 3, 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_work_agrees_with_the_published_table(name):
    for c_out, published in zip((48, 24), PUBLISHED[name], strict=True):
        macs = cost.weights(name, slot_of(name, 48, 48, c_out)) * 32 * 32
        assert macs / 1e6 == pytest.approx(published, rel=0.005)


def test_an_unknown_operation_is_a_key_error():
    with pytest.raises(KeyError, match="conv7x7"):
        operations.build("conv7x7", Conv2d, slot_of("conv7x7"))


@pytest.mark.parametrize(("c_in", "c_out"), [(7, 6), (6, 7)])
@pytest.mark.parametrize("name", [*(n for n in operations.OPS if "groups" in n), "identity"])
def test_channels_that_cannot_be_joined_are_a_value_error(name, c_in, c_out):
    for build in (partial(operations.build, name, Conv2d), partial(operations.shapes, name)):
        with pytest.raises(ValueError):
            build(slot_of(name, c_in, 4, c_out))


@pytest.mark.parametrize(("kernel", "found"), [(3, (3, 3)), ((5, 1), (5, 1))])
def test_the_sides_of_a_kernel_are_height_and_width(kernel, found):
    assert operations.sides(kernel) == found
    weight = Conv2d(2, 4, kernel).weight
    assert weight.shape[2:] == found and math.prod(found) * 8 == weight.numel()
