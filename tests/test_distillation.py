"""Checks the LeakyReLU between its two grids."""

import pytest
import torch
import torch.nn.functional as F

from quantnas.conv import QuantConv2d
from quantnas.distillation import SLOPE, Leaky
from quantnas.quantizer import ActQuantizer, calibrating, levels
from quantnas.space import Precision


class Grids:
    """A filling that has grids alone."""

    def tensor(self, signed=False, step=None):
        return ActQuantizer(8, signed, step)


def fitted(x) -> Leaky:
    leaky = Leaky(Grids())
    with calibrating(leaky):
        leaky(x)
    return leaky


def test_small_negative_values_get_few_levels():
    x = torch.randn(1, 4, 30, 30)
    leaky = fitted(x)
    assert leaky.after.step < 0.7 * leaky.before.step
    wanted = F.leaky_relu(x, SLOPE)
    assert (leaky(x) - wanted).abs().mean() < leaky.before.step / 3
    assert (leaky(x) < 0).any()


@pytest.mark.parametrize("low", [0.2, 0.5, 1.0, 4 / 3, 2.0, 4.0])
@pytest.mark.parametrize("top", [0.3, 1.0])
def test_no_value_lies_half_way_between_two_levels(low, top):
    """There the last bit of a float would decide, and a file could not compute the same."""
    leaky = fitted(torch.linspace(-low * top, top, 501))
    with torch.no_grad():
        inner = F.leaky_relu(torch.arange(-128, 128) * leaky.before.step, SLOPE)
        t = (inner / leaky.after.step).double()
    inside = (t > leaky.after.lo - 1) & (t < leaky.after.hi + 1)
    assert ((t - t.floor() - 0.5).abs()[inside]).min() > 3e-5


@pytest.mark.parametrize(("bits", "ends"), [(8, (-16, 239)), (4, (-1, 14)), (3, (0, 7))])
def test_a_convolution_that_reads_fewer_bits_keeps_the_share_below_0(bits, ends):
    assert levels(bits, "leaky") == ends
    source, precision = ActQuantizer(8, "leaky"), Precision(8, bits)
    conv = QuantConv2d(2, 3, 3, precision=precision, source=source)
    assert (conv.grid.lo, conv.grid.hi) == ends and conv.grid.bits == bits
    inner = QuantConv2d(2, 3, 3, precision=precision, source=source, inner=True)
    assert inner.grid.lo == 0
