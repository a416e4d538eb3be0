"""Saliency: the output error that small changes of weights and inputs cause in a float network.

It is the diagonal of the Gauss-Newton matrix of the squared error between the outputs before and
after the change. No high-resolution images are needed: without a change that error has no gradient
and only its curvature counts. Cross terms between changes are left out, since rounding errors are
nearly independent of each other. The effect of a weight's change on the mean output is not counted,
since every rounded network has its biases corrected (`post_training.correct_biases`).
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
    """Layer name -> error per squared change of each weight, with the mean output corrected; in
    the shape of the weight. That of a shared kernel stands at its first layer, 0 at the others."""
    inputs: dict[str, Tensor]
    """Layer name -> error per mean squared change of each input channel, (c_in,).

    The change is in the input of this convolution alone; others that read the same tensor have
    entries of their own.
    """


@torch.enable_grad()
def measure(net: nn.Module, low: Tensor, draws: int = 4, seed: int = 0) -> Saliency:
    """Measure the saliency of a network in float on calibration images low (N, 3, H, W) in [0, 1].

    The mean of (d<v, f> / dw)^2 over random signs v is the sum of (df / dw)^2 over all outputs;
    every image gets `draws` of v. A change of w also changes the bias, by minus the mean input of
    w, so that the mean output stays. The network itself is not changed.
    """
    net = copy.deepcopy(net).eval().requires_grad_()
    convs, means = convolutions(net), _mean_inputs(net, low)
    read: dict[str, Tensor] = {}
    for name, conv in convs.items():
        conv.register_forward_pre_hook(_keep_input(read, name))
    weights = {name: torch.zeros_like(conv.weight) for name, conv in convs.items()}
    inputs = {name: conv.weight.new_zeros(conv.in_channels) for name, conv in convs.items()}
    generator, outputs = torch.Generator().manual_seed(seed), 0
    for image in low.detach().split(1):
        out = net(image.requires_grad_())
        outputs += draws * out.numel()
        tensors: Any = [t for name, c in convs.items() for t in (c.weight, c.bias, read[name])]
        for _ in range(draws):
            signs = torch.randint(2, out.shape, generator=generator).to(out) * 2 - 1
            grads = iter(torch.autograd.grad(out, tensors, signs, retain_graph=True))
            slopes: dict[str, Tensor] = {}
            for (name, conv), g_w, g_b, g_x in zip(convs.items(), grads, grads, grads, strict=True):
                slope = g_w - g_b[:, None, None, None] * means[name]
                first = conv.shares or name
                slopes[first] = slopes[first] + slope if first in slopes else slope
                inputs[name] += g_x.square().sum((0, 2, 3))
            for name, slope in slopes.items():
                weights[name] += slope.square()
    for total in (*weights.values(), *inputs.values()):
        total /= outputs
    return Saliency(weights, inputs)


def _mean_inputs(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Map layer names to the mean input of every weight, over images and output places.

    The means have the shape of the weight; zeros of the padding count.
    """
    convs = convolutions(net)
    means = {name: torch.zeros_like(conv.weight) for name, conv in convs.items()}

    def add(name: str) -> Callable[..., None]:
        def hook(conv: Conv2d, args: object, out: Tensor) -> None:
            mean = out.mean((0, 2, 3)).sum() / conv.up**2
            means[name] += torch.autograd.grad(mean, conv.weight, retain_graph=True)[0] / len(low)

        return hook

    hooks = [conv.register_forward_hook(add(name)) for name, conv in convs.items()]
    for image in low.detach().split(1):
        net(image)
    for handle in hooks:
        handle.remove()
    return means


def _keep_input(read: dict[str, Tensor], name: str) -> Callable[..., tuple[Tensor]]:
    """A hook that replaces a convolution's input by a view of its own, and keeps the view."""

    def hook(conv: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        read[name] = args[0].view_as(args[0])
        return (read[name],)

    return hook


def predicted_error(
    saliency: Saliency, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Predict the mean squared error () of the output after changes; differentiable in them.

    weights: layer name -> change of its weight; inputs: layer name -> (c_in,), the mean squared
    change of every channel of its input.
    """
    parts = [(saliency.weights[name] * change.square()).sum() for name, change in weights.items()]
    parts += [(saliency.inputs[name] * change).sum() for name, change in (inputs or {}).items()]
    return torch.stack(parts).sum()
