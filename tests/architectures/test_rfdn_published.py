"""Checks the released RFDN: its wiring against an independent forward pass."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import network, registry
from quantnas.architectures.rfdn_published import RfdnPublished
from quantnas.config import search_space


@pytest.fixture
def small():
    """The released RFDN with 10 channels, a quarter of which is rounded to 2, and two cells."""
    return dataclasses.replace(search_space.load("rfdn50"), channels=10, cells=2)


def leaky(t):
    return torch.where(t > 0, t, 0.05 * t)


def plain_attention(convs, v, prefix):
    """The attention of the paper's code, written independently."""
    thin = convs[prefix + "reduce"](v)
    c = F.max_pool2d(convs[prefix + "stride"](thin), kernel_size=7, stride=3)
    c = F.relu(convs[prefix + "pooled0"](c))
    c = convs[prefix + "pooled2"](F.relu(convs[prefix + "pooled1"](c)))
    c = F.interpolate(c, size=v.shape[2:], mode="bilinear", align_corners=False)
    return v * torch.sigmoid(convs[prefix + "expand"](c + convs[prefix + "direct"](thin)))


def plain_network(convs, x, space):
    """Forward pass of the published network, written independently."""
    shallow = y = convs["head"](x)
    outputs = []
    for k in range(space.cells):
        kept, u = [], y
        for i in range(3):
            kept.append(leaky(convs[f"cell{k}_distill{i}"](u)))
            u = leaky(convs[f"cell{k}_body{i}"](u) + u)
        kept.append(leaky(convs[f"cell{k}_body3"](u)))
        v = convs[f"cell{k}_fuse"](torch.cat(kept, 1))
        y = plain_attention(convs, v, f"cell{k}_esa_")
        outputs.append(y)
    y = convs["smooth"](leaky(convs["fuse"](torch.cat(outputs, 1)))) + shallow
    return F.pixel_shuffle(convs["upsample"](y), space.scale)


@pytest.mark.parametrize(("scale", "size"), [(2, (15, 16)), (3, (22, 37)), (4, (15, 28))])
def test_the_network_is_wired_as_published(small, random_genotype, pixels, scale, size):
    space = dataclasses.replace(small, scale=scale)
    net = network.build(space, random_genotype(space, 0), None).double()
    x = pixels(2, *size).double()
    with torch.no_grad():
        wanted = plain_network(network.convolutions(net), x, space)
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-12)
    assert wanted.shape == (2, 3, size[0] * scale, size[1] * scale) and wanted.std() > 1e-3


def test_the_smallest_image_is_the_one_that_is_named(small, random_genotype, pixels):
    net, side = network.build(small, random_genotype(small, 0), None), RfdnPublished.smallest
    with torch.no_grad():
        assert net(pixels(1, side, side)).shape == (1, 3, 4 * side, 4 * side)
        with pytest.raises(RuntimeError):
            net(pixels(1, side - 1, side))


@pytest.mark.parametrize("channels", [2, 4, 50])
def test_any_even_number_of_channels_will_do(small, channels):
    slots = registry.slots(dataclasses.replace(small, channels=channels))
    assert min(min(slot.c_in, slot.c_out) for slot in slots) >= 1


@pytest.mark.parametrize(("name", "channels"), [("rfdn48", 48), ("rfdn50", 50)])
def test_built_in_ones_differ_in_their_channels(name, channels):
    rest = {"name": "", "channels": 2}
    first, second = (
        dataclasses.replace(search_space.load(other), **rest) for other in (name, "rfdn50")
    )
    assert first == second and search_space.load(name).channels == channels
