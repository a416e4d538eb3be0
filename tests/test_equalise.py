"""Checks equalisation: the network computes the same, and its tensors fit their grids better."""

import copy
import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quantnas import equalise, network, ops, quantize, skeleton, space
from quantnas.conv import Conv2d
from quantnas.genotype import uniform_precision
from quantnas.quantizer import FloatTensor
from quantnas.space import Precision, Slot

SMALL = [*sorted(space.builtin()), "tiny", "apart"]
KNOWN = {
    "nothing": lambda y: y,
    "relu": torch.relu,
    "relu of a module": F.relu,
    "leaky relu": lambda y: F.leaky_relu(y, 0.05),
    "pooling": lambda y: torch.max_pool2d(y, 3, 2),
    "resizing": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
    "a factor": lambda y: 0.5 * y,
    "a sum with itself": lambda y: y + y,
    "parts changing places": lambda y: torch.cat(
        [torch.narrow(y, 1, 4, 4), torch.narrow(y, 1, 0, 4)], 1
    ),
}
UNKNOWN = {
    "tanh": torch.tanh,
    "square": lambda y: y * y,
    "a constant": lambda y: y + 1,
    "other order": lambda y: y.flip(1),
    "softmax": lambda y: torch.softmax(y, 1),
    "one channel for all": lambda y: y + torch.narrow(y, 1, 0, 1),
    "one channel times all": lambda y: torch.narrow(y, 1, 0, 1) * torch.sigmoid(y),
    "indices": lambda y: torch.cat([y[:, 4:], y[:, :4]], 1),
    "shape": lambda y: y + y.shape[-1],
    "rows": lambda y: torch.narrow(y, 2, 0, 4),
    "rows behind each other": lambda y: torch.cat([y, y], 2),
    "another grid": FloatTensor(8, False, 1 / 255),
}


class Between(nn.Module):
    """A convolution to 8 channels, any function, another convolution."""

    def __init__(self, function, **kw) -> None:
        super().__init__()
        self.head, self.function = nn.Conv2d(3, 8, 3, padding=1), function
        self.grid, self.tail = FloatTensor(8, True), nn.Conv2d(8, 3, 3, **kw)

    def forward(self, x):
        return self.tail(self.function(self.grid(self.head(x))))


