"""Checks low-bit weights by least squares: against nearest rounding, and against lstsq."""

import copy
import dataclasses
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quantnas.architectures import network, registry
from quantnas.config import search_space
from quantnas.config.genotype import uniform_precision
from quantnas.config.search_space import Precision, Slot
from quantnas.nn import operations
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, FloatTensor, WeightQuantizer
from quantnas.quantization import least_squares, post_training

SPACES = ["basic", "edsr_baseline", "espcn", "fsrcnn", "imdn", "plain", "quicksrnet_small"]
SPACES += ["rfdn", "rfdn48", "rfdn_small", "sesr_m5"]


@pytest.fixture
def couple(random_genotype):
    """Function (space, bits) -> (rounded network with the weights of a float one, that one)."""

    def build(space, bits: int):
        genotype = random_genotype(space, 4)
        teacher = network.build(space, genotype, None).eval()
        net = network.build(space, genotype, uniform_precision(registry.slots(space), bits))
        network.inherit(net, teacher)
        return net, teacher

    return build


@pytest.fixture
def blurred(pixels):
    """Smooth images, whose neighbouring pixels and colours are correlated as in photographs."""

    def draw(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
        x = F.interpolate(pixels(count, 6, 6, seed), (height, width), mode="bilinear")
        x = 0.5 * x + 0.5 * x.mean(1, keepdim=True)
        return (x * 255).round() / 255

    return draw


@torch.no_grad()
def outputs(net, low) -> dict[str, torch.Tensor]:
    """The output of every convolution by layer name."""
    found: dict[str, torch.Tensor] = {}
    hooks = [
        conv.register_forward_hook(lambda m, args, out, name=name: found.update({name: out}))
        for name, conv in network.convolutions(net).items()
    ]
    net.eval()(low)
    for hook in hooks:
        hook.remove()
    return found


def error(net, teacher, low) -> float:
    """Mean squared error of the last convolution's output, before skips and rounding to pixels."""
    *_, found = outputs(net, low).values()
    *_, expected = outputs(teacher, low).values()
    return (found - expected).square().mean().item()


def require_on_grid(net) -> None:
    for name, conv in network.convolutions(net).items():
        if conv.up == 1:
            assert torch.allclose(conv.rounded_weight(), conv.weight, rtol=1e-5, atol=1e-7), name
        q, zero = conv.integers()
        factors, step = conv.factors(), conv.weight_quantizer.step
        kernel = (q - zero) * step / (1 if factors is None else factors)
        torch.testing.assert_close(kernel, conv.rounded_weight(), msg=name)


def require_finite(net, low) -> None:
    post_training.require_finite_outputs(net, low)
    assert all(t.isfinite().all() for t in net.state_dict().values())


# A whole network


def gain(net, teacher, blurred) -> float:
    """The error on other images, as a share of the error of rounding to nearest."""
    usual, low, other = copy.deepcopy(net), blurred(64, 16, 16), blurred(8, 12, 13, 7)
    network.initialise(usual, low)
    post_training.correct_biases(usual, teacher, low)
    list(least_squares.improve(net, teacher, low))
    return error(net, teacher, other) / error(usual, teacher, other)


@pytest.mark.parametrize(("bits", "share"), [(2, 0.15), (3, 0.25), (4, 0.5)])
def test_the_output_is_nearer_to_the_teachers(tiny, couple, blurred, bits, share):
    assert gain(*couple(tiny, bits), blurred) < share


def test_with_8_bits_it_is_a_little_nearer_on_average(tiny, couple, blurred):
    assert sum(gain(*couple(tiny, 8), blurred) for _ in range(3)) < 3 * 0.99


def test_it_can_be_given_up_between_two_layers(tiny, couple, pixels):
    net, teacher = couple(tiny, 4)
    steps = least_squares.improve(net, teacher, pixels(2, 9, 8))
    assert [next(steps)[0] for _ in range(3)] == [0, 1, 2]
    steps.close()
    assert not any(c._forward_pre_hooks for c in network.convolutions(net).values())
    assert not [t for t in threading.enumerate() if t.name.startswith("layers")]
    convs = (network.convolutions(n).values() for n in (net, teacher))
    pairs = [(ours.weight, theirs.weight) for ours, theirs in zip(*convs, strict=True)]
    assert sum(not torch.equal(*pair) for pair in pairs) == 2


def test_an_error_in_a_layer_is_raised(tiny, couple, pixels, monkeypatch):
    net, teacher = couple(tiny, 4)
    monkeypatch.setattr(least_squares, "_nearest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(least_squares.improve(net, teacher, pixels(2, 9, 8)))
    ours, theirs = (network.convolutions(n)["head"].weight for n in (net, teacher))
    assert torch.equal(ours, theirs)


def test_weights_lie_on_their_grids_and_means_are_those_of_the_teacher(tiny, couple, pixels):
    for bits in (2, 4, 8):
        net, teacher = couple(tiny, bits)
        given, low = copy.deepcopy(teacher.state_dict()), pixels(4, 9, 8)
        list(least_squares.improve(net, teacher, low))
        require_on_grid(net)
        found, expected = outputs(net, low), outputs(teacher, low)
        for name, conv in network.convolutions(net).items():
            off = (found[name] - expected[name]).mean((0, 2, 3)).abs()
            assert (off <= 0.51 * conv.repeated(conv.bias_step()) + 1e-6).all(), name
        assert all(torch.equal(v, given[k]) for k, v in teacher.state_dict().items())
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
        assert not any(m._forward_hooks for m in teacher.modules())


@pytest.mark.parametrize("bits", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SPACES)
def test_it_works_in_every_macro_architecture(couple, blurred, name, bits):
    space = dataclasses.replace(search_space.load(name, 2), channels=12, cells=1)
    net, teacher = couple(space, bits)
    usual, low = copy.deepcopy(net), blurred(8, 16, 17)
    network.initialise(usual, low)
    post_training.correct_biases(usual, teacher, low)
    list(least_squares.improve(net, teacher, low))
    require_finite(net, low)
    require_on_grid(net)
    assert error(net, teacher, low) < error(usual, teacher, low)
    frozen = post_training.freeze(net)
    with torch.no_grad():
        torch.testing.assert_close(frozen(low), net(low), rtol=0, atol=1e-6)


def test_the_spaces_have_every_skeleton():
    assert {search_space.load(name).skeleton for name in SPACES} == {*registry.SKELETONS} - {
        "onnx"
    }  # test_surgery.py


# Operations


def stack(name: str, signed: bool, bits: int = 3):
    """A rounded stack with one operation in the middle, and the same stack in float."""
    up = 2 if name.startswith("transposed") else 1
    slot = Slot("body", 12, 12, 12, (name,), (Precision(bits, bits),), up=up)
    shapes = [(3, 12, 3), (12 // up**2, 3, 3)]
    source = ActQuantizer(8, step=1 / 255)
    between = [FloatTensor(32, signed) for _ in range(2)]
    precision = Precision(bits, bits)
    nets = []
    for form in ("rounded", "float"):

        def conv(*shape, source=between[0], form=form, **kw):
            if form == "float":
                return Conv2d(*shape, **kw)
            return QuantConv2d(*shape, precision=precision, source=source, **kw)

        layers = [conv(*shapes[0], source=source), operations.build(name, conv, slot)]
        rest = nn.PixelShuffle(up) if up > 1 else nn.Identity()
        net = nn.Sequential(source, *layers, rest, conv(*shapes[1], source=between[1]))
        for i, m in enumerate(m for m in net.modules() if isinstance(m, Conv2d)):
            m.name = f"c{i}"
        nets.append(net)
    network.inherit(*nets)
    return nets


@pytest.mark.parametrize("name", operations.OPS)
@pytest.mark.parametrize("signed", [False, True])
def test_every_operation_is_improved(pixels, name, signed):
    net, teacher = stack(name, signed)
    low = pixels(4, 9, 8)
    list(least_squares.improve(net, teacher, low))
    require_finite(net, low)
    require_on_grid(net)


def test_a_transposed_kernel_is_rounded_as_it_is(pixels):
    net, teacher = stack("transposed9x9", signed=True)
    with torch.no_grad():
        for both in (net, teacher):  # octaves
            network.convolutions(both)["c0"].weight.mul_(
                torch.logspace(0, -2, 12)[:, None, None, None]
            )
    before = network.convolutions(net)["c1"].weight.clone()
    list(least_squares.improve(net, teacher, pixels(4, 9, 8)))
    conv = network.convolutions(net)["c1"]
    assert torch.equal(conv.weight, before) and conv.input_quantizer.octaves.any()
    found = (conv.rounded_weight() - before) * conv.factors()
    conv.weight_quantizer.calibrate(before * conv.factors())
    best = (conv.rounded_weight() - before) * conv.factors()
    torch.testing.assert_close(found, best)


def strided(bits: int = 3, groups: int = 1):
    """A rounded convolution with a stride on pixels, and the same convolution in float."""
    source, form = ActQuantizer(8, step=1 / 255), (6, 8, 3, groups, 2)
    conv = QuantConv2d(*form, precision=Precision(bits, 8), source=source)
    plain = Conv2d(*form)
    conv.name = plain.name = "only"
    nets = [nn.Sequential(source, c) for c in (conv, plain)]
    network.inherit(*nets)
    return nets


@pytest.mark.parametrize("groups", [1, 2])
def test_a_strided_convolution_is_improved(blurred, groups):
    net, teacher = strided(groups=groups)
    low = torch.cat([blurred(6, 15, 16), blurred(6, 15, 16, 1)], 1)
    usual = copy.deepcopy(net)
    network.initialise(usual, low)
    post_training.correct_biases(usual, teacher, low)
    list(least_squares.improve(net, teacher, low))
    require_on_grid(net)
    assert error(net, teacher, low) < 0.8 * error(usual, teacher, low)


@pytest.mark.parametrize("name", ["conv3x3", "conv3x3_groups2", "separable3x3", "transposed9x9"])
@pytest.mark.parametrize("how", ["dead channels", "black", "constant", "one pixel"])
def test_nothing_becomes_no_number(pixels, name, how):
    net, teacher = stack(name, signed=True)
    low = pixels(2, 7, 6)
    with torch.no_grad():
        for both in (net, teacher):
            for conv in list(network.convolutions(both).values())[:-1]:
                if how == "dead channels":
                    conv.weight[:2] = 0
                    conv.bias[:2] = 0
    low = {"black": low * 0, "constant": low * 0 + 0.2, "one pixel": low[:1, :, :1, :1]}.get(
        how, low
    )
    list(least_squares.improve(net, teacher, low))
    require_finite(net, low)
    require_on_grid(net)
    require_finite(post_training.freeze(net), low)


def test_without_any_data_a_kernel_stays_what_it_was():
    conv, low = single(8), torch.zeros(2, 4, 5, 5)
    before = conv.weight.detach().clone()
    list(least_squares.improve(holder(conv), holder(plain_of(conv)), low))
    with torch.no_grad():
        rounded = conv.weight_quantizer(before)
    torch.testing.assert_close(conv.weight, rounded, rtol=0, atol=1e-6)
    assert (conv.weight - before).abs().max() < 0.01


# One convolution


def holder(conv: Conv2d) -> nn.Module:
    conv.name = "only"
    return nn.Sequential(conv)


def single(bits: int, activations: int = 8, groups: int = 1) -> QuantConv2d:
    """A convolution that rounds its input of 4 channels."""
    source, precision = FloatTensor(32, signed=True), Precision(bits, activations)
    return QuantConv2d(4, 6, 3, groups, precision=precision, source=source)


def plain_of(conv: QuantConv2d) -> Conv2d:
    plain = Conv2d(4, 6, 3, conv.groups)
    plain.weight.data.copy_(conv.weight)
    plain.bias.data.copy_(conv.bias)
    return plain


def smooth(count: int = 6) -> torch.Tensor:
    """Features (count, 4, 12, 12) whose neighbours and channels are correlated."""
    x = F.interpolate(torch.randn(count, 4, 6, 6), scale_factor=2, mode="bilinear")
    return x + x.mean(1, keepdim=True) + 0.05 * torch.randn(count, 4, 12, 12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("activations", [2, 4, 8])
def test_before_it_is_rounded_a_kernel_is_the_solution_of_least_squares(
    monkeypatch, activations, groups
):
    monkeypatch.setattr(least_squares, "RIDGE", 1e-9)
    monkeypatch.setattr(least_squares, "_rounded", lambda kernel, *_: kernel)
    conv, x = single(8, activations, groups), smooth()
    teacher = plain_of(conv)
    list(least_squares.improve(holder(conv), holder(teacher), x))
    with torch.no_grad():
        seen, expected = conv.input_quantizer(x).double(), teacher(x).double()
    columns = F.unfold(seen, 3, padding=1).transpose(1, 2).flatten(0, 1)
    for g, rows in enumerate(columns.chunk(groups, 1)):
        rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
        out = expected.chunk(groups, 1)[g].permute(0, 2, 3, 1).flatten(0, 2)
        solution = torch.linalg.lstsq(rows, out).solution[:-1].T
        found = conv.weight.chunk(groups)[g].detach().flatten(1).double()
        torch.testing.assert_close(found, solution, rtol=2e-3, atol=2e-4)


def test_the_kernel_is_that_of_the_teacher_whatever_it_was(monkeypatch):
    monkeypatch.setattr(least_squares, "RIDGE", 1e-6)
    conv, x = single(8), torch.randn(8, 4, 12, 12)
    teacher = plain_of(conv)
    conv.weight.data.normal_()
    conv.bias.data.normal_()
    list(least_squares.improve(holder(conv), holder(teacher), x))
    with torch.no_grad():
        expected = teacher(x)
        assert (conv(x) - expected).square().mean() < 1e-3 * expected.var()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_column_by_column_loses_less_than_to_the_nearest(bits):
    columns = F.unfold(smooth(), 3, padding=1).transpose(0, 1).flatten(1)
    gram = (columns @ columns.T / columns.shape[1]).double()
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    kernel = torch.randn(6, 36)
    grid = WeightQuantizer(bits, 6)
    grid.calibrate(kernel.view(6, 4, 3, 3))
    ends = [t.detach().view(6, 1) for t in (grid.step, *grid.bounds())]
    nearest = grid(kernel.view(6, 4, 3, 3)).detach().view(6, 36)
    found = least_squares._rounded(kernel, gram, ends)
    torch.testing.assert_close(grid(found.view(6, 4, 3, 3)).view(6, 36), found)

    def lost(rounded: torch.Tensor) -> torch.Tensor:
        off = (rounded - kernel).double()
        return (off @ gram * off).sum(1)

    assert lost(found).sum() < 0.7 * lost(nearest).sum()


def test_without_correlations_it_rounds_to_the_nearest():
    kernel, grid = torch.randn(6, 10), WeightQuantizer(3, 6)
    grid.calibrate(kernel[:, :, None, None])
    ends = [t.detach().view(6, 1) for t in (grid.step, *grid.bounds())]
    found = least_squares._rounded(kernel, torch.rand(10).add(0.1).diag().double(), ends)
    torch.testing.assert_close(found, grid(kernel[:, :, None, None])[:, :, 0, 0].detach())
