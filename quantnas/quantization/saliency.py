"""What a small change of a weight or of an input does to the output of a network in float.

The diagonal of the Gauss-Newton matrix of the squared error between the outputs before and after
the change. It needs no high resolution: where nothing is changed that error has no gradient, and
its curvature is all there is. Cross terms between changes are left out: rounding errors are
nearly independent of each other. But what a change of a weight does to the mean is not counted:
every rounded network has its biases corrected (`post_training.correct_biases`).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantnas.architectures.network import convolutions
from quantnas.nn.convolutions import Conv2d


@dataclass(frozen=True)
class Saliency:
    """Mean squared error of the output per squared change; pixels are in [0, 1] and not clamped.

    The keys are those of `network.convolutions`.
    """

    weights: dict[str, Tensor]
    """Layer name -> the shape of its weight; per unit^2 of change, the mean made good."""
    inputs: dict[str, Tensor]
    """Layer name -> (c_in,); per unit of the mean squared change of that channel of the input.

    Only of what this convolution sees: others that read the same tensor have their own.
    """


@torch.enable_grad()
def measure(net: nn.Module, low: Tensor, draws: int = 4, seed: int = 0) -> Saliency:
    """The saliency of a network in float on images low (N, 3, H, W) in [0, 1].

    Over random signs v, the mean of (d<v, f> / dw)^2 is the sum of (df / dw)^2 over all outputs;
    every image has `draws` of v. With w changes the bias, by minus the mean of what w reads. The
    network stays as it is.
    """
    net = copy.deepcopy(net).eval().requires_grad_()
    convs, reads = convolutions(net), _mean_reads(net, low)
    seen: dict[str, Tensor] = {}
    for name, conv in convs.items():
        conv.register_forward_pre_hook(_keep(seen, name))
    weights = {name: torch.zeros_like(conv.weight) for name, conv in convs.items()}
    inputs = {name: conv.weight.new_zeros(conv.in_channels) for name, conv in convs.items()}
    generator, outputs = torch.Generator().manual_seed(seed), 0
    for image in low.detach().split(1):
        out = net(image.requires_grad_())
        outputs += draws * out.numel()
        wanted: Any = [t for name, c in convs.items() for t in (c.weight, c.bias, seen[name])]
        for _ in range(draws):
            signs = torch.randint(2, out.shape, generator=generator).to(out) * 2 - 1
            grads = iter(torch.autograd.grad(out, wanted, signs, retain_graph=True))
            for name, g_w, g_b, g_x in zip(convs, grads, grads, grads, strict=True):
                weights[name] += (g_w - g_b[:, None, None, None] * reads[name]).square()
                inputs[name] += g_x.square().sum((0, 2, 3))
    for total in (*weights.values(), *inputs.values()):
        total /= outputs
    return Saliency(weights, inputs)


def _mean_reads(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Layer name -> what every weight is multiplied with, on average over images and outputs.

    The shape of the weight; zeros of the padding count.
    """
    convs = convolutions(net)
    found = {name: torch.zeros_like(conv.weight) for name, conv in convs.items()}

    def add(name: str) -> Callable[..., None]:
        def hook(conv: Conv2d, args: object, out: Tensor) -> None:
            mean = out.mean((0, 2, 3)).sum() / conv.up**2
            found[name] += torch.autograd.grad(mean, conv.weight, retain_graph=True)[0] / len(low)

        return hook

    hooks = [conv.register_forward_hook(add(name)) for name, conv in convs.items()]
    for image in low.detach().split(1):
        net(image)
    for handle in hooks:
        handle.remove()
    return found


def _keep(seen: dict[str, Tensor], name: str) -> Callable[..., tuple[Tensor]]:
    """A hook that gives a convolution its input as a tensor of its own, and keeps that."""

    def hook(conv: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        seen[name] = args[0].view_as(args[0])
        return (seen[name],)

    return hook


def predicted(
    found: Saliency, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None
) -> Tensor:
    """(), the mean squared error of the output after changes; differentiable in them.

    weights: layer name -> what is added to its weight; inputs: layer name -> (c_in,), the mean
    squared change of every channel of its input.
    """
    parts = [(found.weights[name] * change.square()).sum() for name, change in weights.items()]
    parts += [(found.inputs[name] * change).sum() for name, change in (inputs or {}).items()]
    return torch.stack(parts).sum()
