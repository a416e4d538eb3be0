"""Partial retraining of a rounded network: trainable parts, learning rates, and penalties."""

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
from quantnas.training.training_loop import Objective, TrainingState, cosine, is_grid, set_rate

from . import block_outputs
from .saliency import Saliency

BIAS, STEP, ZERO = 0.3, 0.3, 2.0
"""Learning rates of biases (unit: deviation of the output), of log2 of steps, and of zero points
(unit: level), as multiples of the rate of weights (unit: deviation of the kernel). All rates of a
layer are smaller the finer its levels are, compared with the coarsest layer."""

OFF = 0.008
"""Root mean squared error of the output in [0, 1] at which the given rate holds: 42 dB."""
MOST = 1.25
"""Largest multiple of the given rate, however large the error is."""


class LowRank(nn.Module):
    """A fixed kernel (c_out, ...) plus a product of two thin matrices, which starts as 0."""

    def __init__(self, kernel: Tensor, rank: int) -> None:
        super().__init__()
        rows = kernel.flatten(1)
        self.down = nn.Parameter(torch.randn(rank, rows.shape[1]))
        self.up = nn.Parameter(torch.zeros(len(rows), rank))
        self.spread = _deviation(rows) / rank**0.5

    def forward(self, kernel: Tensor) -> Tensor:
        return kernel + (self.up @ self.down).view_as(kernel)


def _deviation(kernel: Tensor) -> float:
    """Standard deviation of the weights; 1 for a single weight."""
    return max(kernel.std().item(), 1e-8) if kernel.numel() > 1 else 1.0


def parse(trained: str) -> int | None:
    """The rank R of `lowrank:R`; None for weights, clip and none. Raises ValueError for others."""
    match = re.fullmatch(TRAINED, trained)
    if not match:
        raise ValueError(
            f"it is '{trained}': one of weights, lowrank:8 (or another rank), clip, none"
        )
    return int(match[1]) if match[1] else None


def set_trainable(net: nn.Module, trained: str) -> None:
    """Make a part of a rounded network trainable, in place.

    trained: `weights` = all parameters; `lowrank:R` = all but kernels, which change by a product
    of rank R (arXiv 2402.05147); `clip` = grids alone. Raises ValueError as `parse`.
    """
    rank = parse(trained)
    for module in net.modules() if trained == "clip" else ():
        if not is_grid(module):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    if rank is not None:
        updates: dict[Tensor, LowRank] = {}  # one for each kernel, which layers may share
        for conv in convolutions(net).values():
            conv.weight.requires_grad_(False)
            kernel = conv.weight
            if kernel not in updates:
                updates[kernel] = LowRank(kernel.detach(), rank).to(kernel.device)
            parametrize.register_parametrization(conv, "weight", updates[kernel])


def merge(net: nn.Module) -> None:
    """Add the low-rank updates to their kernels, in place, so that kernels are plain tensors."""
    merged: dict[Tensor, Any] = {}
    for conv in convolutions(net).values():
        if parametrize.is_parametrized(conv, "weight"):
            weights: Any = conv.parametrizations
            original = weights["weight"].original
            is_done = original in merged
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=not is_done)
            conv.weight = merged.setdefault(original, conv.weight)


def proportional_rate(rate: float, psnr: float) -> float:
    """The learning rate for a rounded network, in proportion to the error of its output.

    rate: the rate for an error of `OFF`; psnr: PSNR of the rounded network's output to the float
    network's, dB.
    """
    return rate * min(MOST, 10 ** (-psnr / 20) / OFF)


def start(net: nn.Module, teacher: nn.Module, low: Tensor, rate: float) -> TrainingState:
    """The state before the first update: Adam with a rate for every tensor, in the tensor's units.

    Units matter, since layers differ by orders of magnitude. low (N, 3, H, W): images on which the
    deviations of the outputs are measured.
    """
    return TrainingState(net, _adam(net, _units(net), deviations(teacher, low), rate), net)


def _adam(
    net: nn.Module, units: dict[nn.Module, float], spreads: dict[str, float], rate: float
) -> optim.Adam:
    """Adam for all trainable parameters; spreads: layer name -> deviation of its output."""
    mean = sum(units.values()) / max(1, len(units))
    groups = []
    seen = set[Tensor]()  # layers may share a kernel
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                factor = units.get(module, mean) * _factor(module, name, parameter, spreads)
                groups.append({"params": [parameter], "lr": rate * factor, "factor": factor})
    return optim.Adam(groups, fused=True)


