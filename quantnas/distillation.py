"""What the networks of information distillation share: LeakyReLU on grids, and the way out."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filling import Filling
from .space import SearchSpace, Slot

SLOPE = 0.05
"""Of the LeakyReLU below 0."""


class Leaky(nn.Module):
    """x (any shape) -> LeakyReLU of it, on a grid with few levels below 0.

    In front of it there is a signed grid too, because a convolution runs in integers only where a
    grid or a ReLU follows it.
    """

    def __init__(self, filling: Filling) -> None:
        super().__init__()
        self.before, self.after = filling.tensor(signed=True), filling.tensor(signed="leaky")

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.leaky_relu(self.before(x), SLOPE))


class WayOut(nn.Module):
    """(what every cell gives, what the head gives) -> pixels (N, 3, scale*H, scale*W) in [0, 1].

    All of the former are (N, channels, H, W) on signed grids. A 1x1 convolution over all cells
    and a LeakyReLU; a 3x3 convolution and the long skip; one convolution to 3*scale^2 channels
    and a pixel shuffle.
    """

    def __init__(self, slots: dict[str, Slot], scale: int, filling: Filling) -> None:
        super().__init__()
        self.scale = scale
        self.joined, self.fused = filling.tensor(signed=True), Leaky(filling)
        self.fuse = filling.edge(slots["fuse"], self.joined)
        self.smooth = filling.edge(slots["smooth"], self.fused.after)
        self.smoothed, self.deep = filling.tensor(signed=True), filling.tensor(signed=True)
        self.upsample = filling.edge(slots["upsample"], self.deep)
        self.pixels = filling.tensor(step=1 / 255)

    def forward(self, cells: list[Tensor], shallow: Tensor) -> Tensor:
        y = self.fused(self.fuse(self.joined(torch.cat(cells, 1))))
        y = self.deep(shallow + self.smoothed(self.smooth(y)))
        return F.pixel_shuffle(self.pixels(self.upsample(y)), self.scale)


def way_out_slots(space: SearchSpace) -> Iterator[Slot]:
    """Every convolution of `WayOut`, in the order in which they run."""
    c, edge, width = space.channels, space.edges["upsample"], (space.fixed_width,)
    yield Slot("fuse", c * space.cells, c, c, ("conv1x1",), width)
    yield Slot("smooth", c, c, c, ("conv3x3",), width)
    yield Slot("upsample", c, c, 3 * space.scale**2, edge.ops, edge.widths, kind="upsample")
