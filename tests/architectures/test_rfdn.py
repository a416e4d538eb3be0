"""Checks the published RFDN-like space: its known numbers, its wiring and its attention."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import cost, network, registry
from quantnas.architectures.rfdn import Rfdn, resize_like
from quantnas.config import search_space
from quantnas.config.genotype import Choice, Genotype, searched_precision
from quantnas.config.search_space import AREAS, Edge
from quantnas.errors import UsageError
from quantnas.nas import gradient_search, inheritance, supernet
from quantnas.nas.adaptive_norm import Adq
from quantnas.nn import operations

PLAIN = {"body": "conv3x3", "distill": "conv1x1", "upsample": "conv3x3", "tail": "conv3x3"}


def chosen(space, wanted=PLAIN, bits=8) -> Genotype:
    """A genotype with the same operation on every edge of a kind."""
    found = {s.name: wanted.get(s.kind, s.ops[0]) for s in registry.slots(space)}
    return Genotype(space.name, {name: Choice(op, bits, bits) for name, op in found.items()})


def total(space, genotype) -> cost.Cost:
    rows = cost.layers(registry.slots(space), genotype, searched_precision(genotype), space.scale)
    return cost.total(rows, space.scale)


@pytest.fixture
def published():
    return search_space.load("rfdn")


@pytest.fixture
def small(published):
    """The published space with 12 channels and two cells."""
    return dataclasses.replace(published, channels=12, cells=2)


def plain_attention(convs, v, prefix):
    """The attention of the paper, written independently: a ReLU precedes every convolution."""

    def conv(name, t):
        return convs[prefix + name](F.relu(t))

    thin = conv("reduce", v)
    c = F.max_pool2d(conv("stride", thin), kernel_size=7, stride=3)
    for i in range(3):
        c = conv(f"pooled{i}", c)
    c = F.interpolate(c, size=v.shape[2:], mode="bilinear", align_corners=False)
    return v * torch.sigmoid(conv("expand", c + conv("direct", thin)))


def plain_network(convs, x, space):
    """Forward pass as published, without adaptive deviation, written independently."""

    def conv(name, t):
        return convs[name](F.relu(t))

    shallow = y = x.repeat(1, space.channels // 3, 1, 1)
    outputs = []
    for k in range(space.cells):
        kept, u = [], y
        for i in range(3):
            kept.append(conv(f"cell{k}_distill{i}", u))
            u = u + conv(f"cell{k}_body{i}", u)
        kept.append(conv(f"cell{k}_body3", u))
        v = conv(f"cell{k}_fuse", torch.cat(kept, 1))
        y = y + plain_attention(convs, v, f"cell{k}_esa_")
        outputs.append(y)
    t = conv("smooth", conv("fuse", torch.cat(outputs, 1))) + shallow
    y = F.pixel_shuffle(conv("upsample", t), space.scale)
    return y + conv("tail", y)


def test_the_plain_genotype_costs_what_is_published(published):
    found = total(published, chosen(published))
    assert found.bitops["LR 32x32"] == 24_969_461_760
    assert found.bitops["LR 256x256"] / 1e9 == pytest.approx(1599.719, abs=5e-4)


def test_the_extremes_cost_what_is_published(published):
    found = cost.extent(registry.slots(published), published.scale)
    low, high = (found[end].bitops["LR 32x32"] for end in ("smallest", "largest"))
    assert (low / 1e9, high / 1e9) == (
        pytest.approx(3.99, rel=2e-3),
        pytest.approx(199.9, rel=1e-3),
    )


def test_the_space_has_the_published_size(published):
    searched = [s for s in registry.slots(published) if s.options > 1]
    assert len(searched) == 30 and sum(s.options for s in searched) == 534
    entropy = sum(math.log(s.options) for s in searched)
    assert entropy == pytest.approx(29 * math.log(18) + math.log(12))
    assert round(entropy, 1) == 86.3
    assert all(not s.shared for s in searched)


def test_the_uniform_cost_is_the_published_one(published):
    """Operations of the searched edges, linear in bits, two per multiply-accumulate."""
    expected = 0.0
    for slot in registry.slots(published):
        if slot.options > 1:
            outputs = AREAS[slot.area](32, 32, published.scale)
            macs = [sum(map(math.prod, operations.shapes(op, slot))) * outputs for op in slot.ops]
            bits = [w.weights for w in slot.bit_widths]
            expected += 2 * sum(macs) / len(macs) * sum(bits) / len(bits)
    assert expected == pytest.approx(9.31381248e9, rel=1e-12)


def test_the_first_and_the_last_slot_are_the_first_and_the_last_convolution(published):
    names = [s.name for s in registry.slots(published)]
    assert (names[0], names[-1], len(names)) == ("cell0_distill0", "tail", 64)
    assert len({*names}) == 64


def test_the_network_is_wired_as_published(small, pixels):
    net = network.build(small, chosen(small), None).double().eval()
    x = pixels(2, 17, 20).double()
    with torch.no_grad():
        wanted = plain_network(network.convolutions(net), x, small)
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-12)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("size", [(15, 15), (16, 33), (40, 21)])
def test_the_attention_is_the_published_one(small, size):
    net = network.build(small, chosen(small), None).double()
    v = torch.randn(2, 12, *size, dtype=torch.float64)
    with torch.no_grad():
        wanted = plain_attention(network.convolutions(net), v, "cell1_esa_")
        torch.testing.assert_close(net.cells[1].attention(v), wanted, rtol=0, atol=1e-12)
    assert (wanted / v).std() > 1e-3


def test_the_smallest_image_is_the_one_that_is_named(small, pixels):
    net, side = network.build(small, chosen(small), None), Rfdn.smallest
    with torch.no_grad():
        assert net(pixels(1, side, side)).shape == (1, 3, 4 * side, 4 * side)
        with pytest.raises(RuntimeError):
            net(pixels(1, side - 1, side))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_scale_builds_and_gives_its_size(small, pixels, scale):
    space = dataclasses.replace(small, scale=scale, cells=1)
    net = supernet.build(space)
    out = net(pixels(1, 15, 16))
    assert out.shape == (1, 3, 15 * scale, 16 * scale)
    out.square().mean().backward()
    assert all(alpha.grad is not None for alpha in supernet.alphas(net))


def test_upsampling_goes_without_what_does_not_divide():
    for scale in (2, 3, 4):
        space = search_space.load("rfdn", scale)
        (slot,) = (s for s in registry.slots(space) if s.name == "upsample")
        grouped = [op for op in slot.ops if "groups2" in op]
        assert (len(slot.ops), len(grouped)) == ((6, 0) if scale == 3 else (9, 3))


def test_no_operation_left_for_upsampling_is_a_usage_error(published):
    edges = published.edges | {"upsample": Edge(("conv3x3_groups2",), (8,))}
    with pytest.raises(UsageError, match=r"'edges\.upsample\.ops'.*48 channels into the 27"):
        registry.slots(dataclasses.replace(published, scale=3, edges=edges))


@pytest.mark.parametrize("channels", [2, 8, 16, 50])
def test_channels_that_cannot_hold_the_image_are_a_usage_error(published, channels):
    with pytest.raises(UsageError, match=f"'channels' cannot be {channels}") as caught:
        registry.slots(dataclasses.replace(published, channels=channels))
    assert "multiple of 6" in caught.value.remedy


def test_the_deviations_fold_into_the_convolutions_in_front_of_the_attention(small, pixels):
    space, low = dataclasses.replace(small, scale=2), pixels(2, 15, 16)
    net = supernet.build(space)
    found = [m for m in net.modules() if isinstance(m, Adq)]
    assert len(found) == space.cells
    genotype = chosen(space)
    for slot in registry.slots(space):
        if slot.kind:
            genotype.choices[slot.name] = Choice(PLAIN[slot.kind], 4, 4)
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


def test_resizing_follows_the_size_of_the_other():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert resize_like(x, torch.empty(1, 5, 4, 9)).shape == (1, 1, 4, 9)
    assert torch.equal(resize_like(x, torch.empty(1, 5, 2, 3)), x)
