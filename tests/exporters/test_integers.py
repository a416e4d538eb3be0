"""Checks that a frozen network equals integer arithmetic with int32 sums, written independently.

Both run in float64, where they can differ by 1e-13 or by a whole level of a grid: if one value of
any tensor were rounded differently, it would show.
"""

import dataclasses
import itertools
import random
from functools import partial
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures import network, registry
from quantnas.architectures.registry import SKELETONS
from quantnas.config import search_space
from quantnas.config.genotype import searched_precision, uniform_precision
from quantnas.config.search_space import Precision
from quantnas.nn.convolutions import QuantConv2d, padding
from quantnas.nn.quantizers import ActQuantizer, FloatTensor
from quantnas.quantization import post_training

BITS = (2, 3, 4, 8)
PAIRS = [(2, 2), (2, 8), (3, 3), (4, 2), (4, 4), (8, 3), (8, 8)]
SPACES = ["basic", "edsr_baseline", "espcn", "fsrcnn", "imdn", "plain", "quicksrnet_small"]
SPACES += ["rfdn", "rfdn48", "rfdn_small", "sesr_m5"]


def input_integers(conv: QuantConv2d, x: Tensor) -> Tensor:
    """Convert x to units of the grid that a convolution reads, int32.

    x must lie on a grid already, unless it is carried in float. A channel with an octave has its
    own unit.
    """
    grid, source = conv.grid, conv._source[0]
    if not (conv.inner or isinstance(source, FloatTensor)):
        units = x / source.step
        torch.testing.assert_close(units, units.round(), rtol=0, atol=1e-8)
    octaves = torch.zeros(conv.in_channels) if grid.octaves is None else grid.octaves
    q = (x / (grid.step * 2.0 ** octaves[:, None, None])).round()
    zero, most = grid.zero_point, 2**grid.bits - 1
    assert 0 <= zero <= most and (grid.signed or zero == 0)
    stored = q + zero
    if conv.input_quantizer is not None:
        stored = stored.clamp(0, most)
    assert stored.min() >= 0 and stored.max() <= most
    return (stored - zero).int()


def weight_integers(conv: QuantConv2d) -> Tensor:
    """The dense kernel minus its zero points, int32."""
    weights = conv.weight_quantizer
    q, zero = conv.integers()
    least, most = (-127, 127) if weights.bits == 8 else (0, 2**weights.bits - 1)
    assert q.min() >= least and q.max() <= most
    assert zero.min() >= 0 and zero.max() <= most and (weights.bits < 8 or not zero.any())
    return conv.dense((q - zero).double()).int()


def bias_integers(conv: QuantConv2d, unit: Tensor) -> Tensor:
    units = (conv.bias / unit).round()
    assert units.abs().max() < 2**31
    return conv.repeated(units.int())


def accumulated(q: Tensor, kernel: Tensor, bias: Tensor, conv: QuantConv2d) -> Tensor:
    """Sums of products of padded windows and a kernel, int32 (N, c_out, H, W)."""
    stride, groups, (height, width) = conv.stride[0], conv.groups, kernel.shape[2:]
    above, left = padding(kernel, stride)
    q = F.pad(q, (left, left, above, above))
    windows = q.unfold(2, height, stride).unfold(3, width, stride)
    n, _, rows, columns = windows.shape[:4]
    windows = windows.permute(1, 4, 5, 0, 2, 3).reshape(groups, -1, n * rows * columns)
    sums = kernel.reshape(groups, len(kernel) // groups, -1) @ windows
    assert sums.dtype == torch.int32
    sums = sums.view(len(kernel), n, rows, columns).transpose(0, 1)
    return sums + bias[:, None, None]


def require_room(kernel: Tensor, bias: Tensor, grid: ActQuantizer) -> None:
    """Require that no input can make a sum overflow int32."""
    zero = grid.zero_point
    most = max(zero, 2**grid.bits - 1 - zero) * kernel.long().abs().flatten(1).sum(1)
    assert (most + bias.long().abs()).max() < 2**31


def integer_forward(conv: QuantConv2d, seen: list[int], x: Tensor) -> Tensor:
    """Output of `conv` for x, computed in integers alone; `seen` collects the number of sums."""
    q, kernel = input_integers(conv, x), weight_integers(conv)
    unit = conv.grid.step * conv.weight_quantizer.step.flatten()
    bias = bias_integers(conv, unit)
    require_room(kernel, bias, conv.grid)
    sums = accumulated(q, kernel, bias, conv)
    seen.append(len(sums.unique()))
    return sums.double() * conv.repeated(unit)[:, None, None]


@torch.no_grad()
def traced(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Name of every convolution and grid -> its output; "" is the output of the network."""
    found: dict[str, Tensor] = {}

    def keep(name: str, m: nn.Module, args: object, out: Tensor) -> None:
        found[name] = out

    hooks = [
        m.register_forward_hook(partial(keep, name))
        for name, m in net.named_modules()
        if m is net or isinstance(m, QuantConv2d | ActQuantizer)
    ]
    net(low)
    for hook in hooks:
        hook.remove()
    return found


def both_routes(net: nn.Module, low: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of a frozen network in float64: (with fake quantization, with integers)."""
    wanted, seen = traced(net, low), list[int]()
    for conv in network.convolutions(net).values():
        assert isinstance(conv, QuantConv2d) and conv.weight.dtype == torch.float64
        conv.forward = partial(integer_forward, conv, seen)  # type: ignore[method-assign]
    found = traced(net, low)
    assert len(seen) == len(network.convolutions(net)) and median(seen) > 10
    return wanted, found


@pytest.fixture
def frozen(random_genotype, pixels):
    """Function (space, bits or None = as searched, seed) -> a frozen network in float64.

    Steps, zero points, weights, biases and octaves are changed after fitting, so that values are
    clipped and zero points differ from channel to channel.
    """

    def build(space, bits: tuple[int, int] | None, seed: int = 0) -> nn.Module:
        genotype = random_genotype(space, seed)
        precision = searched_precision(genotype)
        if bits is not None:
            precision = uniform_precision(registry.slots(space), *bits)
        net = network.build(space, genotype, precision)
        network.initialise(net, pixels(2, 17, 20))
        with torch.no_grad():
            for name, p in net.named_parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p) * (0.6 if name.endswith("zero") else 0.03))
            for name, octaves in net.named_parameters():
                if name.endswith("octaves"):
                    octaves.add_(torch.randint_like(octaves, -2, 2))
        return post_training.freeze(net.double())

    return build


