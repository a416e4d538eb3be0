"""Plain stacks: convolutions one after another with a ReLU between, as the fastest networks are.

QuickSRNet (arXiv 2303.04336), SESR collapsed (arXiv 2103.09404), ESPCN (arXiv 1609.05158) and
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
    """x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1].

    ReLU throughout, where the published FSRCNN and SESR have PReLU and ESPCN tanh: what follows
    a ReLU lies on an unsigned grid, and everything runs in integers. All of them correct the
    enlarged input here, which the published ESPCN and FSRCNN do not.
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
    """Whether there is anything on an edge: not when the identity was chosen."""
    return not isinstance(edge, Chain) or len(edge) > 0


def _searched(space: SearchSpace, kind: str, name: str, c_in: int, c_out: int) -> Slot:
    edge = space.edges[kind]
    same = c_in == c_out
    return Slot(name, c_in, c_out, c_out, edge.ops, edge.widths, kind=kind, identity=same)


def plain_slots(space: SearchSpace) -> Iterator[Slot]:
    """Every convolution of a stack with a skip around each, in the order in which they run."""
    for slot in sesr_slots(space):
        if slot.kind == "body":  # half of the usual weights at first
            slot = dataclasses.replace(slot, identity=False, residual=True, gain=0.5)
        yield slot


def _last(space: SearchSpace, c_in: int) -> Slot:
    """The convolution whose output is shuffled to the large image; little detail at first."""
    edge, c_out = space.edges["upsample"], space.colours * space.scale**2
    widths, up = edge.widths, space.scale
    return Slot("upsample", c_in, c_in, c_out, edge.ops, widths, 0.1, kind="upsample", up=up)


def sesr_slots(space: SearchSpace) -> Iterator[Slot]:
    """Every convolution of a stack of equal width, in the order in which they run."""
    c = space.channels
    yield _searched(space, "head", "head", space.colours, c)
    for k in range(space.cells):
        yield _searched(space, "body", f"body{k}", c, c)
    yield _last(space, c)


def espcn_slots(space: SearchSpace) -> Iterator[Slot]:
    """The same of ESPCN, which halves its channels behind the head."""
    c = space.channels
    yield _searched(space, "head", "head", space.colours, c)
    for k in range(space.cells):
        yield _searched(space, "body", f"body{k}", c // 2 if k else c, c // 2)
    yield _last(space, c // 2)


def fsrcnn_slots(space: SearchSpace) -> Iterator[Slot]:
    """The same of FSRCNN, whose body is thin: `THIN` channels between two 1x1 convolutions."""
    c = space.channels
    yield _searched(space, "head", "head", space.colours, c)
    yield Slot("shrink", c, c, THIN, ("conv1x1",), (space.fixed_width,))
    for k in range(space.cells):
        yield _searched(space, "body", f"body{k}", THIN, THIN)
    yield Slot("expand", THIN, THIN, c, ("conv1x1",), (space.fixed_width,))
    yield _last(space, c)


THIN = 12
STACKS: dict[str, Callable[[SearchSpace], Iterator[Slot]]] = {
    "plain": plain_slots,
    "sesr": sesr_slots,
    "quicksrnet": sesr_slots,
    "espcn": espcn_slots,
    "fsrcnn": fsrcnn_slots,
}
"""Skeleton -> its slots.

`plain` and `sesr` add the first tensor to the last one. `plain` adds the input of every body
convolution to its output, where SESR and QuickSRNet have merged that into the kernel: a kernel with
the identity inside takes most of its grid for one weight, and at 4 bits little is left.
"""
