"""Checks the post-training baselines: their results, and that each beats the simpler ones."""

import pytest
import torch

from quantnas.architectures import network, registry
from quantnas.config import search_space
from quantnas.config.genotype import Genotype, choice_of, uniform_precision
from quantnas.errors import UsageError
from quantnas.nn.quantizers import ActQuantizer
from quantnas.quantization import baselines, post_training

LEARNED = ("gptq", "gpfq", "qronos", "adaround")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(baselines, "STEPS", 60)


@pytest.fixture
def low(pixels):
    """Smooth images, whose neighbouring pixels are correlated as in photographs."""
    return torch.nn.functional.interpolate(pixels(6, 5, 6), size=(15, 18), mode="bilinear")


@pytest.fixture
def couple(tiny):
    """Function (bits, space, at, act_bits) -> (rounded network, float teacher).

    at: index of the operation in every slot.
    """

    def build(bits: int, space=tiny, at: int = 0, act_bits: int | None = None):
        slots = registry.slots(space)
        choices = {s.name: choice_of(s, min(at, len(s.ops) - 1), 0) for s in slots}
        genotype = Genotype(space.name, choices)
        teacher = network.build(space, genotype, None).eval()
        return network.build(
            space, genotype, uniform_precision(slots, bits, act_bits or bits)
        ), teacher

    return build


def layer_outputs(net, low) -> dict[str, torch.Tensor]:
    found = {}
    hooks = [
        conv.register_forward_hook(lambda m, args, out: found.update({m.name: out}))
        for conv in network.convolutions(net).values()
    ]
    with torch.no_grad():
        net.eval()(low)
    for hook in hooks:
        hook.remove()
    return found


def error(net, teacher, low) -> float:
    """The mean over the layers of the squared error relative to the power of the output."""
    found, expected = layer_outputs(net, low), layer_outputs(teacher, low)
    parts = [(found[n] - y).square().mean() / y.var() for n, y in expected.items()]
    return (sum(parts) / len(parts)).item()


def assert_on_grid(net) -> None:
    for name, conv in network.convolutions(net).items():
        grid = conv.weight_quantizer
        assert torch.equal(conv.rounded_weight(), conv.weight), name
        assert torch.equal(grid.zero, grid.zero.round()), name


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("method", baselines.METHODS)
def test_weights_lie_on_their_grids_and_freezing_changes_nothing(couple, low, method, bits):
    net, teacher = couple(bits)
    given = {k: v.clone() for k, v in teacher.state_dict().items()}
    list(baselines.apply(method, net, teacher, low))
    assert_on_grid(net)
    with torch.no_grad():
        assert torch.equal(post_training.freeze(net)(low), net.eval()(low))
    assert all(torch.equal(v, given[k]) for k, v in teacher.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "at"), [(2, 0), (4, 1), (3, 2)], ids=["plain", "groups", "two"])
@pytest.mark.parametrize("method", LEARNED)
def test_what_looks_at_the_inputs_beats_corrected_biases_alone(couple, low, method, bits, at):
    net, teacher = couple(bits, at=at)
    list(baselines.apply("rtn", net, teacher, low))
    post_training.correct_biases(net, teacher, low)
    simple = error(net, teacher, low)
    list(baselines.apply(method, net, teacher, low))
    assert error(net, teacher, low) < 0.9 * simple


@pytest.mark.parametrize("method", LEARNED)
def test_they_set_weights_and_corrected_biases_on_the_grids_of_rtn(couple, low, method):
    (net, teacher), (simple, _) = couple(3), couple(3)
    list(baselines.apply(method, net, teacher, low))
    list(baselines.apply("rtn", simple, teacher, low))
    before = simple.state_dict()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if k.endswith((".weight", ".bias"))}
    expected, found = layer_outputs(teacher, low), layer_outputs(net, low)
    for name, conv in network.convolutions(net).items():
        missing = (expected[name] - found[name]).mean((0, 2, 3)).abs()
        assert (missing <= 1.01 * conv.bias_step() + 1e-5).all(), name


def test_learned_rounding_rounds_up_or_down(couple, low):
    net, teacher = couple(4)
    list(baselines.apply("adaround", net, teacher, low))
    originals = network.convolutions(teacher)
    moved = 0
    for name, conv in network.convolutions(net).items():
        step, (lo, hi) = conv.weight_quantizer.step, conv.weight_quantizer.bounds()
        factors = 1 if conv.factors() is None else conv.factors()
        t = (originals[name].weight * factors / step).detach()
        q = (conv.weight * factors / step).detach()
        inside = (t > lo) & (t < hi)
        assert ((q - t).abs() < 1 + 1e-3)[inside].all()
        moved += ((q - t).abs() > 0.5 + 1e-3)[inside].sum()
    assert moved > 0


@pytest.mark.parametrize("bits", [2, 4])
def test_minmax_holds_every_value_and_costs_accuracy(couple, low, bits):
    (net, teacher), (best, _) = couple(bits, act_bits=8), couple(bits, act_bits=8)
    list(baselines.apply("minmax", net, teacher, low))
    list(baselines.apply("rtn", best, teacher, low))
    originals, others = network.convolutions(teacher), network.convolutions(best)
    for name, conv in network.convolutions(net).items():
        off, least = (c.weight - originals[name].weight for c in (conv, others[name]))
        assert (off.abs() <= 1.01 * conv.weight_quantizer.step).all(), name
        assert least.square().mean() <= 1.001 * off.square().mean(), name


def test_minmax_holds_every_activation(couple, low):
    net, teacher = couple(4, at=2)
    network.initialise(net, low)
    list(baselines.apply("minmax", net, teacher, low))
    grids = [m for m in net.modules() if isinstance(m, ActQuantizer) and not m.fixed]
    seen = []
    for grid in grids:
        grid.register_forward_pre_hook(lambda m, args: seen.append((m, args[0])))
    with torch.no_grad():
        net(low)
    assert {m for m, _ in seen} == set(grids)
    for grid, x in seen:
        lo, hi = (end * grid.step for end in grid.bounds())
        assert x.max() <= hi + 0.51 * grid.step
        assert x.min() >= lo - 0.51 * grid.step


@pytest.mark.parametrize("method", LEARNED)
def test_strided_and_transposed_layers(couple, pixels, small, method):
    for space in (small["rfdn"], search_space.load("fsrcnn")):
        (net, teacher), (simple, _) = couple(4, space), couple(4, space)
        list(baselines.apply(method, net, teacher, pixels(1, 15, 16)))
        list(baselines.apply("rtn", simple, teacher, pixels(1, 15, 16)))
        assert_on_grid(net)
        for name, conv in network.convolutions(net).items():
            if conv.up > 1:
                assert torch.equal(conv.weight, network.convolutions(simple)[name].weight)


def test_an_unknown_method_names_the_known_ones(couple, low):
    with pytest.raises(UsageError, match=r"'gptx'.*rtn, minmax, gptq, gpfq, qronos, adaround"):
        list(baselines.apply("gptx", *couple(4), low))
