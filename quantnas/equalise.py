"""Scaling the channels of a float network against each other, so that its tensors fit their grids.

Cross-layer equalisation (arXiv 1906.04721) for any wiring. ReLU and LeakyReLU commute with
positive factors, sums and concatenations with one for every channel. So a channel may be divided
by s where convolutions make it and multiplied by s where they read it, and the network computes
the same. Channels that are added share their s. Pixels keep theirs, and so does all that
passes something that is not listed in `RULES`.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .conv import Conv2d
from .quantizer import FloatTensor
from .rfdn import resize_like
from .tracing import Tracer

FIXED = 0
"""The group of the channels that keep their scale."""
SMALLEST = 1 / 16
"""A channel is divided by no less, and multiplied by no less."""
ORDER = 6
"""Of the norm that stands for a range: large values that are rare count less."""

Ids = list[int]
"""For every channel of a tensor, the group whose scale it shares."""
Note = Callable[[Ids, Tensor], object]


class Walk(fx.Interpreter):
    """Runs a float network once on low (N, 3, H, W), and finds which channels share a scale.

    `note` is given every tensor (N, C, H, W) that a convolution or a grid reads, with its ids.
    Groups are a union-find: a channel's group is the root above its id, and `FIXED` is a root.
    """

    def __init__(self, net: nn.Module, low: Tensor, note: Note) -> None:
        super().__init__(fx.GraphModule(net, Tracer().trace(net)))
        self.parents = [FIXED]
        self.ids: dict[fx.Node, Ids] = {}
        self.reads: dict[nn.Conv2d, Ids] = {}
        """What every convolution reads, and what it makes."""
        self.makes: dict[nn.Conv2d, Ids] = {}
        self.note, self.device = note, low.device
        self.out: Tensor = self.run(low)

    def roots(self, ids: Ids) -> Tensor:
        """(C,), the group of every id."""
        return torch.tensor([self._root(i) for i in ids], dtype=torch.long, device=self.device)

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        args: Any = fx.node.map_arg(n.args, self.ids.__getitem__)
        kwargs: Any = fx.node.map_arg(n.kwargs, self.ids.__getitem__)
        found = None
        if n.op == "call_module":
            module, x = self.fetch_attr(str(n.target)), self.env[n.all_input_nodes[0]]
            found = self._pass(module, args[0], x)
        elif n.target in RULES:
            found = RULES[n.target](self, *args, **kwargs)
        channels = out.shape[1] if isinstance(out, Tensor) and out.dim() == 4 else 0
        if found is None or len(found) != channels:
            for given in n.all_input_nodes:
                self.join(self.ids[given], [FIXED] * len(self.ids[given]))
            found = [FIXED] * channels
        self.ids[n] = found
        return out

    def _pass(self, module: nn.Module, ids: Ids, x: Tensor) -> Ids | None:
        """Through a convolution or a grid that reads x (N, C, H, W)."""
        self.note(ids, x)
        if isinstance(module, nn.Conv2d):
            self.join(ids, self.reads.setdefault(module, ids))
            if isinstance(module, Conv2d) and module.up > 1:
                return [FIXED] * module.out_channels * module.up**2
            return self.makes.setdefault(module, list(self._fresh(module.out_channels)))
        return ids if isinstance(module, FloatTensor) and not module.fixed else None

    def _fresh(self, count: int) -> Iterator[int]:
        for _ in range(count):
            self.parents.append(len(self.parents))
            yield self.parents[-1]

    def _root(self, i: int) -> int:
        while self.parents[i] != i:
            i = self.parents[i]
        return i

    def join(self, a: Ids, b: Ids) -> None:
        """Let every channel of one tensor share its scale with that of the other."""
        for i, j in zip(a, b, strict=True):
            i, j = self._root(i), self._root(j)
            self.parents[max(i, j)] = min(i, j)


@torch.enable_grad()
def balance(net: nn.Module, low: Tensor, steps: int = 150) -> int:
    """Give the channels of a float network the scales with the least noise in its output; in place.

    low (N, 3, H, W): pixels to measure on. Rounding adds to all channels of a tensor x a noise
    that grows with the range of x / s. A channel carries it to the output by its factor s and by
    the slope of the output there. Minimises the sum of (range * s * slope)^2, which is convex in
    log s; the range is a norm of order `ORDER`, the slope that of a random sum of the output.
    Rounding of kernels is left out. Returns the number of output channels that were scaled.
    """
    noises: list[Noise] = []
    for part in low.split(4):
        found = dict[Tensor, Ids]()
        walk = Walk(net.eval(), part.detach().requires_grad_(), partial(_keep, found))
        noises += _noises(walk, found)
    if not noises:
        return 0
    logs = low.new_zeros(len(walk.parents), requires_grad=True)
    adam = torch.optim.Adam([logs])
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        adam.zero_grad()
        (_total(noises, logs) + 1e-30).log().backward()
        adam.step()
    return _rescale(walk, logs.detach().exp().clamp(SMALLEST, 1 / SMALLEST))


@dataclass(frozen=True)
class Noise:
    """What decides the noise of one tensor; all (C,)."""

    groups: Tensor
    powers: Tensor
    """Mean of |x|^ORDER, for a largest |x| of 1."""
    slopes: Tensor
    """Of the output, squared, times the largest |x| squared."""


def _keep(found: dict[Tensor, Ids], ids: Ids, x: Tensor) -> None:
    """A tensor that several convolutions read counts once."""
    found.setdefault(x, ids)


def _noises(walk: Walk, found: dict[Tensor, Ids]) -> Iterator[Noise]:
    tensors = [x for x in found if x.requires_grad and walk.roots(found[x]).any()]
    if not tensors:
        return
    probe = (walk.out * torch.randn_like(walk.out)).sum()
    slopes = torch.autograd.grad(probe, tensors, allow_unused=True)
    for x, slope in zip(tensors, slopes, strict=True):
        if slope is not None and x.any():
            most = x.detach().abs().max().clamp_min(1e-12)
            powers = (x.detach() / most).abs().pow(ORDER).mean((0, 2, 3))
            squares = slope.square().sum((0, 2, 3)) * most**2
            yield Noise(walk.roots(found[x]), powers, squares)


def _total(noises: list[Noise], logs: Tensor) -> Tensor:
    """(), the squared noise in the output for the logarithms of all scales."""
    parts = []
    free = torch.arange(len(logs), device=logs.device) != FIXED
    for noise in noises:
        scales = (logs * free)[noise.groups].exp()
        range_ = (noise.powers / scales**ORDER).sum() ** (2 / ORDER)
        parts.append(range_ * (noise.slopes * scales**2).sum())
    return torch.stack(parts).sum()


@torch.no_grad()
def _rescale(walk: Walk, scales: Tensor) -> int:
    """Divide every channel by the scale of its group, and multiply it where it is read."""
    scales[FIXED] = 1
    count = 0
    for conv, ids in walk.reads.items():
        _scale_inputs(conv, scales[walk.roots(ids)])
    for conv, ids in walk.makes.items():
        factor = scales[walk.roots(ids)]
        count += int((factor != 1).sum())
        conv.weight.div_(factor[:, None, None, None])
        if conv.bias is not None:
            conv.bias.div_(factor)
    return count


def _scale_inputs(conv: nn.Conv2d, factor: Tensor) -> None:
    """Multiply the weights that read channel c by factor[c]; factor (c_in,)."""
    rows = factor.view(conv.groups, -1).repeat_interleave(len(conv.weight) // conv.groups, 0)
    conv.weight.mul_(rows[:, :, None, None])


def _same(walk: Walk, ids: Ids, *_: Any, **__: Any) -> Ids:
    return ids


def _sum(walk: Walk, a: Any, b: Any) -> Ids | None:
    """A number that is added fixes all."""
    if not (isinstance(a, list) and isinstance(b, list) and len(a) == len(b)):
        return None
    walk.join(a, b)
    return a


def _product(walk: Walk, a: Any, b: Any) -> Ids | None:
    """One factor may have scales, as with a mask."""
    for x, other in ((a, b), (b, a)):
        if isinstance(other, int | float) or not walk.roots(other).any():
            return x if isinstance(x, list) else None
    return None


def _cat(walk: Walk, parts: list[Ids], dim: int = 0) -> Ids | None:
    return [i for part in parts for i in part] if dim == 1 else None


def _part(walk: Walk, ids: Ids, dim: int, start: int, length: int) -> Ids | None:
    return ids[start : start + length] if dim == 1 else None


RULES: dict[Any, Callable[..., Ids | None]] = {
    operator.add: _sum,
    operator.iadd: _sum,
    operator.mul: _product,
    operator.imul: _product,
    torch.cat: _cat,
    torch.narrow: _part,
    torch.relu: _same,
    F.relu: _same,
    F.leaky_relu: _same,
    torch.max_pool2d: _same,
    F.interpolate: _same,
    resize_like: _same,
}
"""Function of the traced network -> (walk, the ids of its arguments) -> those of its output.

None: it fixes all that it reads, as does a function that is not listed.
"""
