"""The macro-architecture IMDN (arXiv 1909.11856): distillation by splits, contrast attention."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from quantnas.config.search_space import Area, SearchSpace, Slot
from quantnas.errors import UsageError
from quantnas.nn.layer_factory import LayerFactory

from .distillation_tail import DistillationTail, distillation_tail_slots, leaky

fx.wrap("contrast")  # stays one node in a trace, whatever the size


def contrast(x: Tensor) -> Tensor:
    """Standard deviation plus mean of every channel; x (N, C, H, W) -> (N, C, 1, 1)."""
    deviation = torch.std(x, (2, 3), keepdim=True, correction=0)
    return deviation + x.mean((2, 3), keepdim=True)


class Imdn(nn.Module):
    """Head, cells that keep a quarter of every convolution's output channels, and the tail.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]. Activations outside the
    attention are LeakyReLUs. Tensors between convolutions are carried in float.
    """

    kinds = ("body", "upsample")
    smallest = 1
    """Least length of the low-resolution image's shorter side, pixels."""
    steps = 3

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        slots = {slot.name: slot for slot in imdn_slots(space)}
        self.image = factory.tensor(step=1 / 255)
        self.head = factory.edge(slots["head"], self.image)
        self.cells = nn.ModuleList(
            ImdnCell(slots, f"cell{k}_", factory) for k in range(space.cells)
        )
        self.way_out = DistillationTail(slots, space.scale, factory)

    def forward(self, x: Tensor) -> Tensor:
        shallow = y = self.head(self.image(x))
        outputs = []
        for cell in self.cells:
            y = cell(y)
            outputs.append(y)
        out: Tensor = self.way_out(outputs, shallow)
        return out


class ImdnCell(nn.Module):
    """x plus the fused attention over the features kept by three splits and a last convolution.

    x (N, channels, H, W) -> same shape. The first quarter of each convolution's output channels is
    kept; the next convolution reads the rest.
    """

    branch_end = "fuse"

    def __init__(self, slots: dict[str, Slot], prefix: str, factory: LayerFactory) -> None:
        super().__init__()

        def edge(name: str) -> nn.Module:
            return factory.edge(slots[prefix + name], factory.free(signed=True))

        self.body = nn.ModuleList(edge(f"body{i}") for i in range(Imdn.steps))
        last = slots[f"{prefix}body{Imdn.steps}"]
        self.keep, self.hand_on = last.c_out, last.c_in
        self.last, self.fuse = edge(f"body{Imdn.steps}"), edge("fuse")
        self.attention = ContrastAttention(slots, f"{prefix}cca_", factory)
        self.residual = factory.residual(slots[f"{prefix}fuse"].c_out)

    def forward(self, x: Tensor) -> Tensor:
        kept, u = [], x
        for body in self.body:
            y = leaky(body(u))
            kept.append(torch.narrow(y, 1, 0, self.keep))
            u = torch.narrow(y, 1, self.keep, self.hand_on)
        kept.append(self.last(u))
        y = self.attention(torch.cat(kept, 1))
        out: Tensor = x + self.residual(self.fuse(y), x)
        return out


class ContrastAttention(nn.Module):
    """Multiply every channel of v by a gate that is computed from the contrast of all channels.

    v (N, channels, H, W) -> same shape.
    """

    def __init__(self, slots: dict[str, Slot], prefix: str, factory: LayerFactory) -> None:
        super().__init__()
        self.reduce = factory.edge(slots[f"{prefix}reduce"], factory.free(signed=True))
        self.expand = factory.edge(slots[f"{prefix}expand"], factory.free())

    def forward(self, v: Tensor) -> Tensor:
        thin = torch.relu(self.reduce(contrast(v)))
        return v * torch.sigmoid(self.expand(thin))


def imdn_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of `Imdn`, in the order in which they run.

    Raises UsageError when `channels` is not a multiple of 4.
    """
    c, keep, thin = space.channels, space.channels // 4, max(1, space.channels // 16)
    if c % 4:
        raise UsageError(
            f"Space '{space.name}': 'channels' cannot be {c}: skeleton 'imdn' keeps a quarter of "
            "the channels at every split.",
            f"Use a multiple of 4, such as {max(4, c // 4 * 4)}.",
        )

    def searched(name: str, c_in: int, c_out: int) -> Slot:
        edge = space.edges["body"]
        return Slot(name, c_in, c, c_out, edge.ops, edge.bit_widths, kind="body")

    def fixed(name: str, op: str, c_in: int, c_out: int, area: Area = "low") -> Slot:
        width, gate = (space.fixed_width,), area == "single"
        return Slot(name, c_in, c, c_out, (op,), width, area=area, gate=gate)

    yield fixed("head", "conv3x3", 3, c)
    for k in range(space.cells):
        yield searched(f"cell{k}_body0", c, c)
        for i in range(1, Imdn.steps):
            yield searched(f"cell{k}_body{i}", c - keep, c)
        yield searched(f"cell{k}_body{Imdn.steps}", c - keep, keep)
        yield fixed(f"cell{k}_cca_reduce", "conv1x1", c, thin, "single")
        yield fixed(f"cell{k}_cca_expand", "conv1x1", thin, c, "single")
        yield fixed(f"cell{k}_fuse", "conv1x1", c, c)
    yield from distillation_tail_slots(space)
