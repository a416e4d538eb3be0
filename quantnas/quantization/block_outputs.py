"""What the cells of a network give, and what an error of theirs does to its output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def of(net: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network, in order; none where it has none."""
    return list(getattr(net, "cells", ()))


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
    cells = of(net)
    kept = Kept([()] * len(cells), [torch.empty(0)] * len(cells), [])
    for k, cell in enumerate(cells):

        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, k: int = k) -> None:
            kept.inputs[k], kept.outputs[k] = args, out

        kept.handles.append(cell.register_forward_hook(hook))
    return kept


@torch.no_grad()
def seen(net: nn.Module, low: Tensor) -> Kept:
    """What every cell reads and gives on low (N, 3, H, W); the network stays in evaluation mode."""
    kept = kept_outputs(net.eval())
    net(low)
    kept.close()
    return kept


@torch.enable_grad()
def gains(teacher: nn.Module, low: Tensor, draws: int = 4) -> list[Tensor]:
    """For every cell, (C,): mean squared error of the output per squared error of a channel.

    low (N, 3, H, W). Over random signs v, (d<v, f> / dz)^2 as in `saliency.measure`. The network
    stays in evaluation mode.
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
