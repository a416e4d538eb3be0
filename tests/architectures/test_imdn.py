"""Checks IMDN: its wiring against an independent forward pass, and its attention."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from quantnas.architectures import network, registry
from quantnas.architectures.imdn import contrast
from quantnas.config import search_space
from quantnas.errors import UsageError


@pytest.fixture
def small():
    """IMDN with 16 channels and two cells."""
    return dataclasses.replace(search_space.load("imdn"), channels=16, cells=2)


def plain_contrast(x):
    """The published contrast, written independently."""
    mean = x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    variance = (x - mean).pow(2).sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    return variance.pow(0.5) + F.adaptive_avg_pool2d(x, 1)


def plain_network(convs, x, space):
    """Forward pass of the published network, written independently."""
    quarter = space.channels // 4
    split = (quarter, space.channels - quarter)

    def leaky(t):
        return torch.where(t > 0, t, 0.05 * t)

    shallow = y = convs["head"](x)
    outputs = []
    for k in range(space.cells):
        kept, u = [], y
        for i in range(3):
            first, u = torch.split(leaky(convs[f"cell{k}_body{i}"](u)), split, dim=1)
            kept.append(first)
        v = torch.cat([*kept, convs[f"cell{k}_body3"](u)], 1)
        m = convs[f"cell{k}_cca_reduce"](plain_contrast(v))
        v = v * torch.sigmoid(convs[f"cell{k}_cca_expand"](F.relu(m)))
        y = y + convs[f"cell{k}_fuse"](v)
        outputs.append(y)
    y = convs["smooth"](leaky(convs["fuse"](torch.cat(outputs, 1)))) + shallow
    return F.pixel_shuffle(convs["upsample"](y), space.scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_network_is_wired_as_published(small, random_genotype, pixels, scale):
    space = dataclasses.replace(small, scale=scale)
    net = network.build(space, random_genotype(space, 0), None).double()
    x = pixels(2, 7, 10).double()
    with torch.no_grad():
        wanted = plain_network(network.convolutions(net), x, space)
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-12)
    assert wanted.shape == (2, 3, 7 * scale, 10 * scale) and wanted.std() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_the_contrast_is_the_published_one(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(contrast(x), plain_contrast(x), rtol=1e-12, atol=1e-12)


def test_a_channel_without_contrast_has_a_gradient():
    x = torch.full((1, 2, 4, 5), 0.25, requires_grad=True)
    contrast(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / 20))


def test_the_attention_runs_once_for_every_image():
    slots = registry.slots(search_space.load("imdn"))
    single = {slot.name.partition("_")[2]: slot for slot in slots if slot.area == "single"}
    assert {name: (s.c_in, s.c_out) for name, s in single.items()} == {
        "cca_reduce": (64, 4),
        "cca_expand": (4, 64),
    }


def test_channels_without_a_quarter_are_a_usage_error(small):
    with pytest.raises(UsageError, match="'channels' cannot be 18") as caught:
        registry.slots(dataclasses.replace(small, channels=18))
    assert "such as 16" in caught.value.remedy
