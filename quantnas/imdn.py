"""IMDN (arXiv 1909.11856): progressive distillation by splits, with contrast-aware attention."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from .distillation import Leaky, WayOut, way_out_slots
from .errors import UsageError
from .filling import Filling
from .quantizer import ActQuantizer
from .space import Area, SearchSpace, Slot

fx.wrap("contrast")  # one node of a trace, whatever the size


def contrast(x: Tensor) -> Tensor:
    """x (N, C, H, W) -> (N, C, 1, 1): deviation plus mean of every channel of every image."""
    deviation = torch.std(x, (2, 3), keepdim=True, correction=0)
    return deviation + x.mean((2, 3), keepdim=True)


class Imdn(nn.Module):
    """Head, cells that keep a quarter of what every convolution gives, and the way out.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]. All tensors between
    convolutions are signed; negative values pass a LeakyReLU.
    """

    kinds = ("body", "upsample")
    smallest = 1
    """Pixels of the shorter side of the low-resolution image."""
    steps = 3

    def __init__(self, space: SearchSpace, filling: Filling) -> None:
        super().__init__()
        slots = {slot.name: slot for slot in imdn_slots(space)}
        self.image, self.shallow = filling.tensor(step=1 / 255), filling.tensor(signed=True)
        self.head = filling.edge(slots["head"], self.image)
        self.cells, source = nn.ModuleList(), self.shallow
        for k in range(space.cells):
            cell = ImdnCell(slots, f"cell{k}_", source, filling)
            self.cells.append(cell)
            source = cell.carried
        self.way_out = WayOut(slots, space.scale, filling)

    def forward(self, x: Tensor) -> Tensor:
        shallow = y = self.shallow(self.head(self.image(x)))
        outputs = []
        for cell in self.cells:
            y = cell(y)
            outputs.append(y)
        out: Tensor = self.way_out(outputs, shallow)
        return out


class ImdnCell(nn.Module):
    """x + fuse(attention(what three splits and a last convolution keep)).

    x (N, channels, H, W) on the grid of `source` -> the same shape, on a signed grid. Of what a
    convolution gives, the first quarter of the channels is kept and the rest goes on.
    """

    branch_end = "fuse"

    def __init__(
        self, slots: dict[str, Slot], prefix: str, source: ActQuantizer, filling: Filling
    ) -> None:
        super().__init__()
        self.body, self.leaky = nn.ModuleList(), nn.ModuleList()
        for i in range(Imdn.steps):
            self.body.append(filling.edge(slots[f"{prefix}body{i}"], source))
            leaky = Leaky(filling)
            self.leaky.append(leaky)
            source = leaky.after
        last = slots[f"{prefix}body{Imdn.steps}"]
        self.keep, self.hand_on = last.c_out, last.c_in
        self.last, self.kept = filling.edge(last, source), filling.tensor(signed=True)
        self.joined, self.attended = filling.tensor(signed=True), filling.tensor(signed=True)
        self.attention = ContrastAttention(slots, f"{prefix}cca_", filling)
        self.fuse = filling.edge(slots[f"{prefix}fuse"], self.attended)
        self.residual = filling.residual(slots[f"{prefix}fuse"].c_out)
        self.branch, self.carried = filling.tensor(signed=True), filling.tensor(signed=True)

    def forward(self, x: Tensor) -> Tensor:
        kept, u = [], x
        for body, leaky in zip(self.body, self.leaky, strict=True):
            y = leaky(body(u))
            kept.append(torch.narrow(y, 1, 0, self.keep))
            u = torch.narrow(y, 1, self.keep, self.hand_on)
        kept.append(self.kept(self.last(u)))
        y = self.attended(self.attention(self.joined(torch.cat(kept, 1))))
        return self.carried(x + self.branch(self.residual(self.fuse(y), x)))


class ContrastAttention(nn.Module):
    """v times a factor for every channel, made from the contrast of that image's channels.

    v (N, channels, H, W) -> same shape, not on a grid.
    """

    def __init__(self, slots: dict[str, Slot], prefix: str, filling: Filling) -> None:
        super().__init__()
        self.contrast, self.thin = filling.tensor(signed=True), filling.tensor()
        self.reduce = filling.edge(slots[f"{prefix}reduce"], self.contrast)
        self.expand = filling.edge(slots[f"{prefix}expand"], self.thin)
        self.logits = filling.tensor(signed=True)
        self.mask = filling.tensor(step=1 / 256)  # 1/255 would round the middle, 0.5, either way

    def forward(self, v: Tensor) -> Tensor:
        thin = self.thin(torch.relu(self.reduce(self.contrast(contrast(v)))))
        return v * self.mask(torch.sigmoid(self.logits(self.expand(thin))))


def imdn_slots(space: SearchSpace) -> Iterator[Slot]:
    """Every convolution of `Imdn`, in the order in which they run.

    Raises UsageError when `channels` has no quarter.
    """
    c, keep, thin = space.channels, space.channels // 4, max(1, space.channels // 16)
    if c % 4:
        raise UsageError(
            f"Space '{space.name}': 'channels' cannot be {c}: skeleton 'imdn' keeps a quarter.",
            f"Use a multiple of 4, such as {max(4, c // 4 * 4)}.",
        )

    def searched(name: str, c_in: int, c_out: int) -> Slot:
        edge = space.edges["body"]
        return Slot(name, c_in, c, c_out, edge.ops, edge.widths, kind="body")

    def fixed(name: str, op: str, c_in: int, c_out: int, area: Area = "low") -> Slot:
        return Slot(name, c_in, c, c_out, (op,), (space.fixed_width,), area=area)

    yield fixed("head", "conv3x3", 3, c)
    for k in range(space.cells):
        yield searched(f"cell{k}_body0", c, c)
        for i in range(1, Imdn.steps):
            yield searched(f"cell{k}_body{i}", c - keep, c)
        yield searched(f"cell{k}_body{Imdn.steps}", c - keep, keep)
        yield fixed(f"cell{k}_cca_reduce", "conv1x1", c, thin, "single")
        yield fixed(f"cell{k}_cca_expand", "conv1x1", thin, c, "single")
        yield fixed(f"cell{k}_fuse", "conv1x1", c, c)
    yield from way_out_slots(space)
