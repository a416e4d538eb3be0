"""Checks the closed form of the cost against the convolutions that run, and enumeration."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from quantnas.architectures import cost, network, registry
from quantnas.config import search_space
from quantnas.config.genotype import (
    Choice,
    Genotype,
    choice_of,
    searched_precision,
    uniform_precision,
)
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import Edge, Precision, SearchSpace
from quantnas.nas import objective, supernet

SPACES = ["tiny", "apart", "basic", "rfdn", "edsr", "imdn", "rfdn_published"]


def rows_of(space, genotype, precision=None):
    precision = precision or searched_precision(genotype)
    return cost.layers(registry.slots(space), genotype, precision, space.scale)


def total_of(space, genotype, precision=None):
    return cost.total(rows_of(space, genotype, precision), space.scale)


def counted(net: nn.Module, low: torch.Tensor) -> tuple[int, int]:
    """(multiply-accumulates, BitOps) of one image, measured on every convolution that runs."""
    found = []

    def hook(conv, args, out):
        taps = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
        bits = conv.weight_quantizer.bits * conv.grid.bits
        found.append((out[0].numel() * taps, out[0].numel() * taps * bits))

    hooks = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(low)
    for h in hooks:
        h.remove()
    macs, bitops = zip(*found, strict=True)
    return sum(macs), sum(bitops)


# A decided network


@pytest.mark.parametrize("bits", [None, 3])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SPACES)
def test_the_closed_form_is_what_the_network_does(small, random_genotype, pixels, name, seed, bits):
    space = small[name]
    genotype = random_genotype(space, seed)
    precision = searched_precision(genotype)
    if bits:
        precision = uniform_precision(registry.slots(space), bits)
    net = network.build(space, genotype, precision)
    rows = rows_of(space, genotype, precision)
    macs, bitops = counted(net, pixels(1, 17, 20))
    assert sum(row.macs_at(17, 20, space.scale) for row in rows) == macs
    assert cost.bitops_at(rows, (17, 20), space.scale) == bitops
    convs = network.convolutions(net).values()
    wanted = sum(c.weight.numel() + c.bias.numel() for c in convs)
    assert cost.total(rows, space.scale).parameters == wanted


@pytest.mark.parametrize("name", SPACES)
def test_what_a_layer_says_is_at_32x32(small, random_genotype, pixels, name):
    space = small[name]
    genotype = random_genotype(space, 3)
    net = network.build(space, genotype, searched_precision(genotype))
    rows = rows_of(space, genotype)
    found = sum(r.macs for r in rows), sum(r.bitops for r in rows)
    assert found == counted(net, pixels(1, 32, 32))


@pytest.mark.parametrize("name", SPACES)
def test_layers_describe_the_convolutions(small, random_genotype, name):
    space = small[name]
    genotype = random_genotype(space, 4)
    net = network.build(space, genotype, searched_precision(genotype))
    rows = {row.name: row for row in total_of(space, genotype).layers}
    convs = network.convolutions(net)
    assert set(rows) == set(convs)
    for layer, conv in convs.items():
        assert rows[layer].shape == tuple(conv.weight.shape)
        assert rows[layer].op == genotype.choices[layer.partition(".")[0]].op
        assert rows[layer].weight_bits == conv.weight_quantizer.bits
        assert rows[layer].act_bits == conv.grid.bits


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_totals_state_the_resolution(tiny, random_genotype, scale):
    fits = Edge(("conv3x3",), (8,))
    space = dataclasses.replace(tiny, scale=scale, edges=tiny.edges | {"upsample": fits})
    found = total_of(space, random_genotype(space, 0))
    macs, bitops = (sum(getattr(r, k) for r in found.layers) for k in ("macs", "bitops"))
    sizes = {"LR 32x32": 1024, "LR 256x256": 65536}
    sizes["1280x720 output"] = 720 // scale * -(-1280 // scale)
    assert found.macs == {name: macs // 1024 * n for name, n in sizes.items()}
    assert found.bitops == {name: bitops // 1024 * n for name, n in sizes.items()}


def test_a_known_convolution_costs_what_it_costs():
    edge = Edge(("conv1x1",), (8,))
    edges = dict.fromkeys(("body", "distill", "upsample"), edge)
    space = SearchSpace("s", "rfdn_deploy", 2, 2, 1, edges)
    genotype = Genotype("s", {s.name: Choice(s.ops[0], 8, 8) for s in registry.slots(space)})
    precision = searched_precision(genotype) | {"smooth": Precision(3, 4)}
    rows = {r.name: r for r in rows_of(space, genotype, precision)}
    assert rows["head"].macs_at(7, 5, 2) == 35 * 3 * 2 * 9
    assert rows["head"].parameters == 3 * 2 * 9 + 2
    assert rows["cell0_distill0"].macs == 2 * 1 * 1024
    assert rows["upsample"].bitops == 2 * 12 * 64 * 1024
    assert rows["smooth"].bitops == 2 * 2 * 9 * 3 * 4 * 1024


def test_areas_have_the_size_of_their_tensors():
    layer = cost.Layer("x", "conv3x3", (4, 2, 3, 3), 8, 8, "low", 0, 0)
    outputs = {"low": 15 * 20, "high": 15 * 20 * 9, "strided": 7 * 9, "pooled": 1 * 1}
    outputs |= {"double": 15 * 20 * 4, "single": 1}
    for area, n in outputs.items():
        assert dataclasses.replace(layer, area=area).macs_at(15, 20, 3) == 72 * n


@pytest.mark.parametrize(("bits", "stored"), [(2, 2), (3, 4), (4, 4), (8, 8), (32, 32)])
def test_weights_take_the_bytes_of_their_storage(bits, stored):
    layer = cost.Layer("x", "conv1x1", (5, 3, 1, 1), bits, 8, "low", 0, 20)
    assert cost.total([layer], 2).weight_bytes == -(-15 * stored // 8)


KNOWN = {
    ("edsr_baseline", 2): ("1.37 M", "316.25 G", "", ""),
    ("edsr_baseline", 4): ("1.52 M", "114.23 G", "", ""),
    ("imdn", 2): ("694 K", "158.8 G", "", ""),
    ("imdn", 4): ("715 K", "40.9 G", "727 M", "46.5 G"),
    ("rfdn48", 4): ("", "", "390 M", "25.0 G"),
    ("rfdn50", 4): ("433.448 K", "23.8 G", "422 M", "27.0 G"),
}
"""(Fixed network, scale) -> parameters, MACs at 1280x720 output, MACs and 8-bit BitOps at LR 32x32,
as published or counted by hand; empty = not known."""
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


@pytest.mark.parametrize(("name", "scale"), list(KNOWN))
def test_fixed_networks_cost_what_is_known(name, scale):
    space = search_space.load(name, scale)
    extent = cost.extent(registry.slots(space), scale)
    assert (extent["searched_edges"], extent["architectures"]) == (0, 1)
    found = extent["largest"]
    values = [found.parameters, found.macs["1280x720 output"], found.macs["LR 32x32"]]
    for value, known in zip([*values, found.bitops["LR 32x32"]], KNOWN[name, scale], strict=True):
        number, _, unit = known.partition(" ")
        decimals = len(number.partition(".")[2])
        assert not known or f"{value / UNITS[unit]:.{decimals}f}" == number


# A supernet


@pytest.mark.parametrize("probabilities", ["factorised", "joint"])
@pytest.mark.parametrize("name", SPACES)
def test_a_decided_supernet_expects_the_cost_of_its_genotype(
    small, random_genotype, name, probabilities
):
    space, how = small[name], SearchConfig(probabilities=probabilities)
    net, genotype = supernet.build(space, how), random_genotype(space, 1)
    supernet.collapse(net, genotype)
    for size in ((32, 32), (17, 20)):
        tables = cost.choice_bitops(registry.slots(space), space.scale, size)
        wanted = cost.bitops_at(rows_of(space, genotype), size, space.scale)
        assert objective.expected_bitops(net, tables).item() == pytest.approx(wanted, rel=1e-6)


def countable(tiny) -> SearchSpace:
    """A search space that is small enough to enumerate."""
    edges = {
        "body": Edge(("conv1x1", "growth3x3"), weight_bits=(4, 8), act_bits=(8,)),
        "distill": Edge(("conv1x1",), (8,)),
        "upsample": Edge(("conv3x3", "conv1x1"), (2, 8)),
    }
    return dataclasses.replace(tiny, edges=edges)


def every_genotype(space):
    slots = registry.slots(space)
    options = [
        [choice_of(s, o, w) for o in range(len(s.ops)) for w in range(len(s.bit_widths))]
        for s in slots
    ]
    for picks in itertools.product(*options):
        yield Genotype("x", {s.name: c for s, c in zip(slots, picks, strict=True)})


@pytest.mark.parametrize("probabilities", ["factorised", "joint"])
def test_the_expectation_is_the_mean_over_all_genotypes(tiny, probabilities):
    space = countable(tiny)
    net = supernet.build(space, SearchConfig(probabilities=probabilities))
    with torch.no_grad():
        for alpha in supernet.alphas(net):
            alpha.normal_()
    edges, wanted, mass = supernet.edges(net), 0.0, 0.0
    for found in every_genotype(space):
        p = 1.0
        for name, choice in found.choices.items():
            slot = edges[name].slot
            at = slot.ops.index(choice.op), slot.bit_widths.index(choice.precision)
            p *= edges[name].alphas.table()[at].item()
        mass += p
        wanted += p * cost.bitops_at(rows_of(space, found), (9, 7), 2)
    expected = objective.expected_bitops(net, cost.choice_bitops(registry.slots(space), 2, (9, 7)))
    assert mass == pytest.approx(1, rel=1e-5)
    assert expected.item() == pytest.approx(wanted, rel=1e-5)


def test_the_extent_agrees_with_counting_everything_out(tiny):
    space = countable(tiny)
    totals = [cost.bitops_at(rows_of(space, g), (32, 32), 2) for g in every_genotype(space)]
    extent = cost.extent(registry.slots(space), space.scale)
    assert extent["architectures"] == len(totals) == 4**5
    assert extent["searched_edges"] == 5
    for name, pick in (("smallest", min), ("largest", max)):
        assert extent[name].bitops["LR 32x32"] == pick(totals)


@pytest.mark.parametrize("name", SPACES)
def test_every_architecture_lies_between_the_smallest_and_the_largest(small, random_genotype, name):
    space = small[name]
    extent = cost.extent(registry.slots(space), space.scale)
    for seed in range(3):
        found = total_of(space, random_genotype(space, seed))
        for key, bitops in found.bitops.items():
            ends = [extent[end].bitops[key] for end in ("smallest", "largest")]
            assert ends[0] < bitops < ends[1]


def test_edges_that_are_decided_together_count_once_as_a_choice_and_all_as_work(small):
    space = small["basic"]
    net, extent = supernet.build(space), cost.extent(registry.slots(space), space.scale)
    tables = cost.choice_bitops(registry.slots(space), space.scale)
    assert extent["searched_edges"] == len(tables) == 8
    one = cost.option_bitops(supernet.edges(net)["cell0_skip"].slot, (32, 32), space.scale)
    assert tables["cells_skip"].tolist() == [[2 * n for n in row] for row in one]


def test_the_expected_cost_falls_along_its_gradient(tiny):
    net = supernet.build(tiny)
    tables = cost.choice_bitops(registry.slots(tiny), tiny.scale)
    before = objective.expected_bitops(net, tables)
    before.backward()
    found = supernet.edges(net)["cell0_body0"].alphas.pair.grad.sum(0)
    assert found[0] < 0 < found[2]
    with torch.no_grad():
        for alpha in supernet.alphas(net):
            alpha.sub_(alpha.grad / alpha.grad.norm() * 0.1)
    assert objective.expected_bitops(net, tables) < before
