"""Checks search noise, merged kernels and rounded convolutions against plain arithmetic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quantnas import conv, ops
from quantnas.conv import QuantConv2d, SearchConv2d, blur, embed
from quantnas.genotype import Precision
from quantnas.quantizer import ActQuantizer, WeightQuantizer
from quantnas.space import Slot
from quantnas.supernet import MixedOp

SINGLE = ("conv1x1", "conv3x3", "conv5x5", "conv3x3_groups2", "conv5x5_groups2")
GROWTH = ("growth1x1", "growth3x3")


def grids(*steps: float, bits: tuple[int, ...] = (4, 8)) -> list[ActQuantizer]:
    return [ActQuantizer(b, step=s) for b, s in zip(bits, steps, strict=True)]


def noiseless(monkeypatch) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda t: torch.full_like(t, 0.5))


# Noise


@pytest.mark.parametrize("mix", [(1.0, 0.0), (0.3, 0.7), (0.5, 0.5), (0.0, 1.0)])
def test_noise_has_the_variance_of_the_mixtures_rounding_error(mix):
    steps = (1 / 15, 1 / 100)
    t = torch.rand(200_000) * 14 / 15  # whole steps of the wide grid
    noise = blur(t, grids(*steps), torch.tensor(mix), training=True) - t
    rng = np.random.default_rng(1)
    step = np.where(rng.random(len(t)) < mix[0], *steps)
    data = t.double().numpy()
    error = np.round(data / step) * step - data
    assert noise.var().item() == pytest.approx(error.var(), rel=0.03)
    assert abs(noise.mean().item()) < 5 * error.std() / np.sqrt(len(t))


def test_noise_of_a_kernel_follows_the_steps_of_its_channels():
    grid = WeightQuantizer(4, 3)
    grid.log2_step.data.copy_(torch.tensor([-3.0, -5.0, -8.0]).view(3, 1, 1, 1))
    kernel = torch.rand(3, 5000, 1, 1) * 0.02
    noise = blur(kernel, [grid], torch.ones(1), training=True) - kernel
    expected = torch.tensor([2.0**-3, 2.0**-5, 2.0**-8]).square() / 12
    torch.testing.assert_close(noise.flatten(1).var(1), expected, rtol=0.08, atol=0)
    assert (noise.flatten(1).abs().amax(1) <= torch.tensor([2.0**-4, 2.0**-6, 2.0**-9])).all()


def test_noise_is_new_in_every_pass_and_for_every_element():
    t, mix = torch.full((100,), 0.3), torch.tensor([0.5, 0.5])
    first, second = (blur(t, grids(0.05, 0.01), mix, True) for _ in range(2))
    assert len(first.unique()) > 90 and not torch.equal(first, second)


def test_the_gradient_passes_inside_the_range_and_stops_outside():
    t = torch.tensor([-0.5, 0.2, 0.9, 1.5, 3.0], requires_grad=True)
    quantizers = grids(0.1, 0.01, bits=(4, 8))  # ranges 1.5 and 2.55, their mean 2.025
    blur(t, quantizers, torch.tensor([0.5, 0.5]), training=True).sum().backward()
    assert t.grad.tolist() == [0, 1, 1, 1, 0]


def test_values_are_clipped_to_the_mean_range(monkeypatch):
    noiseless(monkeypatch)
    t = torch.tensor([-1.0, 1.9, 9.0])
    found = blur(t, grids(0.1, 0.01), torch.tensor([0.5, 0.5]), training=True)
    assert found.tolist() == pytest.approx([0.0, 1.9, 0.5 * 1.5 + 0.5 * 2.55])


def test_the_gradient_to_the_mixture_is_that_of_the_noise(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", lambda t: torch.full_like(t, 0.75))
    steps = (0.06, 0.01)
    mix = torch.tensor([0.3, 0.7], requires_grad=True)
    blur(torch.full((10,), 0.4), grids(*steps), mix, training=True).sum().backward()
    deviation = np.sqrt(0.3 * steps[0] ** 2 + 0.7 * steps[1] ** 2)
    expected = [10 * 0.25 * s**2 / (2 * deviation) for s in steps]
    assert mix.grad.tolist() == pytest.approx(expected, rel=1e-4)


def test_evaluating_mixes_the_roundings():
    t = torch.rand(50) * 2
    found = blur(t, grids(0.06, 0.01), torch.tensor([0.3, 0.7]), training=False)
    narrow = (t / 0.06).round().clamp(0, 15) * 0.06
    wide = (t / 0.01).round().clamp(0, 255) * 0.01
    torch.testing.assert_close(found, 0.3 * narrow + 0.7 * wide)


# Merging


@pytest.mark.parametrize(
    ("kernel", "size", "groups"), [(1, 1, 1), (1, 5, 2), (3, 5, 1), (3, 3, 2), (3, 5, 4), (5, 5, 2)]
)
def test_an_embedded_kernel_computes_the_grouped_convolution(kernel, size, groups):
    c_in, c_out = 8, 12
    weight = torch.randn(c_out, c_in // groups, kernel, kernel, dtype=torch.float64)
    x = torch.randn(2, c_in, 6, 5, dtype=torch.float64)
    dense = embed(weight, size, groups)
    assert dense.shape == (c_out, c_in, size, size)
    wanted = F.conv2d(x, weight, padding=kernel // 2, groups=groups)
    torch.testing.assert_close(F.conv2d(x, dense, padding=size // 2), wanted)


@pytest.mark.parametrize("names", [SINGLE, SINGLE + GROWTH, GROWTH, ("conv3x3",)])
@pytest.mark.parametrize("training", [False, True])
def test_a_merged_edge_computes_the_weighted_sum_of_its_candidates(monkeypatch, names, training):
    noiseless(monkeypatch)
    source = ActQuantizer(8)
    edge = MixedOp(Slot("e", 8, 6, 4, names, (2, 4, 8)), source).double().train(training)
    with torch.no_grad():
        for p in edge.parameters():
            if not p.requires_grad or p is edge.log_gain or p.dim() == 1:
                p.normal_()
        for q in edge.modules():
            if isinstance(q, ActQuantizer | WeightQuantizer):
                q.log2_step.add_(torch.rand_like(q.log2_step))
    x = source.double()(torch.rand(2, 8, 6, 5, dtype=torch.float64) * 3)
    p, mix = F.softmax(edge.alpha_op, 0), F.softmax(edge.alpha_bits, 0)
    inputs = edge.inputs()
    seen = blur(x, inputs, mix, training)
    wanted = sum(
        weight * op(seen, inputs, mix) for weight, op in zip(p, edge.ops.values(), strict=True)
    )
    wanted = wanted * edge.log_gain.exp()[:, None, None]
    torch.testing.assert_close(edge(x), wanted, rtol=1e-10, atol=1e-12)


def test_the_widths_of_an_edge_round_its_input(monkeypatch):
    source = ActQuantizer(8)
    edge = MixedOp(Slot("e", 2, 2, 2, ("conv1x1",), (2, 4, 8)), source)
    assert [q.bits for q in edge.inputs()] == [2, 4, 8] and edge.inputs()[2] is source
    only_four = MixedOp(Slot("e", 2, 2, 2, ("conv1x1",), (8, 4)), ActQuantizer(8, signed=True))
    assert [(q.bits, q.signed) for q in only_four.inputs()] == [(8, True), (4, True)]


# Convolutions


@pytest.mark.parametrize("training", [False, True])
def test_the_length_of_a_searched_kernel_does_not_matter(monkeypatch, training):
    noiseless(monkeypatch)
    layer = SearchConv2d(4, 3, 3, bits=(4, 8)).train(training)
    mix = torch.tensor([0.4, 0.6])
    before = layer.kernel(mix)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([0.1, 3.0, 50.0])[:, None, None, None])
    torch.testing.assert_close(layer.kernel(mix), before, rtol=1e-4, atol=1e-6)
    assert layer.unit_weight().flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_a_searched_kernel_of_zeros_stays_finite():
    layer = SearchConv2d(4, 3, 1, bits=(8,))
    layer.weight.data.zero_()
    layer.unit_weight().sum().backward()
    assert (layer.unit_weight() == 0).all() and torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("weights", "activations"), [(2, 8), (3, 4), (4, 2), (8, 8)])
def test_a_rounded_convolution_is_integer_arithmetic(weights, activations, signed):
    source = ActQuantizer(8, signed).double()
    precision = Precision(weights, activations)
    layer = QuantConv2d(4, 6, 3, 2, precision=precision, source=source).double()
    layer.weight_quantizer.calibrate(layer.weight)
    source.log2_step.data.fill_(-5.3)
    x = source(torch.randn(2, 4, 6, 5, dtype=torch.float64) * 3).detach()
    grid = source
    if activations < 8:
        grid = layer.input_quantizer
        grid.log2_step.data.fill_(-1.7)
        assert grid.bits == activations and grid.signed == signed
    else:
        assert layer.input_quantizer is None
    lo, hi = (
        (-(2 ** (activations - 1)), 2 ** (activations - 1) - 1)
        if signed
        else (
            0,
            2**activations - 1,
        )
    )
    step_x, step_w = 2 ** grid.log2_step.item(), layer.weight_quantizer.step.flatten()
    q, z = layer.weight_quantizer.integers(layer.weight)
    units = (layer.bias / (step_x * step_w)).round().long()
    integers = (x / step_x).round().clamp(lo, hi).long()
    total = F.conv2d(integers.double(), (q - z).double(), units.double(), padding=1, groups=2)
    wanted = total * (step_x * step_w)[:, None, None]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)


def test_an_inner_convolution_always_rounds_its_unsigned_input():
    source = ActQuantizer(8, signed=True)
    layer = QuantConv2d(4, 4, 1, inner=True, precision=Precision(4, 8), source=source)
    grid = layer.input_quantizer
    assert grid is layer.grid and grid.bits == 8 and not grid.signed


def test_every_parameter_of_a_rounded_convolution_learns():
    source = ActQuantizer(8)
    layer = QuantConv2d(4, 4, 3, precision=Precision(3, 4), source=source)
    layer.weight_quantizer.calibrate(layer.weight)
    layer.input_quantizer.log2_step.data.fill_(-3.0)
    layer(torch.rand(2, 4, 5, 6)).square().sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolutions_keep_the_size(kernel):
    assert conv.Conv2d(3, 5, kernel)(torch.rand(1, 3, 7, 4)).shape == (1, 5, 7, 4)


def test_the_candidates_used_here_are_operations():
    assert set(SINGLE + GROWTH) <= set(ops.OPS)
