"""Checks EDSR: its wiring against an independent forward pass, and its upsampler."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import network, registry
from quantnas.config import search_space
from quantnas.config.search_space import Edge
from quantnas.errors import UsageError


@pytest.fixture
def small():
    """EDSR with 8 channels and two cells."""
    return dataclasses.replace(search_space.load("edsr_baseline"), channels=8, cells=2)


def plain_network(convs, x, space):
    """Forward pass of the published network without the mean colour, written independently."""
    shallow = y = convs["head"](x)
    for k in range(space.cells):
        y = y + convs[f"cell{k}_body1"](F.relu(convs[f"cell{k}_body0"](y)))
    y = convs["smooth"](y) + shallow
    if space.scale == 4:
        y = F.pixel_shuffle(convs["upsample0"](y), 2)
        y = F.pixel_shuffle(convs["upsample1"](y), 2)
    else:
        y = F.pixel_shuffle(convs["upsample0"](y), space.scale)
    return convs["tail"](y)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_network_is_wired_as_published(small, random_genotype, pixels, scale):
    space = dataclasses.replace(small, scale=scale)
    net = network.build(space, random_genotype(space, 0), None).double()
    x = pixels(2, 7, 10).double()
    with torch.no_grad():
        wanted = plain_network(network.convolutions(net), x, space)
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-12)
    assert wanted.shape == (2, 3, 7 * scale, 10 * scale) and wanted.std() > 1e-3


def test_the_mean_colour_is_in_the_biases(small, random_genotype, pixels):
    space, mean = dataclasses.replace(small, scale=2), torch.tensor([0.45, 0.44, 0.4])
    net = network.build(space, random_genotype(space, 0), None).double()
    x, mean = pixels(1, 24, 24).double(), mean.double()[:, None, None]
    convs = network.convolutions(net)
    with torch.no_grad():
        wanted = plain_network(convs, x - mean, space) + mean
        convs["head"].bias -= (convs["head"].weight * mean).sum((1, 2, 3))
        convs["tail"].bias += mean.flatten()
        difference = (net(x) - wanted).abs()
    reach = 2 * (1 + 2 * space.cells + 2) + 1  # of the border, in large pixels
    assert difference[..., reach:-reach, reach:-reach].max() < 1e-12 < difference.max()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_upsampler_has_a_step_for_every_factor(scale):
    slots = {slot.name: slot for slot in registry.slots(search_space.load("edsr_baseline", scale))}
    found = [(s.c_in, s.c_out, s.area) for n, s in slots.items() if n.startswith("upsample")]
    wanted = {2: [(64, 256, "low")], 3: [(64, 576, "low")]}
    assert found == wanted.get(scale, [(64, 256, "low"), (64, 256, "double")])
    assert slots["tail"].area == "high" and len(slots) == 1 + 32 + 1 + len(found) + 1


def test_a_branch_without_convolution_is_a_usage_error(small):
    edges = small.edges | {"body": Edge(("conv3x3", "identity"), (8,))}
    with pytest.raises(UsageError, match=r"'edges\.body\.ops' cannot have 'identity'"):
        registry.slots(dataclasses.replace(small, edges=edges))
