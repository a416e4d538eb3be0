"""The published RFDN-like macro-architecture (arXiv 2208.14839), with its spatial attention."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quantnas.config.search_space import Area, SearchSpace, Slot
from quantnas.errors import UsageError
from quantnas.nn.layer_factory import LayerFactory
from quantnas.nn.quantizers import ActQuantizer

from .channel_constraints import keep_joinable

fx.wrap("resize_like")  # stays one node in a trace, whatever the sizes


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Resize x (N, C, h, w) bilinearly to the (H, W) of `like` (N, any, H, W) -> (N, C, H, W)."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class Rfdn(nn.Module):
    """Four distillation cells with attention, as in the second search space of the paper.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]; H and W are at least 15, or the
    attention has nothing to pool. There is no head: the image enters repeated along its channels.
    Every convolution reads the output of a ReLU, on an unsigned grid: the quantizer acts as the
    ReLU. Sums lie on signed grids.

    The published architecture differs: here all tensors between convolutions are carried in 8 bits
    and on fitted grids; convolutions have a bias; the adaptive deviation stands directly behind the
    1x1 convolution that fuses a cell, in front of the attention, with its batch norm behind the
    branch (`adq`): only there does it fold exactly into a convolution. At scales other than 4,
    operations of `upsample` that cannot join its 3*scale^2 channels are left out.
    """

    kinds = ("body", "distill", "upsample", "tail")
    smallest = 15
    """Least length of the low-resolution image's shorter side, pixels."""
    steps = 3

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.scale, self.copies = space.scale, space.channels // 3
        slots = {slot.name: slot for slot in rfdn_slots(space)}
        self.image = factory.tensor(step=1 / 255)
        self.cells = nn.ModuleList()
        for k in range(space.cells):
            read = factory.tensor(step=None if k else 1 / 255)
            self.cells.append(Cell(slots, f"cell{k}_", read, factory))
        self.joined, self.fused = factory.tensor(), factory.tensor()
        self.fuse = factory.edge(slots["fuse"], self.joined)
        self.smooth = factory.edge(slots["smooth"], self.fused)
        self.smoothed, self.deep = factory.tensor(signed=True), factory.tensor()
        self.upsample = factory.edge(slots["upsample"], self.deep)
        self.detail, self.read = factory.tensor(signed=True), factory.tensor()
        self.tail = factory.edge(slots["tail"], self.read)
        self.touch, self.pixels = factory.tensor(signed=True), factory.tensor(step=1 / 255)

    def forward(self, x: Tensor) -> Tensor:
        shallow = y = torch.tile(self.image(x), (1, self.copies, 1, 1))
        outputs = []
        for cell in self.cells:
            y = cell(y)
            outputs.append(y)
        y = self.fused(torch.relu(self.fuse(self.joined(torch.relu(torch.cat(outputs, 1))))))
        y = self.deep(torch.relu(self.smoothed(self.smooth(y)) + shallow))
        y = F.pixel_shuffle(self.detail(self.upsample(y)), self.scale)
        return self.pixels(y + self.touch(self.tail(self.read(torch.relu(y)))))


