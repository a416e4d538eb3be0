"""RFDN (arXiv 2009.11551) as released: shallow residual blocks, LeakyReLU, spatial attention."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from .distillation import Leaky, WayOut, way_out_slots
from .filling import Filling
from .quantizer import ActQuantizer
from .rfdn import esa_slots, resize_like
from .space import SearchSpace, Slot

fx.wrap("resize_like")  # one node of a trace; what another module wraps is not wrapped here


class RfdnPublished(nn.Module):
    """Head, distillation cells with attention, and the way out; the parent of `Rfdn`.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]; H and W of at least 15, or the
    attention has nothing to pool. Unlike in `Rfdn`, negative values pass a LeakyReLU, every
    tensor but two of the attention is signed, and there is no skip around a cell; so there is no
    adaptive deviation either.
    """

    kinds = ("body", "distill", "upsample")
    smallest = 15
    """Pixels of the shorter side of the low-resolution image."""
    steps = 3

    def __init__(self, space: SearchSpace, filling: Filling) -> None:
        super().__init__()
        slots = {slot.name: slot for slot in rfdn_published_slots(space)}
        self.image, self.shallow = filling.tensor(step=1 / 255), filling.tensor(signed=True)
        self.head = filling.edge(slots["head"], self.image)
        self.cells, source = nn.ModuleList(), self.shallow
        for k in range(space.cells):
            cell = PublishedCell(slots, f"cell{k}_", source, filling)
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


class PublishedCell(nn.Module):
    """attention(fused(what three steps and a last convolution keep)).

    x (N, channels, H, W) on the grid of `source` -> the same shape, on a signed grid.
    """

    def __init__(
        self, slots: dict[str, Slot], prefix: str, source: ActQuantizer, filling: Filling
    ) -> None:
        super().__init__()
        self.distill, self.body = nn.ModuleList(), nn.ModuleList()
        self.branch, self.stream = nn.ModuleList(), nn.ModuleList()
        self.kept = nn.ModuleList(Leaky(filling) for _ in range(RfdnPublished.steps + 1))
        for i in range(RfdnPublished.steps):
            self.distill.append(filling.edge(slots[f"{prefix}distill{i}"], source))
            self.body.append(filling.edge(slots[f"{prefix}body{i}"], source))
            self.branch.append(filling.tensor(signed=True))
            stream = Leaky(filling)
            self.stream.append(stream)
            source = stream.after
        self.body.append(filling.edge(slots[f"{prefix}body{RfdnPublished.steps}"], source))
        self.joined, self.fused = filling.tensor(signed="leaky"), filling.tensor(signed=True)
        self.fuse = filling.edge(slots[f"{prefix}fuse"], self.joined)
        self.attention = Attention(slots, f"{prefix}esa_", self.fused, filling)
        self.carried = filling.tensor(signed=True)

    def forward(self, x: Tensor) -> Tensor:
        kept, u = [], x
        for i in range(RfdnPublished.steps):
            kept.append(self.kept[i](self.distill[i](u)))
            u = self.stream[i](u + self.branch[i](self.body[i](u)))
        kept.append(self.kept[RfdnPublished.steps](self.body[RfdnPublished.steps](u)))
        v = self.fused(self.fuse(self.joined(torch.cat(kept, 1))))
        return self.carried(self.attention(v))


class Attention(nn.Module):
    """Enhanced spatial attention: v times a mask that is made at a sixth of the size.

    v (N, channels, H, W) on the grid of `source` -> same shape, not on a grid; H and W of at least
    15. Unlike in `rfdn.Esa`, a ReLU follows the first two convolutions behind the pooling alone.
    """

    def __init__(
        self, slots: dict[str, Slot], prefix: str, source: ActQuantizer, filling: Filling
    ) -> None:
        super().__init__()
        self.thin, self.coarse = filling.tensor(signed=True), filling.tensor(signed=True)
        self.reduce = filling.edge(slots[f"{prefix}reduce"], source)
        self.stride = filling.edge(slots[f"{prefix}stride"], self.thin)
        self.pooled, self.between, source = nn.ModuleList(), nn.ModuleList(), self.coarse
        for i in range(3):
            self.pooled.append(filling.edge(slots[f"{prefix}pooled{i}"], source))
            source = filling.tensor(signed=i == 2)
            self.between.append(source)
        self.direct = filling.edge(slots[f"{prefix}direct"], self.thin)
        self.near, self.summed = filling.tensor(signed=True), filling.tensor(signed=True)
        self.expand = filling.edge(slots[f"{prefix}expand"], self.summed)
        self.logits = filling.tensor(signed=True)
        self.mask = filling.tensor(step=1 / 256)  # 1/255 would round the middle, 0.5, either way

    def forward(self, v: Tensor) -> Tensor:
        thin = self.thin(self.reduce(v))
        c = torch.max_pool2d(self.coarse(self.stride(thin)), 7, 3)
        c = self.between[0](torch.relu(self.pooled[0](c)))
        c = self.between[1](torch.relu(self.pooled[1](c)))
        c = resize_like(self.between[2](self.pooled[2](c)), v)
        m = self.expand(self.summed(c + self.near(self.direct(thin))))
        return v * self.mask(torch.sigmoid(self.logits(m)))


def rfdn_published_slots(space: SearchSpace) -> Iterator[Slot]:
    """Every convolution of `RfdnPublished`, in the order in which they run."""
    c, half, width = space.channels, space.channels // 2, (space.fixed_width,)

    def searched(kind: str, name: str, c_out: int) -> Slot:
        edge = space.edges[kind]
        return Slot(name, c, c, c_out, edge.ops, edge.widths, kind=kind)

    yield Slot("head", 3, c, c, ("conv3x3",), width)
    for k in range(space.cells):
        for i in range(RfdnPublished.steps):
            yield searched("distill", f"cell{k}_distill{i}", half)
            yield searched("body", f"cell{k}_body{i}", c)
        yield searched("body", f"cell{k}_body{RfdnPublished.steps}", half)
        joined = half * (RfdnPublished.steps + 1)
        yield Slot(f"cell{k}_fuse", joined, c, c, ("conv1x1",), width)
        yield from esa_slots(space, f"cell{k}_esa_")
    yield from way_out_slots(space)
