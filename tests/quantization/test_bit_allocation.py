"""Checks bit allocation within a limit against brute force, and its damages and costs."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import Choice
from quantnas.config.search_space import Precision
from quantnas.errors import UsageError
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer
from quantnas.quantization import bit_allocation, post_training, saliency
from quantnas.quantization.bit_allocation import Damage
from quantnas.quantization.saliency import Saliency

WIDTHS = tuple(Precision(w, a) for w in (2, 4, 8) for a in (4, 8))


def instance(seed: int, slots: int = 6) -> tuple[dict[str, Damage], dict[str, list[int]]]:
    """Slots with one to four options; small numbers, so that some are equal."""
    rng = np.random.default_rng(seed)
    damage, costs = {}, {}
    for k in range(slots):
        n = int(rng.integers(1, 5))
        mse = tuple(float(x) for x in rng.integers(0, 30, n))
        damage[f"s{k}"] = Damage(f"s{k}", tuple(Precision(b, 8) for b in (2, 3, 4, 8)[:n]), mse)
        costs[f"s{k}"] = [int(x) for x in rng.integers(1, 40, n)]
    return damage, costs


def sums(damage, costs, chosen) -> tuple[float, int]:
    """The (damage, cost) of a choice."""
    at = {name: damage[name].options.index(width) for name, width in chosen.items()}
    return sum(damage[n].mse[i] for n, i in at.items()), sum(costs[n][i] for n, i in at.items())


def everything(damage, costs) -> list[tuple[float, int]]:
    each = [[(name, width) for width in row.options] for name, row in damage.items()]
    return [sums(damage, costs, dict(picks)) for picks in itertools.product(*each)]


# The choice


@pytest.mark.parametrize("seed", range(20))
def test_nothing_within_the_limit_does_less_damage(seed):
    damage, costs = instance(seed)
    every = everything(damage, costs)
    totals = sorted({total for _, total in every})
    for limit in (*totals[:: max(1, len(totals) // 6)], totals[-1], totals[-1] + 0.5):
        chosen = bit_allocation.allocate(damage, costs, limit)
        assert list(chosen) == list(damage)
        mse, total = sums(damage, costs, chosen)
        assert total <= limit
        assert mse == min(mse for mse, total in every if total <= limit)


@pytest.mark.parametrize("seed", range(10))
def test_with_too_many_partial_choices_the_limit_still_holds(seed, monkeypatch):
    damage, costs = instance(seed, slots=14)
    costs = {name: [1000 * c + 7 * i for i, c in enumerate(row)] for name, row in costs.items()}
    least, most = (sum(map(pick, costs.values())) for pick in (min, max))
    limit, cells = (least + most) / 2, 80
    within = [limit * (1 - len(damage) / cells), limit]
    ends = [sums(damage, costs, bit_allocation.allocate(damage, costs, at))[0] for at in within]
    monkeypatch.setattr(bit_allocation, "CELLS", cells)
    mse, total = sums(damage, costs, bit_allocation.allocate(damage, costs, limit))
    assert total <= limit
    assert ends[1] <= mse <= ends[0]
    for tight in (least, least * 1.01):
        assert sums(damage, costs, bit_allocation.allocate(damage, costs, tight))[1] <= tight


def test_a_larger_limit_is_never_worse():
    damage, costs = instance(3, slots=30)
    least, most = (sum(map(pick, costs.values())) for pick in (min, max))
    limits = np.linspace(least, most, 40)
    found = [sums(damage, costs, bit_allocation.allocate(damage, costs, at))[0] for at in limits]
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert found[-1] == sum(min(row.mse) for row in damage.values())


def test_a_limit_below_everything_names_the_nearest():
    damage, costs = instance(0)
    least = sum(map(min, costs.values()))
    bit_allocation.allocate(damage, costs, least)
    with pytest.raises(UsageError) as caught:
        bit_allocation.allocate(damage, {n: [10**9 * c for c in r] for n, r in costs.items()}, 1e9)
    assert caught.value.cause == "No choice of bits is within 1,000,000,000."
    assert caught.value.remedy == f"The nearest one comes to {least},000,000,000."


# Costs


@pytest.fixture
def decided(small, random_genotype):
    """Function (name, seed) -> (space, slots, genotype, options, an option of every slot)."""

    def make(name: str, seed: int):
        space = small[name]
        slots, genotype = registry.slots(space), random_genotype(space, seed)
        options = bit_allocation.options(slots, WIDTHS)
        rng = np.random.default_rng(seed)
        picks = {s: int(rng.integers(len(widths))) for s, widths in options.items()}
        return space, slots, genotype, options, picks

    return make


def test_the_ends_stay_at_eight_bits_unless_told_otherwise(decided):
    _, slots, _, options, _ = decided("apart", 0)
    assert list(options) == [s.name for s in slots]
    assert options[slots[0].name] == options[slots[-1].name] == (Precision(8, 8),)
    assert all(options[s.name] == WIDTHS for s in slots[1:-1])


@pytest.mark.parametrize("name", ["tiny", "apart", "rfdn"])
@pytest.mark.parametrize("seed", range(3))
def test_costs_add_up_to_those_of_the_network(decided, name, seed):
    space, slots, genotype, options, picks = decided(name, seed)
    precision = {s: options[s][i] for s, i in picks.items()}
    rows = cost.layers(slots, genotype, precision, space.scale)

    def total(costs) -> float:
        assert all(len(costs[s]) == len(options[s]) for s in options)
        return sum(costs[s][i] for s, i in picks.items())

    size = (45, 31)
    bitops = bit_allocation.bitops_costs(slots, genotype, options, space.scale, size)
    assert total(bitops) == cost.bitops_at(rows, size, space.scale)
    weight_bytes = cost.total(rows, space.scale).weight_bytes
    assert total(bit_allocation.byte_costs(slots, genotype, options)) == weight_bytes
    ends = {slots[0].name, slots[-1].name}
    inner = [row for row in rows if row.name.split(".")[0] not in ends]
    bits = sum(math.prod(row.shape) * row.weight_bits for row in inner)
    assert total(bit_allocation.bit_costs(slots, genotype, options)) == bits
    weights = sum(math.prod(row.shape) for row in inner)
    assert bit_allocation.inner_weights(slots, genotype) == weights


def test_an_average_of_bits_is_that_of_uniform_widths(decided):
    _, slots, genotype, _, _ = decided("tiny", 1)
    options = bit_allocation.options(slots, [Precision(b, 8) for b in (2, 3, 4, 8)])
    costs = bit_allocation.bit_costs(slots, genotype, options)
    for i, bits in enumerate((2, 3, 4, 8)):
        total = sum(row[i] if len(row) > 1 else row[0] for row in costs.values())
        assert total == bits * bit_allocation.inner_weights(slots, genotype)


# The damage


def single(kernel: int = 3) -> tuple[nn.Module, Saliency]:
    """A network of one convolution, every change of which counts as much as its square."""
    conv = Conv2d(3, 5, kernel)
    conv.name = "only"
    return conv, Saliency({"only": torch.ones_like(conv.weight)}, {"only": torch.ones(3)})


def fitted(x, conv: Conv2d, bits: int, signed: bool, spread: bool) -> ActQuantizer:
    """A grid for the convolution's input; with `spread` its channels have octaves."""
    grid = ActQuantizer(bits, signed, channels=x.shape[1] if spread else None)
    grid.spread(x, conv.weight.square().sum((0, 2, 3)))
    grid.calibrate(x)
    return grid


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_the_damage_is_that_of_the_grids_a_rounded_network_gets(signed, spread):
    """Octaves help where channels differ; where their ranges are equal, one step is better."""
    conv, found = single()
    x = torch.randn(4, 3, 16, 16)
    if spread:
        x *= torch.tensor([8.0, 1, 0.1])[:, None, None]
    else:
        x[..., 0, 0] = 5
        with torch.no_grad():
            conv.weight.mul_(torch.tensor([8.0, 1, 0.1])[:, None, None])
    x = nn.functional.leaky_relu(x, 0.05) if signed else x.relu()
    widths = [Precision(w, a) for w in (2, 3, 4, 8, 32) for a in (3, 4, 8, 32)]
    damage = bit_allocation.predict(conv, found, x, {"only": widths})["only"]
    assert (damage.slot, damage.options) == ("only", tuple(widths))
    for width in widths:
        expected = 0.0
        if width.weights < 32:
            weights = WeightQuantizer(width.weights, 5)
            weights.calibrate(conv.weight)
            expected += (weights(conv.weight) - conv.weight).square().sum().item()
        if width.activations < 32:
            inputs = fitted(x, conv, width.activations, signed, spread)
            expected += (inputs(x) - x).square().mean((0, 2, 3)).sum().item()
        assert damage.at(width) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_pixels_lie_on_their_grid(pixels):
    conv, found = single()
    given = {"only": (Precision(32, 8), Precision(32, 4))}
    row = bit_allocation.predict(conv, found, pixels(2), given)["only"]
    assert row.mse[0] == pytest.approx(0, abs=1e-12)
    assert row.mse[1] > 1e-4