class Cell(nn.Module):
    """x plus the attention over the fused outputs of three distillation steps and a convolution.

    x (N, channels, H, W) on a signed grid -> same shape, also on a signed grid.
    read: the grid of x behind its ReLU.
    """

    branch_end = "fuse"

    def __init__(
        self, slots: dict[str, Slot], prefix: str, read: ActQuantizer, factory: LayerFactory
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        for i in range(Rfdn.steps):
            self.steps.append(DistillationStep(slots, f"{prefix}{{}}{i}", read, factory))
            read = factory.tensor()
        self.stream = nn.ModuleList(factory.tensor(signed=True) for _ in range(Rfdn.steps - 1))
        self.read, self.kept, self.joined = read, factory.tensor(), factory.tensor()
        self.body = factory.edge(slots[f"{prefix}body{Rfdn.steps}"], self.read)
        self.fuse = factory.edge(slots[f"{prefix}fuse"], self.joined)
        self.residual = factory.residual(slots[f"{prefix}fuse"].c_out)
        self.fused = factory.tensor(signed=True)
        self.attention = Esa(slots, f"{prefix}esa_", factory)
        self.branch, self.carried = factory.tensor(signed=True), factory.tensor(signed=True)

    def forward(self, x: Tensor) -> Tensor:
        kept, u = [], x
        for i, step in enumerate(self.steps):
            part, u = step(self.stream[i - 1](u) if i else u)
            kept.append(part)
        kept.append(self.kept(torch.relu(self.body(self.read(torch.relu(u))))))
        fused = self.fused(self.residual(self.fuse(self.joined(torch.cat(kept, 1))), x))
        return self.carried(x + self.branch(self.attention(fused)))


class DistillationStep(nn.Module):
    """u (N, channels, H, W) -> (distilled features (N, channels / 2, H, W), the next u).

    The next u is not on a grid yet: after the last step only a ReLU reads it, for which an unsigned
    grid is enough.
    """

    def __init__(
        self, slots: dict[str, Slot], name: str, read: ActQuantizer, factory: LayerFactory
    ) -> None:
        super().__init__()
        self.read, self.kept = read, factory.tensor()
        self.distill = factory.edge(slots[name.format("distill")], self.read)
        self.body = factory.edge(slots[name.format("body")], self.read)
        self.branch = factory.tensor(signed=True)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.read(torch.relu(u))
        kept = self.kept(torch.relu(self.distill(seen)))
        return kept, u + self.branch(self.body(seen))


class Esa(nn.Module):
    """Enhanced spatial attention: v times a mask that is computed at a sixth of its resolution.

    v (N, channels, H, W) -> same shape, not on a grid; H and W are at least 15. Unlike in RFDN
    (arXiv 2009.11551), every convolution reads the output of a ReLU.
    """

    def __init__(self, slots: dict[str, Slot], prefix: str, factory: LayerFactory) -> None:
        super().__init__()
        self.read, self.thin, self.coarse = (factory.tensor() for _ in range(3))
        self.reduce = factory.edge(slots[f"{prefix}reduce"], self.read)
        self.stride = factory.edge(slots[f"{prefix}stride"], self.thin)
        self.pooled, source = nn.ModuleList(), self.coarse
        self.between = nn.ModuleList()
        for i in range(3):
            self.pooled.append(factory.edge(slots[f"{prefix}pooled{i}"], source))
            source = factory.tensor(signed=i == 2)
            self.between.append(source)
        self.direct = factory.edge(slots[f"{prefix}direct"], self.thin)
        self.near, self.summed = factory.tensor(signed=True), factory.tensor()
        self.expand = factory.edge(slots[f"{prefix}expand"], self.summed)
        self.logits = factory.tensor(signed=True)
        self.mask = factory.tensor(step=1 / 256)  # with 1/255, 0.5 lies between two levels

    def forward(self, v: Tensor) -> Tensor:
        thin = self.thin(torch.relu(self.reduce(self.read(torch.relu(v)))))
        c = torch.max_pool2d(self.coarse(torch.relu(self.stride(thin))), 7, 3)
        c = self.between[0](torch.relu(self.pooled[0](c)))
        c = self.between[1](torch.relu(self.pooled[1](c)))
        c = resize_like(self.between[2](self.pooled[2](c)), v)
        m = self.expand(self.summed(torch.relu(c + self.near(self.direct(thin)))))
        return v * self.mask(torch.sigmoid(self.logits(m)))


def rfdn_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of `Rfdn`, in the order in which they run.

    Operations of `upsample` that cannot join its channels are left out. Raises UsageError when
    `channels` cannot hold the image, or when `upsample` has no operation left.
    """
    c, half = space.channels, space.channels // 2
    if c % 6:
        raise UsageError(
            f"Space '{space.name}': 'channels' cannot be {c}: skeleton 'rfdn' repeats the three "
            "colours along them and halves them.",
            f"Use a multiple of 6, such as {max(6, c // 6 * 6)}.",
        )

    def searched(kind: str, name: str, c_out: int) -> Slot:
        edge = space.edges[kind]
        return Slot(name, c, c, c_out, edge.ops, edge.bit_widths, kind=kind)

    def fixed(name: str, op: str, c_in: int, c_out: int) -> Slot:
        return Slot(name, c_in, c, c_out, (op,), (space.fixed_width,))

    for k in range(space.cells):
        for i in range(Rfdn.steps):
            yield searched("distill", f"cell{k}_distill{i}", half)
            yield searched("body", f"cell{k}_body{i}", c)
        yield searched("body", f"cell{k}_body{Rfdn.steps}", half)
        yield fixed(f"cell{k}_fuse", "conv1x1", half * (Rfdn.steps + 1), c)
        yield from esa_slots(space, f"cell{k}_esa_")
    yield fixed("fuse", "conv1x1", c * space.cells, c)
    yield fixed("smooth", "conv3x3", c, c)
    yield keep_joinable(space, searched("upsample", "upsample", 3 * space.scale**2))
    edge = space.edges["tail"]
    yield Slot("tail", 3, c, 3, edge.ops, edge.bit_widths, area="high", kind="tail")


def esa_slots(space: SearchSpace, prefix: str) -> Iterator[Slot]:
    """Slots of every convolution of `Esa`, in the order in which they run."""
    c, thin = space.channels, max(1, space.channels // 4)

    def fixed(name: str, kernel: int, c_in: int, c_out: int, area: Area = "low") -> Slot:
        stride = 2 if area == "strided" else 1
        width, op = (space.fixed_width,), (f"conv{kernel}x{kernel}",)
        return Slot(
            prefix + name, c_in, c_in, c_out, op, width, area=area, stride=stride, gate=True
        )

    yield fixed("reduce", 1, c, thin)
    yield fixed("stride", 3, thin, thin, "strided")
    for i in range(3):
        yield fixed(f"pooled{i}", 3, thin, thin, "pooled")
    yield fixed("direct", 1, thin, thin)
    yield fixed("expand", 1, thin, c)
