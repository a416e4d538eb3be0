"""Checks the published basic space: its known numbers, its wiring, and cells decided together."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import cost, network, registry
from quantnas.config import search_space
from quantnas.config.genotype import Choice, Genotype, searched_precision
from quantnas.config.search_space import Edge
from quantnas.errors import UsageError
from quantnas.nas import gradient_search, inheritance, supernet
from quantnas.nas.adaptive_norm import Adq

PUBLISHED = {  # drawn in the paper's repository; its `upsample` is not in the published settings
    "head0": ("conv3x3_groups3", 8),
    "head1": ("conv3x3", 8),
    "body0": ("conv3x3", 4),
    "body1": ("factorised3x3", 4),
    "skip": ("conv1x1", 8),
    "upsample": ("factorised3x3", 8),
    "tail0": ("conv3x3", 8),
    "tail1": ("conv3x3", 8),
}
PLAIN = {
    name: (op if op.startswith("conv") else "conv3x3", 8) for name, (op, _) in PUBLISHED.items()
}


def chosen(space, wanted=PLAIN) -> Genotype:
    choices = {}
    for slot in registry.slots(space):
        op, bits = wanted[slot.name.rpartition("_")[2]]
        choices[slot.name] = Choice(op, bits, bits)
    return Genotype(space.name, choices)


@pytest.fixture
def published():
    return search_space.load("basic")


@pytest.fixture
def small(published):
    """The published space with 12 channels and two cells."""
    return dataclasses.replace(published, channels=12, cells=2)


def plain_network(convs, x, space):
    """Forward pass as published, without adaptive deviation, written independently."""

    def conv(name, t):
        return convs[name](F.relu(t))

    h = z = conv("head1", conv("head0", x))
    for k in range(space.cells):
        body = conv(f"cell{k}_body1", conv(f"cell{k}_body0", z))
        z = z + conv(f"cell{k}_skip", z) + body
    y = F.pixel_shuffle(conv("upsample", h + z), space.scale)
    return y + conv("tail1", conv("tail0", y))


def test_the_published_genotype_costs_what_is_published(published):
    genotype = chosen(published, PUBLISHED)
    slots = registry.slots(published)
    rows = cost.layers(slots, genotype, searched_precision(genotype), published.scale)
    assert cost.total(rows, published.scale).bitops["LR 32x32"] == 4_628_938_752


def test_the_extremes_cost_what_is_published(published):
    found = cost.extent(registry.slots(published), published.scale)
    low, high = (found[end].bitops["LR 32x32"] for end in ("smallest", "largest"))
    assert (low / 1e9, high / 1e9) == (pytest.approx(1.04, abs=5e-3), pytest.approx(29.9, abs=0.05))
    assert found["architectures"] == 19_660_800 and found["searched_edges"] == 8


def test_the_space_has_the_published_size(published):
    options = {s.choice: s.options for s in registry.slots(published)}
    assert len(options) == 8 and sum(options.values()) == 66
    assert math.prod(options.values()) == 19_660_800


def test_cells_are_decided_together(small):
    net = supernet.build(small)
    assert len(supernet.choices(net)) == 8 and len(supernet.edges(net)) == 11
    decided = supernet.decide(net, "basic").choices
    assert {n: decided[f"cell0_{n}"] for n in ("skip", "body0", "body1")} == {
        n: decided[f"cell1_{n}"] for n in ("skip", "body0", "body1")
    }


def test_the_first_and_the_last_slot_are_the_first_and_the_last_convolution(published):
    names = [s.name for s in registry.slots(published)]
    assert (names[0], names[-1], len({*names})) == ("head0", "tail1", 14)


def test_the_network_is_wired_as_published(small, pixels):
    net = network.build(small, chosen(small), None).double().eval()
    x = pixels(2, 7, 10).double()
    with torch.no_grad():
        wanted = plain_network(network.convolutions(net), x, small)
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-12)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_scale_builds_and_gives_its_size(small, pixels, scale):
    net = supernet.build(dataclasses.replace(small, scale=scale, cells=1))
    out = net(pixels(1, 7, 10))
    assert out.shape == (1, 3, 7 * scale, 10 * scale)
    out.square().mean().backward()
    assert all(alpha.grad is not None for alpha in supernet.alphas(net))


def test_an_image_of_one_pixel_is_large_enough(small, pixels):
    with torch.no_grad():
        assert network.build(small, chosen(small), None)(pixels(1, 1, 1)).shape == (1, 3, 4, 4)


def test_upsampling_goes_without_what_does_not_divide(published):
    edges = published.edges | {"upsample": Edge(("conv3x3", "conv3x3_groups2"), (8,))}
    for scale, count in ((2, 2), (3, 1), (4, 2)):
        space = dataclasses.replace(published, scale=scale, edges=edges)
        (slot,) = (s for s in registry.slots(space) if s.name == "upsample")
        assert len(slot.ops) == count


@pytest.mark.parametrize("kind", ["body", "skip", "tail"])
def test_an_edge_with_a_batch_norm_behind_it_cannot_be_the_identity(published, kind):
    edges = published.edges | {kind: Edge(("conv3x3", "identity"), (8,))}
    with pytest.raises(UsageError, match=rf"'edges\.{kind}\.ops' cannot have 'identity'"):
        registry.slots(dataclasses.replace(published, edges=edges))


def test_all_deviations_fold_into_convolutions(small, pixels):
    space, low = dataclasses.replace(small, scale=2), pixels(2, 7, 10)
    net = supernet.build(space)
    found = [m for m in net.modules() if isinstance(m, Adq)]
    assert len(found) == 2 * space.cells + 1
    genotype = chosen(space, PUBLISHED | {"upsample": ("conv3x3_groups3", 8)})
    supernet.settle(net, genotype, [low])
    with torch.no_grad():
        for m in found:  # a deviation that is the same for every image, and no shift to round
            m.w.zero_()
            m.c.fill_(1.3)
            m.norm.weight.uniform_(-1.5, 1.5)
            m.norm.running_mean.zero_()
    gradient_search.fit_grids(net, low)
    net = net.double().eval()
    rounded = network.build(space, genotype, searched_precision(genotype)).double().eval()
    inheritance.inherit_supernet(rounded, net)
    with torch.no_grad():
        wanted = net(low.double())
        torch.testing.assert_close(rounded(low.double()), wanted, rtol=0, atol=1e-9)
    assert wanted.std() > 0.05
