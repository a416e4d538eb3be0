"""Plain stacks: convolutions one after another with ReLUs between, as in the fastest networks.

QuickSRNet (arXiv 2303.04336), collapsed SESR (arXiv 2103.09404), ESPCN (arXiv 1609.05158) and
FSRCNN (arXiv 1608.00367) are such stacks.
"""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from quantnas.config.search_space import SearchSpace, Slot
from quantnas.nn.image_layers import Correction, InputView
from quantnas.nn.layer_factory import LayerFactory
from quantnas.nn.operations import Chain


class Plain(nn.Module):
    """A plain stack whose output corrects the enlarged input.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1]. All activations are ReLUs,
    where the published FSRCNN and SESR have PReLU and ESPCN tanh: the output of a ReLU lies on an
    unsigned grid, and everything runs in integers. The published ESPCN and FSRCNN do not correct
    the enlarged input.
    """

    kinds = ("head", "body", "upsample")
    smallest = 1
    colours = (1, 3)

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.view = InputView(space, factory)
        self.edges, self.branches = nn.ModuleList(), nn.ModuleList()
        self.tensors = nn.ModuleList()
        *slots, last = STACKS[space.skeleton](space)
        source = self.view.seen
        for slot in slots:
            self.edges.append(factory.edge(slot, source))
            left_out = slot.residual and not _holds_any(self.edges[-1])
            source = source if left_out else factory.tensor()
            self.tensors.append(nn.Identity() if left_out else source)
            branch = slot.residual and not left_out
            self.branches.append(factory.tensor(signed=True) if branch else nn.Identity())
        self.residual = [slot.residual for slot in slots]
        self.skips = space.skeleton in ("plain", "sesr")
        if self.skips:
            source = factory.tensor()
            self.summed = source
        self.upsample = factory.edge(last, source)
        self.detail, self.correction = factory.tensor(signed=True), Correction(space, factory)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.view(x)
        first = None
        for i, edge in enumerate(self.edges):
            if self.residual[i] and not _holds_any(edge):
                continue
            z = self.branches[i](edge(y))
            y = self.tensors[i](torch.relu(y + z if self.residual[i] else z))
            first = y if first is None else first
        if self.skips:
            y = self.summed(y + first)
        out: Tensor = self.correction(x, self.detail(self.upsample(y)))
        return out


def _holds_any(edge: nn.Module) -> bool:
    """Return whether an edge has a convolution: it has none when the identity was chosen."""
    return not isinstance(edge, Chain) or len(edge) > 0


def _searched(space: SearchSpace, kind: str, name: str, c_in: int, c_out: int) -> Slot:
    edge = space.edges[kind]
    same = c_in == c_out
    return Slot(name, c_in, c_out, c_out, edge.ops, edge.bit_widths, kind=kind, identity=same)


def plain_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of a stack of equal width with a skip around every body convolution, in order."""
    for slot in sesr_slots(space):
        if slot.kind == "body":  # initial weights are half of the usual ones
            slot = dataclasses.replace(slot, identity=False, residual=True, gain=0.5)
        yield slot


def _last(space: SearchSpace, c_in: int) -> Slot:
    """The convolution in front of the pixel shuffle; its initial output is small."""
    edge, c_out = space.edges["upsample"], space.colours * space.scale**2
    widths, up = edge.bit_widths, space.scale
    return Slot("upsample", c_in, c_in, c_out, edge.ops, widths, 0.1, kind="upsample", up=up)


def sesr_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of a stack of equal width, in the order in which they run."""
    c = space.channels
    yield _searched(space, "head", "head", space.colours, c)
    for k in range(space.cells):
        yield _searched(space, "body", f"body{k}", c, c)
    yield _last(space, c)


def espcn_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of ESPCN, which halves its channels behind the head, in order."""
    c = space.channels
    yield _searched(space, "head", "head", space.colours, c)
    for k in range(space.cells):
        yield _searched(space, "body", f"body{k}", c // 2 if k else c, c // 2)
    yield _last(space, c // 2)


def fsrcnn_slots(space: SearchSpace) -> Iterator[Slot]:
    """Slots of every convolution of FSRCNN, in order.

    Its body has only `THIN` channels, between two 1x1 convolutions.
    """
    c = space.channels
    yield _searched(space, "head", "head", space.colours, c)
    yield Slot("shrink", c, c, THIN, ("conv1x1",), (space.fixed_width,))
    for k in range(space.cells):
        yield _searched(space, "body", f"body{k}", THIN, THIN)
    yield Slot("expand", THIN, THIN, c, ("conv1x1",), (space.fixed_width,))
    yield _last(space, c)


THIN = 12
"""Channels of the body of FSRCNN."""
STACKS: dict[str, Callable[[SearchSpace], Iterator[Slot]]] = {
    "plain": plain_slots,
    "sesr": sesr_slots,
    "quicksrnet": sesr_slots,
    "espcn": espcn_slots,
    "fsrcnn": fsrcnn_slots,
}
"""Skeleton -> function that makes its slots.

`plain` and `sesr` add the output of the head to the output of the body. `plain` also adds the input
of every body convolution to its output, where SESR and QuickSRNet have merged that sum into the
kernel: in a kernel that contains the identity, one weight takes most of the grid's range, and at 4
bits few levels are left for the others.
"""
