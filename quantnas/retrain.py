"""Partial retraining of a rounded network: what may learn, how fast, and what holds it back."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from .config import TRAINED, QuantizeConfig
from .conv import Conv2d, QuantConv2d
from .network import convolutions, hooked
from .saliency import Saliency
from .train import LOGS, Objective, State, set_rate

BIAS, STEP, ZERO = 0.3, 0.3, 2.0
"""Rates of biases (in deviations of the output), of log2 of steps and of zero points (in levels),
as multiples of the rate of weights (in deviations of the kernel); for all of a layer alike they
are smaller the finer its levels are."""


class LowRank(nn.Module):
    """A fixed kernel (c_out, ...) plus the product of two thin matrices, which starts as 0."""

    def __init__(self, kernel: Tensor, rank: int) -> None:
        super().__init__()
        rows = kernel.flatten(1)
        self.down = nn.Parameter(torch.randn(rank, rows.shape[1]))
        self.up = nn.Parameter(torch.zeros(len(rows), rank))
        self.spread = _deviation(rows) / rank**0.5

    def forward(self, kernel: Tensor) -> Tensor:
        return kernel + (self.up @ self.down).view_as(kernel)


def _deviation(kernel: Tensor) -> float:
    """Of the weights; 1 where there is only one of them."""
    return max(kernel.std().item(), 1e-8) if kernel.numel() > 1 else 1.0


def parse(what: str) -> int | None:
    """The rank of `lowrank:8`; none for weights, clip and none. Raises ValueError for others."""
    found = re.fullmatch(TRAINED, what)
    if not found:
        raise ValueError(f"it is '{what}': one of weights, lowrank:8 (or another rank), clip, none")
    return int(found[1]) if found[1] else None


def free(net: nn.Module, what: str) -> None:
    """Let that part of a rounded network learn, in place: `weights` = all; `lowrank:R` = all but
    kernels, which change by a product of rank R (arXiv 2402.05147); `clip` = grids alone.
    """
    rank = parse(what)
    for name, parameter in net.named_parameters():
        grid = name.endswith((*LOGS, "zero"))
        parameter.requires_grad_(parameter.requires_grad and (what != "clip" or grid))
    if rank is not None:
        for conv in convolutions(net).values():
            conv.weight.requires_grad_(False)
            update = LowRank(conv.weight.detach(), rank).to(conv.weight.device)
            parametrize.register_parametrization(conv, "weight", update)


def merge(net: nn.Module) -> None:
    """Make kernels plain again, in place, with what their low-rank updates have learned."""
    for conv in convolutions(net).values():
        if parametrize.is_parametrized(conv, "weight"):
            parametrize.remove_parametrizations(conv, "weight")


def start(net: nn.Module, teacher: nn.Module, low: Tensor, rate: float) -> State:
    """Adam with a rate for every tensor, in its own units: layers differ by orders of magnitude.

    low (N, 3, H, W): pixels on which the deviations of the outputs are measured.
    """
    return State(net, _adam(net, deviations(teacher, low), rate), net)


def _adam(net: nn.Module, spreads: dict[str, float], rate: float) -> optim.Adam:
    """For all that learns; spreads: layer name -> deviation of what the convolution gives."""
    units = {m: _unit(conv) for conv in convolutions(net).values() for m in conv.modules()}
    usual = sum(units.values()) / max(1, len(units))
    groups = []
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                factor = units.get(module, usual) * _factor(module, name, parameter, spreads)
                groups.append({"params": [parameter], "lr": rate * factor, "factor": factor})
    return optim.Adam(groups, fused=True)


def _unit(conv: Conv2d) -> float:
    """The distance between two levels of the kernel, in its deviations: 1 at 2 bits, about."""
    if not isinstance(conv, QuantConv2d) or conv.weight.numel() < 2:
        return 1.0
    factors = conv.factors()
    kernel = conv.weight if factors is None else conv.weight * factors
    return min(1.0, (conv.weight_quantizer.step.mean() / kernel.std().clamp_min(1e-8)).item())


def reconstruct(
    net: nn.Module, teacher: nn.Module, low: Tensor, steps: int, rate: float
) -> Iterator[tuple[int, int]]:
    """Train cell after cell, front to back, to give what it gives in the float network; in place.

    Every cell reads what the rounded ones before it give (arXiv 2102.05426, 2402.05147), on
    batches of 8 of low (N, 3, H, W). The error is weighted as in `Blocks`. Yields (done, all) of
    the updates; `steps` are those of one cell.
    """
    cells, spreads, weights = cells_of(net), deviations(teacher, low), gains(teacher, low[:16])
    theirs = _seen(teacher, low)
    for k, cell in enumerate(cells):
        inputs, wanted = _seen(net, low).inputs[k], theirs.outputs[k]
        optimizer = _adam(cell, spreads, rate)
        for step in range(steps):
            set_rate(optimizer, rate * 0.5 * (1 + math.cos(math.pi * step / steps)))
            at = torch.randint(len(low), (8,))
            error = predicted(cell(*(x[at] for x in inputs)), wanted[at], weights[k])
            optimizer.zero_grad()
            error.sqrt().backward()
            optimizer.step()
            yield k * steps + step + 1, len(cells) * steps


@torch.no_grad()
def _seen(net: nn.Module, low: Tensor) -> "Kept":
    """What every cell reads and gives on low (N, 3, H, W)."""
    kept = kept_outputs(net.eval())
    net(low)
    kept.close()
    return kept


def _factor(module: nn.Module, name: str, value: Tensor, spreads: dict[str, float]) -> float:
    if isinstance(module, LowRank):
        return module.spread if name == "up" else 1.0
    if isinstance(module, Conv2d):
        if name == "bias":
            return BIAS * spreads[module.name]
        return _deviation(value)
    return ZERO if name == "zero" else STEP


@torch.no_grad()
def deviations(net: nn.Module, low: Tensor) -> dict[str, float]:
    """Layer name -> standard deviation of what the convolution gives."""
    found: dict[str, float] = {}

    def note(conv: Any, args: object, out: Tensor) -> None:
        found[conv.name] = max(out.std().item(), 1e-8)

    with hooked(net, note):
        net.eval()(low)
    return found


@dataclass(frozen=True)
class Hold:
    """Saliency-weighted distance of the rounded kernels from the float ones (arXiv 2504.13932).

    weight * sum F (W^ - W)^2, F the saliency of the float network: predicted output error.
    """

    net: nn.Module
    saliency: Saliency
    kernels: dict[str, Tensor]
    weight: float

    def __call__(self) -> Tensor:
        parts = [
            (self.saliency.weights[name] * (conv.rounded_weight() - self.kernels[name]).square())
            for name, conv in convolutions(self.net).items()
            if isinstance(conv, QuantConv2d)
        ]
        return self.weight * torch.stack([part.sum() for part in parts]).sum()


class Blocks:
    """Distance of what the cells give from what they give in the float network.

    weight * the root of the output error that is predicted from the squared error of every channel
    and its saliency (Fisher weighting of arXiv 2102.05426, without labels). Call it after both
    networks have run on the same pixels, and `close` it at the end.
    """

    def __init__(
        self, net: nn.Module, teacher: nn.Module, gains: Sequence[Tensor], weight: float
    ) -> None:
        self.gains, self.weight = gains, weight
        self.ours, self.theirs = kept_outputs(net), kept_outputs(teacher)

    def __call__(self) -> Tensor:
        pairs = zip(self.ours.outputs, self.theirs.outputs, self.gains, strict=True)
        return self.weight * torch.stack([predicted(a, b, g) for a, b, g in pairs]).sum().sqrt()

    def close(self) -> None:
        """Let both networks go."""
        self.ours.close()
        self.theirs.close()


def predicted(ours: Tensor, theirs: Tensor, gains: Tensor) -> Tensor:
    """(), the squared error of the output for an error of a tensor (N, C, H, W)."""
    return ((ours - theirs).square().mean((0, 2, 3)) * gains).sum()


@contextmanager
def penalty(
    net: nn.Module,
    teacher: nn.Module,
    found: Saliency | None,
    low: Tensor,
    objective: Objective,
    config: QuantizeConfig,
) -> Iterator[Callable[[], Tensor] | None]:
    """What is added to the objective while training; none where `hold` and `blocks` are 0.

    found: needed for `hold`; low (N, 3, H, W): pixels on which the sizes of both are measured. The
    networks are watched while this is open.
    """
    parts: list[Callable[[], Tensor]] = []
    if config.hold:
        assert found is not None
        found = replace(found, weights={n: f.to(low.device) for n, f in found.weights.items()})
        kernels = {n: c.weight.detach().clone() for n, c in convolutions(teacher).items()}
        pull = Hold(net, found, kernels, 1.0)
        with torch.no_grad():
            loss = objective(net.eval()(low), low, low)
            weight = float(config.hold * loss / pull().clamp_min(1e-12))
            parts.append(replace(pull, weight=weight))
    watching = Blocks(net, teacher, gains(teacher, low), config.blocks) if config.blocks else None
    if watching is not None and cells_of(net):
        parts.append(watching)
    try:
        yield (lambda: torch.stack([part() for part in parts]).sum()) if parts else None
    finally:
        if watching is not None:
            watching.close()


@dataclass(frozen=True)
class Kept:
    """What the cells of a network have read and given last."""

    inputs: list[tuple[Tensor, ...]]
    outputs: list[Tensor]
    handles: list[RemovableHandle]

    def close(self) -> None:
        """Keep no more."""
        for handle in self.handles:
            handle.remove()


def kept_outputs(net: nn.Module) -> Kept:
    """From now on, of every cell of the network."""
    cells = cells_of(net)
    kept = Kept([()] * len(cells), [torch.empty(0)] * len(cells), [])
    for k, cell in enumerate(cells):

        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, k: int = k) -> None:
            kept.inputs[k], kept.outputs[k] = args, out

        kept.handles.append(cell.register_forward_hook(hook))
    return kept


def cells_of(net: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network, in order; none where it has none."""
    return list(getattr(net, "cells", ()))


@torch.enable_grad()
def gains(teacher: nn.Module, low: Tensor, draws: int = 4) -> list[Tensor]:
    """For every cell, (C,): mean squared error of the output per squared error of a channel.

    low (N, 3, H, W). Over random signs v, (d<v, f> / dz)^2 as in `saliency.measure`.
    """
    kept = kept_outputs(teacher.eval())
    found = [torch.zeros(())] * len(kept.outputs)
    for image in low.split(1) if kept.outputs else ():
        out = teacher(image.detach().requires_grad_())
        for _ in range(draws):
            signs = torch.randint_like(out, 2) * 2 - 1
            slopes = torch.autograd.grad(out, kept.outputs, signs, retain_graph=True)
            squares = [g.square().sum((0, 2, 3)) for g in slopes]
            found = [a + b for a, b in zip(found, squares, strict=True)]
    kept.close()
    return [total / (draws * len(low) * out[0].numel()) for total in found]
