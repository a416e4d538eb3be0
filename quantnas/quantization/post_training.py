"""Low-bit quantization of a trained network, with its float form as the teacher.

MSE grids, bias correction front to back, then a short training of all weights, steps and zero
points on the teacher's output (the transfer of arXiv 2402.05147 and 2504.13932 to networks small
enough to train whole).
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantnas.architectures.network import convolutions, hooked
from quantnas.errors import DataError
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import FloatTensor

WORDS = {"weight": "weights", "bias": "biases"}
"""Tensors of a convolution, in words; those of its quantizers are grids."""


@torch.no_grad()
def correct_biases(net: nn.Module, teacher: nn.Module, low: Tensor) -> None:
    """b += E[float conv] - E[rounded conv] per output channel, front to back; in place.

    low (N, 3, H, W). In one pass: each convolution is corrected before the next ones run.
    """
    wanted = mean_outputs(teacher.eval(), low)

    def correct(conv: Any, args: tuple[Tensor], out: Tensor) -> Tensor:
        missing = wanted[conv.name] - out.mean((0, 2, 3))
        conv.bias.add_(missing.view(len(conv.bias), -1).mean(1))
        return cast(Tensor, conv.forward(*args))

    with hooked(net, correct):
        net.eval()(low)


def mean_outputs(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Layer name -> (c_out,), the mean output of the convolution."""
    means: dict[str, Tensor] = {}

    def keep(conv: Conv2d, args: object, out: Tensor) -> None:
        means[conv.name] = out.mean((0, 2, 3))

    with hooked(net, keep):
        net(low)
    return means


def require_finite(net: nn.Module) -> None:
    """Raise DataError, naming the first layer, for weights, biases or grids that are no numbers.

    Infinite ones are none. Grids that round nothing are not looked at.
    """
    names = {m: conv.name for conv in convolutions(net).values() for m in conv.modules()}
    for path, module in net.named_modules():
        tensors = [] if isinstance(module, FloatTensor) else module.named_parameters(recurse=False)
        for part, values in [*tensors, *module.named_buffers(recurse=False)]:
            if values.is_floating_point() and not values.isfinite().all():
                what = WORDS.get(part, "grids") if module in names else f"'{part}'"
                raise DataError(
                    f"Layer '{names.get(module, path)}' has {what} that are no finite numbers.",
                    "Train the network again, with a smaller rate, or give other weights.",
                )


@torch.no_grad()
def require_finite_outputs(net: nn.Module, low: Tensor) -> None:
    """Raise DataError, naming the first layer, when what one gives on `low` is not finite.

    low: (N, 3, H, W) in [0, 1].
    """

    def hook(conv: Conv2d, args: object, out: Tensor) -> None:
        if not out.isfinite().all():
            raise DataError(
                f"What layer '{conv.name}' gives for a photograph is no finite number.",
                "Its weights are too large: train the network again, or give other weights.",
            )

    with hooked(net, hook):
        net.eval()(low)


@torch.no_grad()
def freeze(net: nn.Module) -> nn.Module:
    """A copy whose parameters are what integers can hold: zero points rounded, weights and biases
    on their grids. It computes the same.
    """
    net = copy.deepcopy(net).eval()
    for conv in convolutions(net).values():
        if isinstance(conv, QuantConv2d):
            assert conv.bias is not None
            _protect_dead_channels(conv)
            weights = conv.weight_quantizer
            weights.zero.copy_(-weights.bounds()[0])
            conv.weight.copy_(conv.rounded_weight())
            step = conv.bias_step()
            conv.bias.copy_((conv.bias / step).round() * step)
    return net


def _protect_dead_channels(conv: QuantConv2d) -> None:
    """Keep step_w large enough for the bias to fit int32; only all-zero kernels are that small."""
    assert conv.bias is not None
    smallest = conv.bias.abs() / (conv.grid.step * 2**30)
    log2 = conv.weight_quantizer.log2_step
    log2.copy_(torch.maximum(log2, torch.log2(smallest.clamp_min(1e-30)).view_as(log2)))