def rounding(net: nn.Module, slot: str, bits: int) -> None:
    """Round the weights and the inputs of one slot of a float network, in place."""
    for name, conv in network.convolutions(net).items():
        if name.split(".")[0] == slot:
            weights = WeightQuantizer(bits, conv.out_channels)
            weights.calibrate(conv.weight)
            conv.weight.data = weights(conv.weight).data
            conv.register_forward_pre_hook(lambda m, args: (rounded(args[0], bits),))


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    grid = ActQuantizer(bits, bool((x < 0).any()))
    grid.calibrate(x)
    return grid(x)


def test_it_is_about_the_true_error_of_rounding_one_slot_alone(tiny, random_genotype, pixels):
    genotype, low = random_genotype(tiny, 4), pixels(4, 9, 8)
    net = network.build(tiny, genotype, None).eval()
    given = {s.name: (Precision(4, 4), Precision(8, 8)) for s in registry.slots(tiny)}
    damage = bit_allocation.predict(net, saliency.measure(net, low, draws=8), low, given)
    assert list(damage) == list(given)
    with torch.no_grad():
        expected = net(low)
        for slot, row in damage.items():
            for width, mse in zip(row.options, row.mse, strict=True):
                changed = copy.deepcopy(net)
                rounding(changed, slot, width.weights)
                post_training.correct_biases(changed, net, low)
                true = (changed(low) - expected).square().mean().item()
                assert true / 3 < mse < true * 3, (slot, width)
            assert row.mse[1] < 0.1 * row.mse[0]


def test_a_slot_without_convolution_is_not_damaged(apart, random_genotype, pixels):
    genotype = random_genotype(apart, 0)
    choices = genotype.choices | {"upsample": Choice("identity", 2, 4)}
    net = network.build(apart, dataclasses.replace(genotype, choices=choices), None)
    given = bit_allocation.options(registry.slots(apart), WIDTHS) | {"upsample": WIDTHS}
    low = pixels(1)
    damage = bit_allocation.predict(net, saliency.measure(net, low, draws=1), low, given)
    assert damage["upsample"].mse == (0.0,) * len(WIDTHS)
    assert all(min(row.mse) > 0 for name, row in damage.items() if name != "upsample")
