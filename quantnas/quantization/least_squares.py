"""Low-bit weights by least squares: what a rounded layer can make good without any training.

Layer after layer, front to back. A convolution of the rounded network sees an input x that is
off already; the float one gives y. First the kernel becomes the one that comes nearest to y from
that x, then it is rounded column by column, and what rounding one column spoils the columns that
follow make up for (GPTQ, arXiv 2210.17323). That the target is y, not what the layer's own kernel
would make of x, is the step from GPTQ to Qronos (arXiv 2505.11695).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures.network import hooked, visited
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import calibrating, fake_quantize

RIDGE = 0.01
"""Of the mean power of an input value: how strongly a kernel is held where it was."""


def improve(net: nn.Module, teacher: nn.Module, low: Tensor) -> Iterator[tuple[int, int]]:
    """Set weights, biases and all grids of a rounded network, in place, in one pass.

    net: with the weights of `teacher`, in float; low: (N, 3, H, W) pixels. The kernels of
    transposed convolutions are rounded as they are. Yields (done, all) of the layers.
    """
    net.eval()
    wanted = _outputs(teacher, low)

    def fit(conv: Any, args: tuple[Tensor]) -> None:
        _fit(wanted[conv.name], conv, args)

    with calibrating(net, weights=False):
        yield from visited(net, low, fit)


@torch.no_grad()
def _outputs(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Layer name -> what the convolution gives."""
    found: dict[str, Tensor] = {}
    with hooked(net, lambda conv, args, out: found.update({conv.name: out})):
        net.eval()(low)
    return found


def _fit(wanted: Tensor, conv: Any, args: tuple[Tensor]) -> None:
    """Before a convolution runs: its weights, grids and bias, from the input that it will see."""
    x = args[0]
    if conv.input_quantizer is not None:
        conv.spread(x)
        conv.input_quantizer.calibrate(x)
        x = conv.input_quantizer(x)
    if conv.up == 1:
        _fit_kernel(conv, x, wanted)
    else:
        factors = conv.factors()
        conv.weight_quantizer.calibrate(conv.weight if factors is None else conv.weight * factors)
    kernel = conv.dense(conv.rounded_weight())
    plain = conv.apply_kernel(x, kernel, torch.zeros_like(wanted[0, :, 0, 0]))
    missing = (wanted - plain).mean((0, 2, 3))
    conv.bias.copy_(missing.view(len(conv.bias), -1).mean(1))


def _fit_kernel(conv: QuantConv2d, x: Tensor, wanted: Tensor) -> None:
    """In units of the grid of its input, where every channel has the same step."""
    factors, steps, weight, scaled = conv.factors(), conv.grid.factors, conv.weight, x
    if factors is not None and steps is not None:
        scaled, weight = x / steps, weight * factors
    columns = _columns(conv, scaled)
    outputs = wanted.transpose(0, 1).flatten(1).unflatten(0, (conv.groups, -1))
    kernels = weight.flatten(1).unflatten(0, (conv.groups, -1))
    grams = [_gram(*each) for each in zip(columns, outputs, kernels, strict=True)]
    nearest = [_nearest(*gram).to(kernels.dtype) for gram in grams]
    conv.weight_quantizer.calibrate(torch.cat(nearest).view_as(weight))
    grid = _grid(conv)
    rounded = [
        _rounded(k, gram[0], [t[i] for t in grid])
        for i, (k, gram) in enumerate(zip(nearest, grams, strict=True))
    ]
    found = torch.cat(rounded).view_as(weight)
    conv.weight.copy_(found if factors is None else found / factors)


def _columns(conv: Conv2d, x: Tensor) -> Tensor:
    """(groups, inputs of an output value, places)"""
    kernel = conv.weight
    pads = conv.pads(kernel)
    unfolded = F.unfold(x, kernel.shape[-2:], conv.dilation, pads, conv.stride)
    return unfolded.transpose(0, 1).flatten(1).unflatten(0, (conv.groups, -1))


def _gram(columns: Tensor, outputs: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances of the inputs with each other (n, n), and of the outputs with them (c, n).

    As if there were a little more data, without correlations, for which the kernel is right.
    """
    x = columns - columns.mean(1, keepdim=True)
    y = outputs - outputs.mean(1, keepdim=True)
    gram, cross = (x @ x.T / x.shape[1]).double(), (y @ x.T / x.shape[1]).double()
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    gram.diagonal().add_(ridge)
    return gram, cross + ridge * kernel


def _nearest(gram: Tensor, cross: Tensor) -> Tensor:
    """(c, n), the kernel that gives the wanted outputs best; without any data, what it was."""
    solved: Tensor = torch.linalg.solve(gram, cross.T)
    return solved.T


def _grid(conv: QuantConv2d) -> tuple[Tensor, ...]:
    """Step, lowest and highest integer, each (groups, c, 1)."""
    weights = conv.weight_quantizer
    tensors = (weights.step, *weights.bounds())
    return tuple(t.expand(conv.out_channels, 1, 1, 1).reshape(conv.groups, -1, 1) for t in tensors)


def _rounded(kernel: Tensor, gram: Tensor, grid: list[Tensor]) -> Tensor:
    """(c, n) on its grid; columns of the strongest inputs come first."""
    order = gram.diagonal().argsort(descending=True)
    spread = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(gram[order][:, order])), upper=True
    )
    left, done = kernel[:, order].double(), torch.empty_like(kernel)
    for j in range(len(order)):
        column = fake_quantize(left[:, j : j + 1], *grid)
        done[:, order[j]] = column[:, 0].to(done.dtype)
        error = (left[:, j : j + 1] - column) / spread[j, j]
        left[:, j + 1 :] -= error * spread[j, j + 1 :]
    return done
