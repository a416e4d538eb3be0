"""The LeakyReLU and the tail that the information distillation networks (RFDN, IMDN) share."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.config.search_space import SearchSpace, Slot
from quantnas.nn.layer_factory import LayerFactory

SLOPE = 0.05
"""Slope of the LeakyReLU below 0."""


def leaky(x: Tensor) -> Tensor:
    """Apply the LeakyReLU to x (any shape) -> same shape."""
    return F.leaky_relu(x, SLOPE)


class DistillationTail(nn.Module):
    """Fuse the outputs of all cells, add the long skip from the head, and enlarge.

    cells: list of (N, channels, H, W); shallow: output of the head, (N, channels, H, W) ->
    pixels (N, 3, scale*H, scale*W) in [0, 1]. A 1x1 convolution reads all cells, a LeakyReLU
    follows; then come a 3x3 convolution and the long skip, and one convolution to 3*scale^2
    channels with a pixel shuffle.
    """

    def __init__(self, slots: dict[str, Slot], scale: int, factory: LayerFactory) -> None:
        super().__init__()
        self.scale = scale
        self.fuse = factory.edge(slots["fuse"], factory.free(signed=True))
        self.smooth = factory.edge(slots["smooth"], factory.free(signed=True))
        self.upsample = factory.edge(slots["upsample"], factory.free(signed=True))
        self.pixels = factory.tensor(step=1 / 255)

    def forward(self, cells: list[Tensor], shallow: Tensor) -> Tensor:
        y = leaky(self.fuse(torch.cat(cells, 1)))
        y = shallow + self.smooth(y)
        return F.pixel_shuffle(self.pixels(self.upsample(y)), self.scale)


def distillation_tail_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of `DistillationTail`, in the order in which they run."""
    c, edge, width = space.channels, space.edges["upsample"], (space.fixed_width,)
    yield Slot("fuse", c * space.cells, c, c, ("conv1x1",), width)
    yield Slot("smooth", c, c, c, ("conv3x3",), width)
    yield Slot("upsample", c, c, 3 * space.scale**2, edge.ops, edge.bit_widths, kind="upsample")
