"""Checks networks that training has spoilt: NaN is refused, dead channels pass without harm."""

import math

import pytest
import torch

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import uniform_precision
from quantnas.data.patches import to_image
from quantnas.errors import DataError
from quantnas.exporters import onnx_export
from quantnas.inference import upscaler
from quantnas.nn.quantizers import BITS, ActQuantizer, WeightQuantizer, activation_grid, weight_grid
from quantnas.quantization import post_training
from quantnas.training import training_loop


@pytest.fixture
def genotype(tiny, random_genotype):
    return random_genotype(tiny, 4)


@pytest.fixture
def net(tiny, genotype):
    """A float network with finite weights."""
    return network.build(tiny, genotype, None).eval()


@torch.no_grad()
def spoil(net, at: int, part: str, value: float) -> str:
    """Put a value into a convolution's weight or bias, and return the convolution's name."""
    name, conv = list(network.convolutions(net).items())[at]
    getattr(conv, part).flatten()[0] = value
    return name


# Networks that are refused


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("part", "word"), [("weight", "weights"), ("bias", "biases")])
@pytest.mark.parametrize("at", [0, 2, -1])
def test_a_layer_with_numbers_that_are_none_is_named(net, at, part, word, value):
    name = spoil(net, at, part, value)
    with pytest.raises(DataError, match=f"'{name}' contains NaN or infinite {word}"):
        post_training.require_finite(net)


def test_grids_count_where_they_round(tiny, genotype, net, pixels):
    rounded = network.build(tiny, genotype, uniform_precision(registry.slots(tiny), 4))
    network.initialise(rounded, pixels())
    for name, conv in network.convolutions(rounded).items():
        with torch.no_grad():
            before = conv.weight_quantizer.log2_step.clone()
            conv.weight_quantizer.log2_step[1] = math.nan
        with pytest.raises(DataError, match=f"'{name}' contains NaN or infinite grids"):
            post_training.require_finite(rounded)
        conv.weight_quantizer.log2_step.data.copy_(before)
    shared = [m for m in rounded.modules() if isinstance(m, ActQuantizer) and not m.fixed]
    shared[0].log2_step.data.fill_(math.inf)
    with pytest.raises(DataError, match="NaN or infinite"):
        post_training.require_finite(rounded)
    for grid in (m for m in net.modules() if isinstance(m, ActQuantizer)):
        grid.log2_step.data.fill_(math.nan)
    post_training.require_finite(net)


def test_of_two_bad_layers_the_first_is_named(net):
    names = [spoil(net, at, "bias", math.nan) for at in (3, 1)]
    with pytest.raises(DataError, match=f"'{names[1]}'"):
        post_training.require_finite(net)


def test_an_output_that_overflows_is_found_where_it_begins(net, pixels):
    convs = network.convolutions(net)
    name, conv = list(convs.items())[1]
    with torch.no_grad():
        conv.weight.copy_(conv.weight.sign() * 3e38)
    post_training.require_finite(net)
    with pytest.raises(DataError, match=f"Layer '{name}' outputs NaN or infinite"):
        post_training.require_finite_outputs(net, pixels())
    assert not any(c._forward_hooks for c in convs.values())


def test_a_sound_network_is_let_through(tiny, genotype, net, pixels):
    rounded = network.build(tiny, genotype, uniform_precision(registry.slots(tiny), 4))
    network.initialise(rounded, pixels())
    for sound in (net, rounded):
        before = {k: v.clone() for k, v in sound.state_dict().items()}
        post_training.require_finite(sound)
        post_training.require_finite_outputs(sound, pixels())
        assert all(torch.equal(v, before[k]) for k, v in sound.state_dict().items())
        assert not any(c._forward_hooks for c in network.convolutions(sound).values())


# Networks that pass: dead channels and dead tensors


@pytest.mark.parametrize("bits", BITS)
def test_a_row_of_zeros_has_a_grid_and_leaves_the_others_theirs(bits):
    rows = torch.randn(3, 20)
    wanted = weight_grid(rows, bits)
    rows[1] = 0
    for values, before in zip(weight_grid(rows, bits), wanted, strict=True):
        assert values.isfinite().all() and torch.equal(values[[0, 2]], before[[0, 2]])
    quantizer = WeightQuantizer(bits, 3)
    kernel = rows.view(3, 5, 2, 2)
    quantizer.calibrate(kernel)
    assert quantizer.log2_step.isfinite().all() and (quantizer.step > 0).all()
    assert (quantizer(kernel)[1] == 0).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_a_tensor_of_zeros_has_a_grid(bits, signed):
    grid, zeros = ActQuantizer(bits, signed), torch.zeros(2, 3, 4, 4)
    step, zero = activation_grid(zeros, bits, signed)
    assert 0 < step < 1e-5 and zero == 0
    grid.calibrate(zeros)
    assert grid.log2_step.isfinite() and torch.equal(grid(zeros), zeros)


@torch.no_grad()
def deaden(net, how: str) -> None:
    """Set one output channel of every convolution, or all of the second one, to zero."""
    convs = list(network.convolutions(net).values())
    for conv in convs if how == "channels" else convs[1:2]:
        dead = [1] if how == "channels" else range(conv.out_channels)
        for channel in dead:
            conv.weight[channel] = 0
            conv.bias[channel] = 0


@pytest.mark.parametrize("how", ["channels", "layer"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_dead_is_quantized_trained_frozen_and_exported(
    tiny, genotype, net, pixels, halves, tmp_path, bits, how
):
    deaden(net, how)
    slots = registry.slots(tiny)
    precision = uniform_precision(slots, bits)
    rounded = network.build(tiny, genotype, precision)
    network.inherit(rounded, net)
    low = pixels(4)
    network.initialise(rounded, low)
    post_training.correct_biases(rounded, net, low)
    state = training_loop.start(rounded, 1e-3)
    aim = training_loop.Objective(training_loop.teacher_target(net))
    plan = training_loop.Schedule(steps=4, batch=2, lr=1e-3, check=4)
    losses = [step.loss for step in training_loop.fit(state, *halves, plan, aim)]
    frozen = post_training.freeze(rounded)
    assert all(map(math.isfinite, losses))
    assert all(p.isfinite().all() for p in frozen.parameters())
    post_training.require_finite_outputs(frozen, low)
    rows = cost.layers(slots, genotype, precision, 2)
    onnx_export.to_onnx(frozen, cost.total(rows, 2), 2, tmp_path / "m.onnx")
    photo = to_image(pixels(1, 9, 8, 5)[0])
    files = [upscaler.onnx_upscaler(tmp_path / "m.onnx"), upscaler.torch_upscaler(frozen)]
    ours, theirs = (upscale(photo).astype(int) for upscale in files)
    assert abs(ours - theirs).max() <= 2 and ours.std() > 5
