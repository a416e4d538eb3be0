"""Checks post-training quantization: fitting, bias correction, and freezing to integers."""

import math

import pytest
import torch

from quantnas.architectures import network, registry
from quantnas.config.genotype import searched_precision, uniform_precision
from quantnas.nn.quantizers import ActQuantizer
from quantnas.quantization import post_training

BITS = [None, 2, 3, 4, 8]


@pytest.fixture
def couple(tiny, random_genotype, pixels):
    """Function (bits, None = as searched) -> (rounded network with fitted grids, float teacher)."""

    def build(bits: int | None = None, seed: int = 4):
        genotype = random_genotype(tiny, seed)
        slots = registry.slots(tiny)
        precision = uniform_precision(slots, bits) if bits else searched_precision(genotype)
        teacher = network.build(tiny, genotype, None).eval()
        net = network.build(tiny, genotype, precision)
        network.inherit(net, teacher)
        network.initialise(net, pixels(4))
        return net, teacher

    return build


def mean_outputs(net, low) -> dict[str, torch.Tensor]:
    found = {}
    hooks = [
        conv.register_forward_hook(
            lambda m, args, out, name=name: found.update({name: out.double().mean((0, 2, 3))})
        )
        for name, conv in network.convolutions(net).items()
    ]
    with torch.no_grad():
        net(low)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("bits", BITS)
def test_a_rounded_network_follows_its_teacher_the_better_the_more_bits(couple, pixels, bits):
    net, teacher = couple(bits)
    low = pixels(2, 6, 5, 3)
    with torch.no_grad():
        error = (net(low) - teacher(low).clamp(0, 1)).square().mean().sqrt().item()
    assert error < {8: 0.01, 4: 0.04, 3: 0.06, 2: 0.12, None: 0.2}[bits]


def test_every_grid_fits_all_that_it_carries_behind_the_other_grids(couple, pixels):
    net, _ = couple(8)
    carried: dict[str, list[torch.Tensor]] = {}
    for name, grid in net.named_modules():
        if isinstance(grid, ActQuantizer) and not grid.fixed:
            carried[name] = []
            grid.register_forward_pre_hook(
                lambda m, args, name=name: carried[name].append(in_steps(m, args[0]).flatten())
            )
    with torch.no_grad():
        net(pixels(4))
    assert {len(parts) for parts in carried.values()} == {1}, "a grid is used once"
    for name, parts in carried.items():
        grid, x = net.get_submodule(name), torch.cat(parts)
        plain, best = ActQuantizer(8, grid.signed), ActQuantizer(8, grid.signed)
        plain.load_state_dict(grid.state_dict(), strict=False)
        best.calibrate(x)
        with torch.no_grad():
            errors = [(g(x) - x).square().mean().item() for g in (plain, best)]
        assert errors[0] <= 1.3 * errors[1] + 1e-12, name


def in_steps(grid: ActQuantizer, x: torch.Tensor) -> torch.Tensor:
    """x in units of its grid, where every channel has the same step."""
    return x if grid.octaves is None else x / 2 ** grid.octaves[:, None, None]


@pytest.mark.parametrize("bits", [2, 4])
def test_octaves_lessen_what_rounding_the_inputs_does_to_the_outputs(couple, pixels, bits):
    net, _ = couple(bits)
    noises: dict[str, list[float]] = {}

    def measure(conv, args) -> None:
        plain = ActQuantizer(bits, conv.input_quantizer.signed)
        plain.calibrate(args[0])
        parts = [grid(args[0]) - args[0] for grid in (conv.input_quantizer, plain)]
        outs = [conv.apply_kernel(part, conv.weight, None) for part in parts]
        noises[conv.name] = [out.var((0, 2, 3)).mean().item() for out in outs]

    for conv in network.convolutions(net).values():
        if conv.input_quantizer is not None:
            conv.register_forward_pre_hook(measure)
    with torch.no_grad():
        net(pixels(4))
    ratios = [with_octaves / without for with_octaves, without in noises.values()]
    assert len(ratios) >= 1 and math.prod(ratios) ** (1 / len(ratios)) < 1, noises


@pytest.mark.parametrize("bits", BITS)
def test_bias_correction_brings_the_mean_of_every_channel_to_the_teachers(couple, pixels, bits):
    net, teacher = couple(bits)
    low = pixels(4)
    expected, before = mean_outputs(teacher, low), mean_outputs(net, low)
    post_training.correct_biases(net, teacher, low)
    after = mean_outputs(net, low)
    units = {n: c.bias_step().detach() for n, c in network.convolutions(net).items()}
    for name in expected:
        assert ((after[name] - expected[name]).abs() <= 1.01 * units[name] + 1e-5).all(), name

    def worst(means: dict[str, torch.Tensor]) -> float:
        return max((means[n] - expected[n]).abs().max().item() for n in expected)

    assert worst(after) < 0.5 * worst(before)


def test_correcting_changes_biases_only(couple, pixels):
    net, teacher = couple(3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    given = {k: v.clone() for k, v in teacher.state_dict().items()}
    post_training.correct_biases(net, teacher, pixels())
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if k.endswith("bias")}
    assert all(torch.equal(v, given[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("bits", BITS)
def test_a_frozen_network_computes_the_same(couple, pixels, bits):
    net, _ = couple(bits)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * (0.6 if name.endswith("zero") else 0.02))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    frozen = post_training.freeze(net)
    low = pixels(3, 6, 5, 8)
    with torch.no_grad():
        assert torch.equal(frozen(low), net.eval()(low))
        assert torch.equal(post_training.freeze(frozen)(low), frozen(low))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("bits", BITS)
def test_frozen_parameters_are_integers_times_steps(couple, bits):
    net, _ = couple(bits)
    for conv in network.convolutions(post_training.freeze(net)).values():
        weights = conv.weight_quantizer
        factors = conv.factors()
        units = (conv.weight if factors is None else conv.weight * factors) / weights.step
        torch.testing.assert_close(units, units.round(), rtol=0, atol=1e-4)
        for channel in units.round():
            assert len(channel.unique()) <= 2**weights.bits
            assert channel.max() - channel.min() <= 2**weights.bits - 1
        assert torch.equal(weights.zero, weights.zero.round())
        units = conv.bias.double() / conv.bias_step().double()
        torch.testing.assert_close(units, units.round(), rtol=1e-6, atol=1e-3)
        assert units.abs().max() < 2**31


@pytest.mark.parametrize("bits", BITS)
def test_a_dead_channel_keeps_its_bias(couple, pixels, bits):
    net, _ = couple(bits)
    convs = network.convolutions(net)
    with torch.no_grad():
        for conv in convs.values():
            conv.weight[1] = 0
            conv.bias[1] = 0.5
    network.initialise(net, pixels())
    frozen = post_training.freeze(net)
    outputs = mean_outputs(frozen, pixels())
    for name, conv in network.convolutions(frozen).items():
        assert outputs[name][1].item() == pytest.approx(0.5, rel=1e-5), name
        q, z = conv.integers()
        assert (q[1] == z[1]).all()
        assert (conv.bias / conv.bias_step()).abs().max() < 2**31
