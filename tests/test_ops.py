"""Checks every operation: shape, gradient and the work that it does."""

from functools import partial

import pytest
import torch
from torch import nn

from quantnas import cost, ops
from quantnas.conv import Conv2d, QuantConv2d, SearchConv2d
from quantnas.errors import UsageError
from quantnas.genotype import Precision
from quantnas.quantizer import ActQuantizer
from quantnas.space import Slot

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


def counted(op: nn.Module, x: torch.Tensor) -> int:
    """Multiply-accumulates per pixel, from what the convolutions really put out."""
    found = []

    def hook(conv: nn.Conv2d, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        per_output = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
        found.append(out[0].numel() * per_output)

    hooks = [m.register_forward_hook(hook) for m in op.modules() if isinstance(m, nn.Conv2d)]
    op(x)
    for h in hooks:
        h.remove()
    return sum(found) // (x.shape[2] * x.shape[3])


@pytest.mark.parametrize("name", ops.OPS)
def test_an_operation_keeps_the_size_learns_and_costs_what_is_counted(name):
    slot = Slot("e", 8, 6, 4, (name,), (8,))
    op = ops.build(name, Conv2d, slot)
    x = torch.rand(2, 8, 7, 5, requires_grad=True)
    y = op(x)
    assert y.shape == (2, 4, 7, 5)
    y.square().sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in (x, *op.parameters()))
    assert counted(op, x) == cost.macs(name, slot)


@pytest.mark.parametrize("name", ops.OPS)
def test_an_operation_takes_every_kind_of_convolution(name):
    slot, source, x = Slot("e", 4, 6, 8, (name,), (4, 8)), ActQuantizer(8), torch.rand(1, 4, 5, 6)
    rounded = partial(QuantConv2d, precision=Precision(4, 4), source=source)
    assert ops.build(name, rounded, slot)(x).shape == (1, 8, 5, 6)
    op = ops.build(name, partial(SearchConv2d, bits=(4, 8)), slot)
    mix = torch.tensor([0.5, 0.5])
    assert op(x, [ActQuantizer(4), source], mix).shape == (1, 8, 5, 6)
    inner = [m.inner for m in op.modules() if isinstance(m, SearchConv2d)]
    assert inner == [False, True][: len(inner)]


@pytest.mark.parametrize("name", ops.OPS)
def test_work_agrees_with_the_published_table(name):
    for c_out, published in zip((48, 24), PUBLISHED[name], strict=True):
        macs = cost.macs(name, Slot("e", 48, 48, c_out, (name,), (8,))) * 32 * 32
        assert macs / 1e6 == pytest.approx(published, rel=0.005)


def test_the_published_operations_are_all_there():
    assert set(ops.OPS) == set(PUBLISHED)


def test_an_unknown_operation_names_the_edge_and_the_known_ones():
    slot = Slot("cell7_body1", 8, 8, 8, ("conv7x7",), (8,))
    with pytest.raises(UsageError, match=r"'cell7_body1'.*'conv7x7'") as caught:
        ops.build("conv7x7", Conv2d, slot)
    assert all(name in caught.value.remedy for name in ops.OPS)


@pytest.mark.parametrize(("c_in", "c_out"), [(3, 4), (4, 3)])
@pytest.mark.parametrize("name", [n for n in ops.OPS if "groups2" in n])
def test_channels_that_cannot_be_grouped_name_the_edge(name, c_in, c_out):
    with pytest.raises(UsageError, match=f"'cell7_body1' cannot be {name}"):
        ops.build(name, Conv2d, Slot("cell7_body1", c_in, c_in, c_out, (name,), (8,)))
