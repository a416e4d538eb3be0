"""What the networks of information distillation share: their LeakyReLU, and the way out."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.config.search_space import SearchSpace, Slot
from quantnas.nn.layer_factory import LayerFactory

SLOPE = 0.05
"""Of the LeakyReLU below 0."""


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU of x (any shape)."""
    return F.leaky_relu(x, SLOPE)


class WayOut(nn.Module):
    """(what every cell gives, what the head gives) -> pixels (N, 3, scale*H, scale*W) in [0, 1].

    All of the former are (N, channels, H, W). A 1x1 convolution over all cells and a LeakyReLU; a
    3x3 convolution and the long skip; one convolution to 3*scale^2 channels and a pixel shuffle.
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


def way_out_slots(space: SearchSpace) -> Iterator[Slot]:
    """Every convolution of `WayOut`, in the order in which they run."""
    c, edge, width = space.channels, space.edges["upsample"], (space.fixed_width,)
    yield Slot("fuse", c * space.cells, c, c, ("conv1x1",), width)
    yield Slot("smooth", c, c, c, ("conv3x3",), width)
    yield Slot("upsample", c, c, 3 * space.scale**2, edge.ops, edge.widths, kind="upsample")