def require_equal(net: nn.Module, low: Tensor) -> None:
    wanted, found = both_routes(net, low)
    left_out = wanted.keys() - found.keys()  # grids inside of convolutions
    assert all(name.endswith(".input_quantizer") for name in left_out) and "" in found
    for name, values in found.items():
        assert (values - wanted[name]).abs().max() < 1e-9, name
    assert wanted[""].std() > 2 / 255


def test_the_spaces_below_have_every_skeleton():
    assert {search_space.load(name).skeleton for name in SPACES} == {*SKELETONS} - {
        "onnx"
    }  # test_surgery.py


@pytest.mark.parametrize("bits", [None, *itertools.product(BITS, BITS)])
def test_a_frozen_network_is_integer_arithmetic(tiny, frozen, pixels, bits):
    require_equal(frozen(tiny, bits), pixels(2, 7, 10, 3).double())


@pytest.mark.parametrize("seed", range(6))
def test_it_is_with_widths_that_were_searched_apart(apart, frozen, pixels, seed):
    require_equal(frozen(apart, None, seed), pixels(2, 7, 10, 3).double())


@pytest.mark.parametrize("bits", PAIRS)
@pytest.mark.parametrize("name", SPACES)
def test_it_is_in_every_macro_architecture(frozen, pixels, name, bits):
    space = dataclasses.replace(search_space.load(name, 2), channels=12, cells=1)
    require_equal(frozen(space, bits), pixels(1, 17, 20, 3).double())


def test_one_unit_of_one_weight_would_be_seen(tiny, frozen, pixels, monkeypatch):
    true = weight_integers

    def wrong(conv: QuantConv2d) -> Tensor:
        q = true(conv)
        q.view(-1)[0] += 1
        return q

    monkeypatch.setitem(globals(), "weight_integers", wrong)
    with pytest.raises(AssertionError, match=r"head\.0"):
        require_equal(frozen(tiny, (4, 4)), pixels(2, 7, 10, 3).double())


# A convolution alone


def drawn(rng: random.Random) -> tuple[QuantConv2d, Tensor]:
    """A frozen convolution of any form, and an input that is carried in 8 bits or in float."""
    groups, up = rng.choice([1, 1, 2, 3]), rng.choice([1, 1, 1, 2, 3])
    c_in, c_out = groups * rng.randint(1, 3), groups * rng.randint(1, 3) * up**2
    sides = [1, 3, 5] if up > 1 else [1, 3, 5, (1, 3), (5, 1)]
    kernel, stride = rng.choice(sides), rng.choice([1, 2]) if up == 1 else 1
    precision = Precision(rng.choice(BITS), rng.choice(BITS))
    source = ActQuantizer(8, rng.choice([False, True])).double()
    if rng.random() < 0.3:
        source = FloatTensor(32, rng.choice([False, True]))
    form = (c_in, c_out, kernel, groups, stride, rng.random() < 0.3, up if groups == 1 else 1)
    conv = QuantConv2d(*form, precision=precision, source=source).double()
    x = torch.randn(2, c_in, rng.randint(5, 8), rng.randint(5, 8), dtype=torch.float64)
    source.calibrate(x)
    if conv.input_quantizer is not None:
        x *= torch.logspace(0, -2, c_in)[:, None, None]
        conv.spread(x)
        conv.input_quantizer.calibrate(x)
    with torch.no_grad():
        conv.weight[0] = conv.weight[0].abs()  # its zero point is 0
        conv.weight[-1] = 0
        factors = conv.factors()
        seen = conv.weight if factors is None else conv.weight * factors
        conv.weight_quantizer.calibrate(seen.float())
    conv.name = "it"
    holder = post_training.freeze(nn.ModuleDict({"source": source, "conv": conv}))
    with torch.no_grad():
        return holder["conv"], holder["source"](x)


@pytest.mark.parametrize("seed", range(60))
def test_a_convolution_of_any_form_is_integer_arithmetic(seed):
    conv, x = drawn(random.Random(seed))
    with torch.no_grad():
        wanted, found = conv(x), integer_forward(conv, [], x)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
