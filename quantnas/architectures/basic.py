"""The basic macro-architecture as published (arXiv 2208.14839): plain residual cells."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.config.search_space import Area, SearchSpace, Slot
from quantnas.nn.layer_factory import LayerFactory
from quantnas.nn.quantizers import ActQuantizer

from .channel_constraints import keep_joinable, refuse_identity


class Basic(nn.Module):
    """Head, residual cells that are decided together, upsampling, and a high-resolution tail.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]. Every convolution reads the
    output of a ReLU, on an unsigned grid: the quantizer acts as the ReLU. Sums lie on signed grids.

    The published architecture differs: here all tensors between convolutions are carried in 8 bits
    and on fitted grids; convolutions have a bias; around the whole body there is a plain sum,
    because an adaptive deviation could not be folded into a convolution there; each of the two
    branches of a cell has an adaptive deviation of its own, with the batch norm behind it (`adq`),
    instead of one in front of both: so each folds exactly into its last convolution, and its output
    has a grid of its own. At scales other than 4, operations of `upsample` that cannot join its
    3*scale^2 channels are left out.
    """

    kinds = ("head", "body", "skip", "upsample", "tail")
    smallest = 1
    """Least length of the low-resolution image's shorter side, pixels."""

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.scale = space.scale
        slots = {slot.name: slot for slot in basic_slots(space)}
        self.image, self.shallow = factory.tensor(step=1 / 255), factory.tensor()
        self.head0 = factory.edge(slots["head0"], self.image)
        self.head1 = factory.edge(slots["head1"], self.shallow)
        self.stream = factory.tensor(signed=True)
        self.cells = nn.ModuleList(
            BasicCell(slots, f"cell{k}_", factory) for k in range(space.cells)
        )
        self.deep = factory.tensor()
        self.upsample = factory.edge(slots["upsample"], self.deep)
        self.detail = factory.tensor(signed=True)
        self.tail = Tail(slots, factory)
        self.pixels = factory.tensor(step=1 / 255)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.shallow(torch.relu(self.head0(self.image(x))))
        h = z = self.stream(self.head1(shallow))
        for cell in self.cells:
            z = cell(z)
        y = self.detail(self.upsample(self.deep(torch.relu(h + z))))
        y = F.pixel_shuffle(y, self.scale)
        return self.pixels(y + self.tail(y))


class BasicCell(nn.Module):
    """z + skip(z) + body1(body0(z)).

    z (N, channels, H, W) on a signed grid -> same shape, also on a signed grid.
    """

    def __init__(self, slots: dict[str, Slot], prefix: str, factory: LayerFactory) -> None:
        super().__init__()
        self.read, self.hidden = factory.tensor(), factory.tensor()
        self.skip = Branch(slots[f"{prefix}skip"], self.read, factory)
        self.body0 = factory.edge(slots[f"{prefix}body0"], self.read)
        self.body1 = Branch(slots[f"{prefix}body1"], self.hidden, factory)
        self.inside, self.carried = factory.tensor(signed=True), factory.tensor(signed=True)

    def forward(self, z: Tensor) -> Tensor:
        seen = self.read(torch.relu(z))
        skip = self.skip(seen, z)
        body = self.body1(self.hidden(torch.relu(self.body0(seen))), z)
        return self.carried(z + self.inside(skip + body))


class Tail(nn.Module):
    """The branch tail1(tail0(y)) that is added to the large image y (N, 3, H, W) -> same shape."""

    def __init__(self, slots: dict[str, Slot], factory: LayerFactory) -> None:
        super().__init__()
        self.read, self.hidden = factory.tensor(), factory.tensor()
        self.tail0 = factory.edge(slots["tail0"], self.read)
        self.tail1 = Branch(slots["tail1"], self.hidden, factory)

    def forward(self, y: Tensor) -> Tensor:
        return self.tail1(self.hidden(torch.relu(self.tail0(self.read(torch.relu(y))))), y)


class Branch(nn.Module):
    """An edge whose output, on a signed grid, is added to a residual stream by the caller.

    x (N, c_in, H, W) on the grid of `source`, stream (N, c_out, H, W) -> (N, c_out, H, W).
    """

    branch_end = "edge"

    def __init__(self, slot: Slot, source: ActQuantizer, factory: LayerFactory) -> None:
        super().__init__()
        self.edge = factory.edge(slot, source)
        self.residual = factory.residual(slot.c_out)
        self.out = factory.tensor(signed=True)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        return self.out(self.residual(self.edge(x), stream))


def basic_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of `Basic`, in the order in which they run.

    All cells share their choices. Operations of `upsample` that cannot join its channels are left
    out. Raises UsageError when none is left, or when an edge with a batch norm behind it may be
    the identity.
    """
    c, upsampled = space.channels, 3 * space.scale**2
    refuse_identity(space, "body", "skip", "tail")

    def searched(kind: str, name: str, c_in: int = c, c_out: int = c) -> Slot:
        edge = space.edges[kind]
        area: Area = "high" if kind == "tail" else "low"
        return Slot(name, c_in, c, c_out, edge.ops, edge.bit_widths, area=area, kind=kind)

    def together(kind: str, name: str, k: int) -> Slot:
        edge, shared = space.edges[kind], f"cells_{name}"
        return Slot(f"cell{k}_{name}", c, c, c, edge.ops, edge.bit_widths, shared=shared, kind=kind)

    yield searched("head", "head0", c_in=3)
    yield searched("head", "head1")
    for k in range(space.cells):
        yield together("skip", "skip", k)
        yield together("body", "body0", k)
        yield together("body", "body1", k)
    yield keep_joinable(space, searched("upsample", "upsample", c_out=upsampled))
    yield searched("tail", "tail0", c_in=3)
    yield searched("tail", "tail1", c_out=3)