def _units(net: nn.Module) -> dict[nn.Module, float]:
    """Map convolutions and the modules in them to the coarseness of their levels, at most 1."""
    units = {m: _unit(conv) for conv in convolutions(net).values() for m in conv.modules()}
    coarsest = max(units.values(), default=1.0)
    return {module: unit / coarsest for module, unit in units.items()}


def _unit(conv: Conv2d) -> float:
    """The step of a kernel's grid in deviations of the kernel, about 1 at 2 bits, at most 1."""
    if not isinstance(conv, QuantConv2d) or conv.weight.numel() < 2:
        return 1.0
    factors = conv.factors()
    kernel = conv.weight if factors is None else conv.weight * factors
    return min(1.0, (conv.weight_quantizer.step.mean() / kernel.std().clamp_min(1e-8)).item())


def reconstruct(
    net: nn.Module, teacher: nn.Module, low: Tensor, steps: int, rate: float
) -> Iterator[tuple[int, int]]:
    """Train cell after cell, front to back, towards its output in the float network; in place.

    Every cell reads the outputs of the rounded cells before it (arXiv 2102.05426, 2402.05147), on
    batches of 8 of low (N, 3, H, W). The error is weighted as in `block_outputs.BlockPenalty`.
    steps: updates per cell. Yields (done, all) of the updates.
    """
    cells, float_cells = block_outputs.cells(net), block_outputs.run(teacher, low)
    spreads, gains = deviations(teacher, low), block_outputs.gains(teacher, low[:16])
    units = _units(net)
    for k, cell in enumerate(cells):
        inputs, target = block_outputs.run(net, low).inputs[k], float_cells.outputs[k]
        optimizer = _adam(cell, units, spreads, rate)
        for step in range(steps):
            set_rate(optimizer, rate * cosine(step, steps))
            rows = torch.randint(len(low), (8,))
            out = cell(*(x[rows] for x in inputs))
            error = block_outputs.predicted_error(out, target[rows], gains[k])
            optimizer.zero_grad()
            error.sqrt().backward()
            optimizer.step()
            yield k * steps + step + 1, len(cells) * steps


def _factor(module: nn.Module, name: str, value: Tensor, spreads: dict[str, float]) -> float:
    """The learning rate of a parameter as a multiple of the given one, in the parameter's unit."""
    if isinstance(module, LowRank):
        return module.spread if name == "up" else 1.0
    if isinstance(module, Conv2d):
        if name == "bias":
            return BIAS * spreads[module.name]
        return _deviation(value)
    return ZERO if name == "zero" and is_grid(module) else STEP


@torch.no_grad()
def deviations(net: nn.Module, low: Tensor) -> dict[str, float]:
    """Map layer names to the standard deviation of the convolution's output."""
    spreads: dict[str, float] = {}

    def note(conv: Any, args: object, out: Tensor) -> None:
        spreads[conv.name] = max(out.std().item(), 1e-8)

    with hooked(net, note):
        net.eval()(low)
    return spreads


@dataclass(frozen=True)
class KernelPenalty:
    """Saliency-weighted distance of the rounded kernels from the float ones (arXiv 2504.13932).

    weight * sum F (W^ - W)^2, where F is the saliency of the float network, so that the sum is the
    predicted output error.
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
    saliency: Saliency | None,
    low: Tensor,
    objective: Objective,
    config: QuantizeConfig,
) -> Iterator[Callable[[], Tensor] | None]:
    """The term that `hold` and `blocks` add to the training loss; None where both are 0.

    saliency: that of the float network, required for `hold`; low (N, 3, H, W): images on which
    both parts are scaled. Outputs of both networks' cells are recorded within this context.
    """
    parts: list[Callable[[], Tensor]] = []
    if config.hold:
        assert saliency is not None
        weights = {n: f.to(low.device) for n, f in saliency.weights.items()}
        kernels = {n: c.weight.detach().clone() for n, c in convolutions(teacher).items()}
        pull = KernelPenalty(net, replace(saliency, weights=weights), kernels, 1.0)
        with torch.no_grad():
            loss = objective(net.eval()(low), low, low)
            weight = float(config.hold * loss / pull().clamp_min(1e-12))
            parts.append(replace(pull, weight=weight))
    blocks = None
    if config.blocks and block_outputs.cells(net):
        gains = block_outputs.gains(teacher, low)
        blocks = block_outputs.BlockPenalty(net, teacher, gains, config.blocks)
        parts.append(blocks)
    try:
        yield (lambda: torch.stack([part() for part in parts]).sum()) if parts else None
    finally:
        if blocks is not None:
            blocks.close()
