"""Partial retraining of a rounded network: what may learn, how fast, and what holds it back."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.utils import parametrize

from quantnas.architectures.network import convolutions, hooked
from quantnas.config.run_config import TRAINED, QuantizeConfig
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.training.training_loop import LOGS, Objective, TrainingState, cosine, set_rate

from . import block_outputs
from .saliency import Saliency

BIAS, STEP, ZERO = 0.3, 0.3, 2.0
"""Rates of biases (in deviations of the output), of log2 of steps and of zero points (in levels),
as multiples of the rate of weights (in deviations of the kernel); for all of a layer alike they
are smaller the finer its levels are, beside those of the coarsest one."""

OFF = 0.008
"""Root mean squared error of the output, of [0, 1], at which a rate is as it is given: 42 dB."""
MOST = 1.25
"""Times the given rate, however large the error is."""


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


def in_proportion(rate: float, psnr: float) -> float:
    """The rate for a network at that PSNR to the float one, dB: what lost more has further to go.

    rate: where the output is off by `OFF`.
    """
    return rate * min(MOST, 10 ** (-psnr / 20) / OFF)


def start(net: nn.Module, teacher: nn.Module, low: Tensor, rate: float) -> TrainingState:
    """Adam with a rate for every tensor, in its own units: layers differ by orders of magnitude.

    low (N, 3, H, W): pixels on which the deviations of the outputs are measured.
    """
    return TrainingState(net, _adam(net, _units(net), deviations(teacher, low), rate), net)


def _adam(
    net: nn.Module, units: dict[nn.Module, float], spreads: dict[str, float], rate: float
) -> optim.Adam:
    """For all that learns; spreads: layer name -> deviation of what the convolution gives."""
    usual = sum(units.values()) / max(1, len(units))
    groups = []
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                factor = units.get(module, usual) * _factor(module, name, parameter, spreads)
                groups.append({"params": [parameter], "lr": rate * factor, "factor": factor})
    return optim.Adam(groups, fused=True)


def _units(net: nn.Module) -> dict[nn.Module, float]:
    """For convolutions and what is in them: how coarse their levels are, the coarsest 1."""
    units = {m: _unit(conv) for conv in convolutions(net).values() for m in conv.modules()}
    coarsest = max(units.values(), default=1.0)
    return {module: unit / coarsest for module, unit in units.items()}


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
    batches of 8 of low (N, 3, H, W). The error is weighted as in `block_outputs.Blocks`. Yields (done, all)
    of the updates; `steps` are those of one cell.
    """
    parts, theirs = block_outputs.of(net), block_outputs.seen(teacher, low)
    spreads, weights = deviations(teacher, low), block_outputs.gains(teacher, low[:16])
    units = _units(net)
    for k, cell in enumerate(parts):
        inputs, wanted = block_outputs.seen(net, low).inputs[k], theirs.outputs[k]
        optimizer = _adam(cell, units, spreads, rate)
        for step in range(steps):
            set_rate(optimizer, rate * cosine(step, steps))
            at = torch.randint(len(low), (8,))
            error = block_outputs.predicted(cell(*(x[at] for x in inputs)), wanted[at], weights[k])
            optimizer.zero_grad()
            error.sqrt().backward()
            optimizer.step()
            yield k * steps + step + 1, len(parts) * steps


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
    watching = None
    if config.blocks and block_outputs.of(net):
        watching = block_outputs.Blocks(
            net, teacher, block_outputs.gains(teacher, low), config.blocks
        )
        parts.append(watching)
    try:
        yield (lambda: torch.stack([part() for part in parts]).sum()) if parts else None
    finally:
        if watching is not None:
            watching.close()