class Wired(nn.Module):
    """What the house does not do: a convolution that runs twice, around a stream and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mask = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.tail = nn.Conv2d(8, 3, 1, bias=False)

    def forward(self, x):
        y = self.head(x)
        y = y + self.body(torch.relu(y))
        y += self.body(torch.relu(y))
        return self.tail(torch.sigmoid(self.mask(x)) * y)


@torch.no_grad()
def unbalanced(net: nn.Module) -> nn.Module:
    """In double precision, output channels of every convolution multiplied by 1/8 to 8; one dead.

    Factors make up for each other, or the mask of an attention is 0 or 1 everywhere.
    """
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d):
            factor = torch.logspace(-3, 3, len(conv.weight), 2)[torch.randperm(len(conv.weight))]
            factor = factor / (1 + factor.mean())
            if len(factor) > 3:
                factor[1] = 0
            conv.weight.mul_(factor[:, None, None, None])
            if conv.bias is not None:
                conv.bias.mul_(factor)
    return net.double().eval()


def quick(net: nn.Module, low: torch.Tensor) -> int:
    """Balance, by few steps."""
    return equalise.balance(net.requires_grad_(False), low, steps=5)


@torch.no_grad()
def check_the_same(net: nn.Module, low: torch.Tensor, scale=quick) -> int:
    """Rescale, and compare on other pixels; the number of scaled channels."""
    other = low.flip(0, 2)
    wanted = net(other)
    count = scale(net, low)
    spread = wanted.max() - wanted.min()
    assert spread > 1e-3 and (net(other) - wanted).abs().max() < 1e-9 * spread
    return count


@pytest.fixture
def load(tiny, apart):
    """Name of a built-in space or of a fixture -> that space with few channels."""

    def find(name: str):
        given = {"tiny": tiny, "apart": apart}
        return given.get(name) or dataclasses.replace(space.load(name, 2), channels=12, cells=2)

    return find


@pytest.mark.parametrize("name", SMALL)
def test_every_space_computes_the_same(load, random_genotype, pixels, name):
    low = pixels(2, 15, 17).double()
    where = load(name)
    net = unbalanced(network.build(where, random_genotype(where, 0), None))
    assert check_the_same(net, low) > 12


def test_the_spaces_hold_every_skeleton(load):
    assert {load(name).skeleton for name in SMALL} == set(skeleton.SKELETONS)


@pytest.mark.parametrize("name", ops.OPS)
def test_every_operation_computes_the_same(pixels, name):
    up = 2 if name.startswith("transposed") else 1
    slot = Slot("body", 12, 6, 12, (name,), (Precision(8, 8),), up=up)
    net = nn.Sequential(Conv2d(3, 12, 3), ops.build(name, Conv2d, slot), Conv2d(12, 3, 1))
    made = [conv.out_channels for conv in net.modules() if isinstance(conv, nn.Conv2d)][:-1]
    count = check_the_same(unbalanced(net), pixels().double())
    fixed = made.pop() if up > 1 else 0
    assert 0.6 * sum(made) <= count <= sum(made) and fixed in (0, 3)


@pytest.mark.parametrize("name", KNOWN)
def test_known_functions_hand_scales_on(pixels, name):
    assert 5 <= check_the_same(unbalanced(Between(KNOWN[name])), pixels().double()) <= 8


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_functions_keep_all_scales(pixels, name):
    net = unbalanced(Between(UNKNOWN[name], padding=1))
    assert check_the_same(net, pixels().double()) <= (1 if name.startswith("one") else 0)


def test_streams_masks_and_convolutions_that_run_twice(pixels):
    net = unbalanced(Wired())
    before = {name: p.clone() for name, p in net.named_parameters()}
    assert check_the_same(net, pixels().double()) > 8
    after = dict(net.named_parameters())
    assert torch.equal(after["mask.bias"], before["mask.bias"])
    divided = before["head.bias"] / after["head.bias"]
    alive = (before["head.bias"] != 0) & (before["body.bias"] != 0)
    torch.testing.assert_close((before["body.bias"] / after["body.bias"])[alive], divided[alive])
    assert divided[alive].unique().numel() > 3


def test_the_ends_of_a_network_stay(load, random_genotype, pixels):
    where = load("edsr_baseline")
    net = unbalanced(network.build(where, random_genotype(where, 0), None))
    given = copy.deepcopy(net)
    quick(net, pixels().double())
    (first, *_, last), (first_given, *_, last_given) = (
        list(network.convolutions(n).values()) for n in (net, given)
    )
    assert torch.equal(last.bias, last_given.bias)
    factor = (first.weight / first_given.weight).flatten(1)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), equal_nan=True)
    assert factor.nan_to_num(1).max() > 1.2


@pytest.fixture
def planted(load, random_genotype, pixels):
    """(float stack whose channels reach 1/16 to 1 of what they should, its rounding to 8 bits)."""
    where = load("quicksrnet_small")
    genotype, low = random_genotype(where, 0), pixels(4)
    net = network.build(where, genotype, None).eval()
    convs = list(network.convolutions(net).values())
    with torch.no_grad():
        for conv, reader in itertools.pairwise(convs):
            factor = torch.logspace(0, 4, len(conv.weight), 2)
            conv.weight.div_(factor[:, None, None, None])
            conv.bias.div_(factor)
            reader.weight.mul_(factor[:, None, None])
        convs[-1].weight.mul_(8)  # or the rounding of the pixels hides what is lost

    def rounded(scaled: nn.Module) -> nn.Module:
        precision = uniform_precision(skeleton.slots(where), 8)
        found = network.build(where, genotype, precision)
        network.inherit(found, scaled)
        quantize.initialise(found, low)
        return found

    return net, rounded


@torch.no_grad()
def test_unequal_channels_lose_less_when_they_are_equalised(planted, pixels):
    net, rounded = planted
    low = pixels(2, 9, 11, 3)
    wanted = net(low).clamp(0, 1)
    before = F.mse_loss(rounded(net)(low), wanted)
    assert equalise.balance(net, pixels(4)) > 12
    after = F.mse_loss(rounded(net)(low), wanted)
    assert after < 0.5 * before, (after / before, before)
