"""The released RFDN (arXiv 2009.11551): shallow residual blocks, LeakyReLU, spatial attention."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from quantnas.config.search_space import SearchSpace, Slot
from quantnas.nn.layer_factory import LayerFactory

from .distillation_tail import DistillationTail, distillation_tail_slots, leaky
from .rfdn import esa_slots, resize_like

fx.wrap("resize_like")  # needed here too: torch.fx wraps functions module by module


class RfdnPublished(nn.Module):
    """Head, distillation cells with attention, and a tail: the network that `Rfdn` comes from.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]; H and W are at least 15, or the
    attention has nothing to pool. Unlike in `Rfdn`, activations outside the attention are
    LeakyReLUs and there is no skip around a cell; so there is no adaptive deviation either.
    Tensors are carried in float: in 8 bits, sums of this many terms would cost half a decibel.
    """

    kinds = ("body", "distill", "upsample")
    smallest = 15
    """Least length of the low-resolution image's shorter side, pixels."""
    steps = 3

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        slots = {slot.name: slot for slot in rfdn_published_slots(space)}
        self.image = factory.tensor(step=1 / 255)
        self.head = factory.edge(slots["head"], self.image)
        cells = (PublishedCell(slots, f"cell{k}_", factory) for k in range(space.cells))
        self.cells = nn.ModuleList(cells)
        self.way_out = DistillationTail(slots, space.scale, factory)

    def forward(self, x: Tensor) -> Tensor:
        shallow = y = self.head(self.image(x))
        outputs = []
        for cell in self.cells:
            y = cell(y)
            outputs.append(y)
        out: Tensor = self.way_out(outputs, shallow)
        return out


class PublishedCell(nn.Module):
    """The attention over the fused outputs of three distillation steps and a last convolution.

    x (N, channels, H, W) -> same shape.
    """

    def __init__(self, slots: dict[str, Slot], prefix: str, factory: LayerFactory) -> None:
        super().__init__()

        def edge(name: str) -> nn.Module:
            return factory.edge(slots[prefix + name], factory.free(signed=True))

        self.distill = nn.ModuleList(edge(f"distill{i}") for i in range(RfdnPublished.steps))
        self.body = nn.ModuleList(edge(f"body{i}") for i in range(RfdnPublished.steps))
        self.last = edge(f"body{RfdnPublished.steps}")
        self.fuse = edge("fuse")
        self.attention = Attention(slots, f"{prefix}esa_", factory)

    def forward(self, x: Tensor) -> Tensor:
        kept, u = [], x
        for distill, body in zip(self.distill, self.body, strict=True):
            kept.append(leaky(distill(u)))
            u = leaky(u + body(u))
        kept.append(leaky(self.last(u)))
        out: Tensor = self.attention(self.fuse(torch.cat(kept, 1)))
        return out


class Attention(nn.Module):
    """Enhanced spatial attention: v times a mask that is computed at a sixth of its resolution.

    v (N, channels, H, W) -> same shape; H and W are at least 15. Unlike in `rfdn.Esa`, only the
    first two convolutions behind the pooling are followed by a ReLU.
    """

    def __init__(self, slots: dict[str, Slot], prefix: str, factory: LayerFactory) -> None:
        super().__init__()

        def edge(name: str, signed: bool = True) -> nn.Module:
            return factory.edge(slots[prefix + name], factory.free(signed))

        self.reduce, self.stride, self.direct = map(edge, ("reduce", "stride", "direct"))
        self.pooled = nn.ModuleList(edge(f"pooled{i}", signed=i == 0) for i in range(3))
        self.expand = edge("expand")

    def forward(self, v: Tensor) -> Tensor:
        thin = self.reduce(v)
        c = torch.max_pool2d(self.stride(thin), 7, 3)
        c = torch.relu(self.pooled[1](torch.relu(self.pooled[0](c))))
        c = resize_like(self.pooled[2](c), v)
        return v * torch.sigmoid(self.expand(c + self.direct(thin)))


def rfdn_published_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of `RfdnPublished`, in the order in which they run."""
    c, half, width = space.channels, space.channels // 2, (space.fixed_width,)

    def searched(kind: str, name: str, c_out: int) -> Slot:
        edge = space.edges[kind]
        return Slot(name, c, c, c_out, edge.ops, edge.bit_widths, kind=kind)

    yield Slot("head", 3, c, c, ("conv3x3",), width)
    for k in range(space.cells):
        for i in range(RfdnPublished.steps):
            yield searched("distill", f"cell{k}_distill{i}", half)
            yield searched("body", f"cell{k}_body{i}", c)
        yield searched("body", f"cell{k}_body{RfdnPublished.steps}", half)
        joined = half * (RfdnPublished.steps + 1)
        yield Slot(f"cell{k}_fuse", joined, c, c, ("conv1x1",), width)
        yield from esa_slots(space, f"cell{k}_esa_")
    yield from distillation_tail_slots(space)
