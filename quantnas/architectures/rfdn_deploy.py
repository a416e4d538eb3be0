"""A deployable variant of RFDN: it has only ReLUs and no attention, and runs in integers."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from quantnas.config.search_space import SearchSpace, Slot
from quantnas.nn.image_layers import Correction, InputView
from quantnas.nn.layer_factory import LayerFactory
from quantnas.nn.quantizers import ActQuantizer


class RfdnDeploy(nn.Module):
    """Distillation cells after RFDN (arXiv 2009.11551), made to run in integers.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]. It differs from RFDN: a ReLU
    replaces every LeakyReLU, there is no attention, every cell has a skip around it, and the
    output of the network is added to the repeated input pixels. Every edge except `upsample` reads
    the output of a ReLU, so its grid is unsigned and starts at 0.
    """

    kinds = ("body", "distill", "upsample")
    smallest = 1
    colours = (1, 3)
    steps = 3

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.view = InputView(space, factory)
        slots = {slot.name: slot for slot in rfdn_deploy_slots(space)}
        self.head = factory.edge(slots["head"], self.view.seen)
        self.shallow = factory.tensor()
        self.cells, self.carried = nn.ModuleList(), nn.ModuleList()
        source = self.shallow
        for k in range(space.cells):
            self.cells.append(DeployCell(slots, f"cell{k}_", source, factory))
            source = factory.tensor()
            self.carried.append(source)
        self.joined = factory.tensor()
        self.fuse = factory.edge(slots["fuse"], self.joined)
        self.fused = factory.tensor()
        self.smooth = factory.edge(slots["smooth"], self.fused)
        self.smoothed, self.deep = factory.tensor(signed=True), factory.tensor(signed=True)
        self.upsample = factory.edge(slots["upsample"], self.deep)
        self.detail, self.correction = factory.tensor(signed=True), Correction(space, factory)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.view(x)
        shallow = y = self.shallow(torch.relu(self.head(y)))
        outputs = []
        for cell, carried in zip(self.cells, self.carried, strict=True):
            y = carried(torch.relu(y + cell(y)))
            outputs.append(y)
        y = self.fused(torch.relu(self.fuse(self.joined(torch.cat(outputs, 1)))))
        y = self.deep(shallow + self.smoothed(self.smooth(y)))  # a ReLU here would die in training
        out: Tensor = self.correction(x, self.detail(self.upsample(y)))
        return out


class DeployCell(nn.Module):
    """Three distillation steps, a last convolution, and a 1x1 convolution over all outputs.

    x (N, channels, H, W) -> same shape, on a signed grid; the caller adds it to x.
    """

    branch_end = "fuse"

    def __init__(
        self, slots: dict[str, Slot], prefix: str, source: ActQuantizer, factory: LayerFactory
    ) -> None:
        super().__init__()
        self.body, self.distill = nn.ModuleList(), nn.ModuleList()
        self.branch, self.stream = nn.ModuleList(), nn.ModuleList()
        self.kept = nn.ModuleList(factory.tensor() for _ in range(RfdnDeploy.steps + 1))
        for i in range(RfdnDeploy.steps):
            self.distill.append(factory.edge(slots[f"{prefix}distill{i}"], source))
            self.body.append(factory.edge(slots[f"{prefix}body{i}"], source))
            self.branch.append(factory.tensor(signed=True))
            source = factory.tensor()
            self.stream.append(source)
        self.body.append(factory.edge(slots[f"{prefix}body{RfdnDeploy.steps}"], source))
        self.joined = factory.tensor()
        self.fuse = factory.edge(slots[f"{prefix}fuse"], self.joined)
        self.residual = factory.residual(slots[f"{prefix}fuse"].c_out)
        self.out = factory.tensor(signed=True)

    def forward(self, x: Tensor) -> Tensor:
        kept, u = [], x
        for i in range(RfdnDeploy.steps):
            kept.append(self.kept[i](torch.relu(self.distill[i](u))))
            u = self.stream[i](torch.relu(u + self.branch[i](self.body[i](u))))
        kept.append(self.kept[RfdnDeploy.steps](torch.relu(self.body[RfdnDeploy.steps](u))))
        joined = self.joined(torch.cat(kept, 1))
        return self.out(self.residual(self.fuse(joined), x))


def rfdn_deploy_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of `RfdnDeploy`, in the order in which they run."""
    c, half = space.channels, space.channels // 2

    def searched(kind: str, name: str, c_out: int, gain: float = 1.0) -> Slot:
        edge = space.edges[kind]
        return Slot(name, c, c, c_out, edge.ops, edge.bit_widths, gain, kind=kind)

    def fixed(name: str, op: str, c_in: int, c_out: int) -> Slot:
        return Slot(name, c_in, c, c_out, (op,), (space.fixed_width,))

    yield fixed("head", "conv3x3", space.colours, c)
    for k in range(space.cells):
        for i in range(RfdnDeploy.steps):
            yield searched("distill", f"cell{k}_distill{i}", half)
            yield searched("body", f"cell{k}_body{i}", c)
        yield searched("body", f"cell{k}_body{RfdnDeploy.steps}", half)
        yield fixed(f"cell{k}_fuse", "conv1x1", half * (RfdnDeploy.steps + 1), c)
    yield fixed("fuse", "conv1x1", c * space.cells, c)
    yield fixed("smooth", "conv3x3", c, c)
    yield searched("upsample", "upsample", space.colours * space.scale**2, gain=0.1)
