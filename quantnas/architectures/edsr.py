"""The macro-architecture EDSR (arXiv 1707.02921): residual blocks, an upsampler and a tail."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.config.search_space import Area, SearchSpace, Slot
from quantnas.nn.layer_factory import LayerFactory
from quantnas.nn.quantizers import ActQuantizer

from .channel_constraints import refuse_identity


class Edsr(nn.Module):
    """Head, residual cells, a long skip, one or two pixel shuffles, and a high-resolution tail.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]. Enlarging by 4 is done in two
    steps. The published network subtracts the mean colour and adds it again; here the biases of
    head and tail do both, which is equal except where the head reads beyond the border.
    """

    kinds = ("body", "upsample", "tail")
    smallest = 1
    """Least length of the low-resolution image's shorter side, pixels."""

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        slots = {slot.name: slot for slot in edsr_slots(space)}
        self.image = factory.tensor(step=1 / 255)
        self.head = factory.edge(slots["head"], self.image)
        cells = (EdsrCell(slots, f"cell{k}_", factory) for k in range(space.cells))
        self.cells = nn.ModuleList(cells)
        self.smooth = factory.edge(slots["smooth"], factory.free(signed=True))
        self.enlarge, source = nn.ModuleList(), factory.free(signed=True)
        for i, factor in enumerate(factors(space.scale)):
            enlarge = Enlarge(slots[f"upsample{i}"], factor, source, factory)
            self.enlarge.append(enlarge)
            source = enlarge.detail
        self.tail = factory.edge(slots["tail"], source)
        self.pixels = factory.tensor(step=1 / 255)

    def forward(self, x: Tensor) -> Tensor:
        shallow = y = self.head(self.image(x))
        for cell in self.cells:
            y = cell(y)
        y = shallow + self.smooth(y)
        for enlarge in self.enlarge:
            y = enlarge(y)
        return self.pixels(self.tail(y))


class EdsrCell(nn.Module):
    """Residual block x + second(relu(first(x))).

    x (N, channels, H, W), carried in float -> same shape.
    """

    branch_end = "second"

    def __init__(self, slots: dict[str, Slot], prefix: str, factory: LayerFactory) -> None:
        super().__init__()
        self.hidden = factory.tensor()
        self.first = factory.edge(slots[f"{prefix}body0"], factory.free(signed=True))
        self.second = factory.edge(slots[f"{prefix}body1"], self.hidden)
        self.residual = factory.residual(slots[f"{prefix}body1"].c_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.hidden(torch.relu(self.first(x))))
        out: Tensor = x + self.residual(y, x)
        return out


class Enlarge(nn.Module):
    """A convolution and a pixel shuffle that enlarge features by `factor`.

    x (N, channels, H, W) on the grid of `source` -> (N, channels, factor*H, factor*W).
    """

    def __init__(
        self, slot: Slot, factor: int, source: ActQuantizer, factory: LayerFactory
    ) -> None:
        super().__init__()
        self.factor = factor
        self.edge, self.detail = factory.edge(slot, source), factory.tensor(signed=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.detail(self.edge(x)), self.factor)


def factors(scale: int) -> tuple[int, ...]:
    """Factor of each enlarging step."""
    return (2, 2) if scale == 4 else (scale,)


def edsr_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of `Edsr`, in the order in which they run.

    Raises UsageError when `body`, with a batch norm behind it, may be the identity.
    """
    c = space.channels
    refuse_identity(space, "body")

    def searched(kind: str, name: str, c_out: int, area: Area = "low") -> Slot:
        edge = space.edges[kind]
        return Slot(name, c, c, c_out, edge.ops, edge.bit_widths, area=area, kind=kind)

    def fixed(name: str, c_in: int) -> Slot:
        return Slot(name, c_in, c, c, ("conv3x3",), (space.fixed_width,))

    yield fixed("head", 3)
    for k in range(space.cells):
        yield searched("body", f"cell{k}_body0", c)
        yield searched("body", f"cell{k}_body1", c)
    yield fixed("smooth", c)
    for i, factor in enumerate(factors(space.scale)):
        yield searched("upsample", f"upsample{i}", c * factor**2, "double" if i else "low")
    yield searched("tail", "tail", 3, "high")
