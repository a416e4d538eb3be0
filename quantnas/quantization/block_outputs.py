"""Outputs of a network's cells, and how much an error in them damages the network's output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def cells(net: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network, in order; empty for a network without any."""
    return list(getattr(net, "cells", ()))


@dataclass(frozen=True)
class Recording:
    """Inputs and outputs of a network's cells in its latest forward pass."""

    inputs: list[tuple[Tensor, ...]]
    outputs: list[Tensor]
    handles: list[RemovableHandle]

    def close(self) -> None:
        """Stop recording."""
        for handle in self.handles:
            handle.remove()


def record(net: nn.Module) -> Recording:
    """Record inputs and outputs of every cell in each forward pass from now on."""
    modules = cells(net)
    recording = Recording([()] * len(modules), [torch.empty(0)] * len(modules), [])
    for k, cell in enumerate(modules):

        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, k: int = k) -> None:
            recording.inputs[k], recording.outputs[k] = args, out

        recording.handles.append(cell.register_forward_hook(hook))
    return recording


@torch.no_grad()
def run(net: nn.Module, low: Tensor) -> Recording:
    """Run a network on low (N, 3, H, W) in evaluation mode and record its cells."""
    recording = record(net.eval())
    net(low)
    recording.close()
    return recording


@torch.enable_grad()
def gains(teacher: nn.Module, low: Tensor, draws: int = 4) -> list[Tensor]:
    """Measure the mean squared error of the output per squared error of every cell's channels.

    low (N, 3, H, W). Returns a tensor (C,) per cell, the mean of (d<v, f> / dz)^2 over random signs
    v, as in `saliency.measure`. The network is left in evaluation mode.
    """
    recording = record(teacher.eval())
    totals = [torch.zeros(())] * len(recording.outputs)
    for image in low.split(1) if recording.outputs else ():
        out = teacher(image.detach().requires_grad_())
        for _ in range(draws):
            signs = torch.randint_like(out, 2) * 2 - 1
            slopes = torch.autograd.grad(out, recording.outputs, signs, retain_graph=True)
            squares = [g.square().sum((0, 2, 3)) for g in slopes]
            totals = [a + b for a, b in zip(totals, squares, strict=True)]
    recording.close()
    return [total / (draws * len(low) * out[0].numel()) for total in totals]


class BlockPenalty:
    """Distance of the cells' outputs from those in the float network.

    weight * the root of the output error that is predicted from the squared error of every channel
    and its saliency (Fisher weighting of arXiv 2102.05426, without labels). Call it after both
    networks have run on the same pixels, and `close` it at the end.
    """

    def __init__(
        self, net: nn.Module, teacher: nn.Module, gains: Sequence[Tensor], weight: float
    ) -> None:
        self.gains, self.weight = gains, weight
        self.rounded, self.float = record(net), record(teacher)

    def __call__(self) -> Tensor:
        cells = zip(self.rounded.outputs, self.float.outputs, self.gains, strict=True)
        errors = [predicted_error(a, b, g) for a, b, g in cells]
        return self.weight * torch.stack(errors).sum().sqrt()

    def close(self) -> None:
        """Stop recording the outputs of both networks."""
        self.rounded.close()
        self.float.close()


def predicted_error(output: Tensor, target: Tensor, gains: Tensor) -> Tensor:
    """Predict the mean squared error () of the network's output from that of a cell.

    output, target: the cell's output and what it should be, (N, C, H, W); gains: (C,).
    """
    return ((output - target).square().mean((0, 2, 3)) * gains).sum()
