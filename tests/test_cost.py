"""Checks the closed form of the cost against real convolutions and against enumeration."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from quantnas import cost, network, skeleton, supernet
from quantnas.genotype import Choice, Genotype, Precision, searched_precision, uniform_precision
from quantnas.space import Edge, SearchSpace


def total_of(space, genotype, precision=None):
    rows = cost.layers(skeleton.slots(space), genotype, precision or searched_precision(genotype))
    return cost.total(rows, space.scale)


def counted(net: nn.Module, low: torch.Tensor) -> tuple[int, int]:
    """(multiply-accumulates, BitOps) of one image, from what every convolution really does."""
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


@pytest.mark.parametrize("bits", [None, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_what_the_network_does(tiny, random_genotype, pixels, seed, bits):
    space = dataclasses.replace(tiny, cells=2, scale=4)
    genotype = random_genotype(space, seed)
    slots = skeleton.slots(space)
    precision = uniform_precision(slots, bits) if bits else searched_precision(genotype)
    net = network.build(space, genotype, precision)
    found = total_of(space, genotype, precision)
    macs, bitops = counted(net, pixels(1, 7, 5))
    assert sum(row.macs for row in found.layers) * 35 == macs
    assert sum(row.bitops for row in found.layers) * 35 == bitops
    convs = network.convolutions(net)
    assert found.parameters == sum(c.weight.numel() + c.bias.numel() for c in convs.values())


def test_layers_describe_the_convolutions(tiny, random_genotype):
    genotype = random_genotype(tiny, 4)
    net = network.build(tiny, genotype, searched_precision(genotype))
    rows = {row.name: row for row in total_of(tiny, genotype).layers}
    convs = network.convolutions(net)
    assert set(rows) == set(convs)
    for name, conv in convs.items():
        assert rows[name].shape == tuple(conv.weight.shape)
        assert rows[name].op == genotype.choices[name.partition(".")[0]].op
        assert rows[name].weight_bits == conv.weight_quantizer.bits
        assert rows[name].act_bits == conv.grid.bits


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_totals_state_the_resolution(tiny, random_genotype, scale):
    fits = Edge(("conv3x3",), (8,))
    space = dataclasses.replace(tiny, scale=scale, edges=tiny.edges | {"upsample": fits})
    found = total_of(space, random_genotype(space, 0))
    macs, bitops = (sum(getattr(r, k) for r in found.layers) for k in ("macs", "bitops"))
    sizes = {"LR 32x32": 1024, "LR 256x256": 65536, "1280x720 output": 921600 // scale**2}
    assert found.macs == {name: macs * n for name, n in sizes.items()}
    assert found.bitops == {name: bitops * n for name, n in sizes.items()}


def test_a_known_convolution_costs_what_it_costs():
    slots, edge = skeleton.slots, Edge(("conv1x1",), (8,))
    space = SearchSpace("s", "rfdn", 2, 2, 1, dict.fromkeys(("body", "distill", "upsample"), edge))
    genotype = Genotype("s", {s.name: Choice(s.ops[0], 8) for s in slots(space)})
    precision = searched_precision(genotype) | {"smooth": Precision(3, 4)}
    rows = {r.name: r for r in cost.layers(slots(space), genotype, precision)}
    assert rows["head"].macs == 3 * 2 * 9 and rows["head"].parameters == 3 * 2 * 9 + 2
    assert rows["cell0_distill0"].macs == 2 * 1
    assert rows["upsample"].bitops == 2 * 12 * 64
    assert rows["smooth"].bitops == 2 * 2 * 9 * 3 * 4


@pytest.mark.parametrize("seed", range(4))
def test_a_decided_supernet_expects_the_cost_of_its_genotype(tiny, random_genotype, seed):
    net, genotype = supernet.build(tiny), random_genotype(tiny, seed)
    supernet.collapse(net, genotype)
    wanted = sum(row.bitops for row in total_of(tiny, genotype).layers)
    assert cost.expected_bitops(net).item() == pytest.approx(wanted, rel=1e-6)


def small(tiny):
    """A space small enough to count out."""
    edges = {
        "body": Edge(("conv1x1", "growth3x3"), (4, 8)),
        "distill": Edge(("conv1x1",), (8,)),
        "upsample": Edge(("conv3x3", "conv1x1"), (2, 8)),
    }
    return dataclasses.replace(tiny, edges=edges)


def every_genotype(space):
    slots = skeleton.slots(space)
    options = [[Choice(o, b) for o in s.ops for b in s.bits] for s in slots]
    for picks in itertools.product(*options):
        yield Genotype("x", {s.name: c for s, c in zip(slots, picks, strict=True)})


def test_expectation_and_extent_agree_with_counting_everything_out(tiny):
    space = small(tiny)
    slots = skeleton.slots(space)
    totals = [
        sum(r.bitops for r in cost.layers(slots, g, searched_precision(g)))
        for g in every_genotype(space)
    ]
    uniform = cost.expected_bitops(supernet.build(space)).item()
    assert uniform == pytest.approx(sum(totals) / len(totals), rel=1e-6)
    extent = cost.extent(slots, space.scale)
    assert extent["architectures"] == len(totals) == 4**5
    assert extent["searched_edges"] == 5
    for name, pick in (("smallest", min), ("largest", max)):
        assert extent[name].bitops["LR 32x32"] == pick(totals) * 1024


@pytest.mark.parametrize("seed", range(5))
def test_every_architecture_lies_between_the_smallest_and_the_largest(tiny, random_genotype, seed):
    space = dataclasses.replace(tiny, cells=2)
    extent = cost.extent(skeleton.slots(space), space.scale)
    found = total_of(space, random_genotype(space, seed))
    for key in found.bitops:
        assert extent["smallest"].bitops[key] < found.bitops[key] < extent["largest"].bitops[key]
    assert extent["smallest"].weight_bytes <= found.weight_bytes <= extent["largest"].weight_bytes


def test_the_expected_cost_falls_along_its_gradient(tiny):
    net = supernet.build(tiny)
    before = cost.expected_bitops(net)
    before.backward()
    edge = supernet.edges(net)["cell0_body0"]
    assert edge.alpha_bits.grad[0] < 0 < edge.alpha_bits.grad[2]
    with torch.no_grad():
        for alpha in supernet.alphas(net):
            alpha.sub_(alpha.grad / alpha.grad.norm() * 0.1)
    assert cost.expected_bitops(net) < before
