"""Parts of post-training quantization: bias correction, checks for finite values, and freezing.

The float form of the network is the teacher. Quantization fits grids of least squared error,
corrects biases front to back, then briefly trains all weights, steps and zero points on the
teacher's output (arXiv 2402.05147 and 2504.13932, for networks small enough to train whole).
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
"""Parameter of a convolution -> its name in messages; those of its quantizers are grids."""


@torch.no_grad()
def correct_biases(net: nn.Module, teacher: nn.Module, low: Tensor) -> None:
    """Correct biases, b += E[float conv] - E[rounded conv] per output channel, in place.

    low: calibration images (N, 3, H, W). One pass front to back is enough, since each convolution
    is corrected before the next ones run.
    """
    means = mean_outputs(teacher.eval(), low)

    def correct(conv: Any, args: tuple[Tensor], out: Tensor) -> Tensor:
        missing = means[conv.name] - out.mean((0, 2, 3))
        conv.bias.add_(missing.view(len(conv.bias), -1).mean(1))
        return cast(Tensor, conv.forward(*args))

    with hooked(net, correct):
        net.eval()(low)


def mean_outputs(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Map layer names to the mean output (c_out,) of the convolution on low (N, 3, H, W)."""
    means: dict[str, Tensor] = {}

    def keep(conv: Conv2d, args: object, out: Tensor) -> None:
        means[conv.name] = out.mean((0, 2, 3))

    with hooked(net, keep):
        net(low)
    return means


def require_finite(net: nn.Module) -> None:
    """Raise DataError, naming the first layer, for NaN or infinite weights, biases or grids.

    Grids that round nothing are not checked.
    """
    names = {m: conv.name for conv in convolutions(net).values() for m in conv.modules()}
    for path, module in net.named_modules():
        tensors = [] if isinstance(module, FloatTensor) else module.named_parameters(recurse=False)
        for part, values in [*tensors, *module.named_buffers(recurse=False)]:
            if values.is_floating_point() and not values.isfinite().all():
                kind = WORDS.get(part, "grids") if module in names else f"'{part}'"
                raise DataError(
                    f"Layer '{names.get(module, path)}' contains NaN or infinite {kind}.",
                    "Train the network again with a smaller learning rate, or use other weights.",
                )


@torch.no_grad()
def require_finite_outputs(net: nn.Module, low: Tensor) -> None:
    """Raise DataError, naming the first layer, when its output on `low` is NaN or infinite.

    low: (N, 3, H, W) in [0, 1].
    """

    def hook(conv: Conv2d, args: object, out: Tensor) -> None:
        if not out.isfinite().all():
            raise DataError(
                f"Layer '{conv.name}' outputs NaN or infinite values for a photograph.",
                "Its weights are too large: train the network again, or use other weights.",
            )

    with hooked(net, hook):
        net.eval()(low)


@torch.no_grad()
def freeze(net: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode whose parameters lie on their integer grids.

    Zero points are rounded, weights and biases on their grids. It computes the same.
    """
    net = copy.deepcopy(net).eval()
    rounded = [conv for conv in convolutions(net).values() if isinstance(conv, QuantConv2d)]
    for conv in rounded:  # all before the first is rounded, since layers may share a grid
        _protect_dead_channels(conv)
    for conv in rounded:
        assert conv.bias is not None
        weights = conv.weight_quantizer
        weights.zero.copy_(-weights.bounds()[0])
        conv.weight.copy_(conv.rounded_weight())
        step = conv.bias_step()
        conv.bias.copy_((conv.bias / step).round() * step)
    return net


def _protect_dead_channels(conv: QuantConv2d) -> None:
    """Raise steps of weights until biases fit int32; only all-zero kernels have smaller steps."""
    assert conv.bias is not None
    smallest = conv.bias.abs() / (conv.grid.step * 2**30)
    log2 = conv.weight_quantizer.log2_step
    log2.copy_(torch.maximum(log2, torch.log2(smallest.clamp_min(1e-30)).view_as(log2)))
