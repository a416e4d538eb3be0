"""EDSR (arXiv 1707.02921): residual blocks without batch norm, and an upsampler with a tail."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filling import Filling
from .fitting import refuse_identity
from .quantizer import ActQuantizer
from .space import Area, SearchSpace, Slot


class Edsr(nn.Module):
    """Head, residual cells, a long skip, one or two pixel shuffles, and a tail on large pixels.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]. Enlarging by 4 is done in two
    steps. The published network subtracts the mean colour and adds it again; here the biases of
    head and tail do both, which is the same but where the head reads beyond the border.
    """

    kinds = ("body", "upsample", "tail")
    smallest = 1
    """Pixels of the shorter side of the low-resolution image."""

    def __init__(self, space: SearchSpace, filling: Filling) -> None:
        super().__init__()
        slots = {slot.name: slot for slot in edsr_slots(space)}
        self.image = filling.tensor(step=1 / 255)
        self.head = filling.edge(slots["head"], self.image)
        cells = (EdsrCell(slots, f"cell{k}_", filling) for k in range(space.cells))
        self.cells = nn.ModuleList(cells)
        self.smooth = filling.edge(slots["smooth"], filling.free(signed=True))
        self.enlarge, source = nn.ModuleList(), filling.free(signed=True)
        for i, factor in enumerate(factors(space.scale)):
            enlarge = Enlarge(slots[f"upsample{i}"], factor, source, filling)
            self.enlarge.append(enlarge)
            source = enlarge.detail
        self.tail = filling.edge(slots["tail"], source)
        self.pixels = filling.tensor(step=1 / 255)

    def forward(self, x: Tensor) -> Tensor:
        shallow = y = self.head(self.image(x))
        for cell in self.cells:
            y = cell(y)
        y = shallow + self.smooth(y)
        for enlarge in self.enlarge:
            y = enlarge(y)
        return self.pixels(self.tail(y))


class EdsrCell(nn.Module):
    """x + second(relu(first(x))); x (N, channels, H, W), carried in float -> same shape."""

    branch_end = "second"

    def __init__(self, slots: dict[str, Slot], prefix: str, filling: Filling) -> None:
        super().__init__()
        self.hidden = filling.tensor()
        self.first = filling.edge(slots[f"{prefix}body0"], filling.free(signed=True))
        self.second = filling.edge(slots[f"{prefix}body1"], self.hidden)
        self.residual = filling.residual(slots[f"{prefix}body1"].c_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.hidden(torch.relu(self.first(x))))
        out: Tensor = x + self.residual(y, x)
        return out


class Enlarge(nn.Module):
    """x (N, channels, H, W) on the grid of `source` -> (N, channels, factor*H, factor*W)."""

    def __init__(self, slot: Slot, factor: int, source: ActQuantizer, filling: Filling) -> None:
        super().__init__()
        self.factor = factor
        self.edge, self.detail = filling.edge(slot, source), filling.tensor(signed=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.detail(self.edge(x)), self.factor)


def factors(scale: int) -> tuple[int, ...]:
    """By how much every step enlarges."""
    return (2, 2) if scale == 4 else (scale,)


def edsr_slots(space: SearchSpace) -> Iterator[Slot]:
    """Every convolution of `Edsr`, in the order in which they run.

    Raises UsageError when `body`, with a batch norm behind it, may be the identity.
    """
    c = space.channels
    refuse_identity(space, "body")

    def searched(kind: str, name: str, c_out: int, area: Area = "low") -> Slot:
        edge = space.edges[kind]
        return Slot(name, c, c, c_out, edge.ops, edge.widths, area=area, kind=kind)

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
