"""Checks the recorded outputs of a network's cells, and the predicted damage of their errors."""

import dataclasses

import pytest
import torch
from torch import nn

from quantnas.architectures import network
from quantnas.quantization import block_outputs


class Chain(nn.Module):
    """A network of two cells, each a 1x1 convolution: 3 -> 2 -> 3 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)])

    def forward(self, x):
        for cell in self.cells:
            x = cell(x)
        return x


def test_blocks_is_the_error_that_the_cells_are_predicted_to_make(pixels):
    net, teacher, low = Chain(), Chain(), pixels(2, 3, 4)
    gains = [torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.0, 3.0])]
    blocks = block_outputs.BlockPenalty(net, teacher, gains, 0.7)
    net(low), teacher(low)
    total = 0.0
    ours, theirs = low, low
    for k, gain in enumerate(gains):
        ours, theirs = net.cells[k](ours), teacher.cells[k](theirs)
        total += sum(
            g.item() * (ours[:, c] - theirs[:, c]).square().mean().item()
            for c, g in enumerate(gain)
        )
    assert blocks().item() == pytest.approx(0.7 * total**0.5, rel=1e-5)
    blocks.close()
    net(2 * low), teacher(3 * low)
    assert blocks().item() == pytest.approx(0.7 * total**0.5, rel=1e-5), "it sees no more"


def test_gains_of_a_linear_network_are_known(pixels):
    net = Chain()
    first, last = block_outputs.gains(net, pixels(2, 3, 4), draws=200)
    expected = net.cells[1].weight.square().sum((0, 2, 3)) / 3  # of three outputs
    torch.testing.assert_close(first, expected.detach(), rtol=0.1, atol=0)
    torch.testing.assert_close(last, torch.full((3,), 1 / 3))


def test_gains_are_the_squared_jacobian(tiny, random_genotype, pixels):
    space, low = dataclasses.replace(tiny, cells=2), pixels(2, 3, 4)
    teacher = network.build(space, random_genotype(space, 4), None).eval()
    expected = []
    for cell in teacher.cells:
        shift = torch.zeros(1, 8, 3, 4)
        total = torch.zeros(8)
        for image in low.split(1):

            def shifted(z, cell=cell, image=image):
                handle = cell.register_forward_hook(lambda m, args, out: out + z)
                out = teacher(image)
                handle.remove()
                return out.flatten()

            jacobian = torch.autograd.functional.jacobian(shifted, shift)
            total += jacobian.square().sum((0, 1, 3, 4)) / (len(jacobian) * len(low))
        expected.append(total)
    found = block_outputs.gains(teacher, low, draws=40)
    for mine, exact in zip(found, expected, strict=True):
        assert (mine - exact).norm() < 0.2 * exact.norm()
    assert not any(cell._forward_hooks for cell in teacher.cells)
