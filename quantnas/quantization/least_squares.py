"""Low-bit weights by least squares, which reduces the damage of rounding without any training.

The layers are set from front to back. A convolution of the rounded network reads an input x that
is inexact already; the float one outputs y. First the kernel becomes the one that comes nearest to
y from that x, then it is rounded column by column, and later columns compensate for the error of
rounding the earlier ones (GPTQ, arXiv 2210.17323). The target is y, and not the output of the
layer's own kernel for x, which is the step from GPTQ to Qronos (arXiv 2505.11695).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures.network import convolutions, hooked, visited
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import calibrating, fake_quantize

RIDGE = 0.01
"""Strength that pulls a kernel towards its float values, as a share of the mean input power."""


def improve(net: nn.Module, teacher: nn.Module, low: Tensor) -> Iterator[tuple[int, int]]:
    """Set weights, biases and all grids of a rounded network, in place, in one pass.

    net: the rounded network with the weights of `teacher`, the float one; low: calibration images
    (N, 3, H, W) in [0, 1]. Kernels of transposed convolutions are rounded to nearest. Yields
    (done, all) of the layers.
    """
    net.eval()
    targets, shared = _outputs(teacher, low), _shared_grams(teacher, low)

    def fit(conv: Any, args: tuple[Tensor]) -> None:
        _fit(targets[conv.name], conv, args, shared.get(conv.name))

    with calibrating(net, weights=False):
        yield from visited(net, low, fit)


@torch.no_grad()
def _outputs(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Map layer names to the convolutions' outputs (N, c_out, H, W)."""
    outputs: dict[str, Tensor] = {}
    with hooked(net, lambda conv, args, out: outputs.update({conv.name: out})):
        net.eval()(low)
    return outputs


@torch.no_grad()
def _shared_grams(net: nn.Module, low: Tensor) -> dict[str, list[Tensor]]:
    """Map the first layer of each shared kernel to the covariances of the inputs of all its layers.

    There is one matrix (n, n) for each group of the convolution, as `_gram` makes it.
    """
    firsts = {conv.shares for conv in convolutions(net).values()} - {""}
    grams: dict[str, list[Tensor]] = {}

    def add(conv: Conv2d, args: tuple[Tensor], out: Tensor) -> None:
        first = conv.shares or conv.name
        if first in firsts:
            more = [_gram(each, each, each.new_zeros(()))[0] for each in _columns(conv, args[0])]
            sums = grams.get(first, [torch.zeros_like(gram) for gram in more])
            grams[first] = [a + b for a, b in zip(sums, more, strict=True)]

    if firsts:
        with hooked(net, add):
            net.eval()(low)
    return grams


def _fit(
    target: Tensor, conv: Any, args: tuple[Tensor], shared: list[Tensor] | None = None
) -> None:
    """Set a convolution's weights, grids and bias from its input, just before it runs.

    shared: the matrices of `_shared_grams`, for the first layer of a shared kernel; the others find
    their kernel rounded already.
    """
    x = args[0]
    if conv.input_quantizer is not None:
        conv.spread(x)
        conv.input_quantizer.calibrate(x)
        x = conv.input_quantizer(x)
    if conv.up == 1 and shared is not None:
        conv.weight_quantizer.calibrate(conv.weight)
        _round_kernel(conv, conv.weight, shared)
    elif conv.up == 1 and not conv.shares:
        _fit_kernel(conv, x, target)
    elif not conv.shares:
        factors = conv.factors()
        conv.weight_quantizer.calibrate(conv.weight if factors is None else conv.weight * factors)
    kernel = conv.dense(conv.rounded_weight())
    unbiased = conv.apply_kernel(x, kernel, torch.zeros_like(target[0, :, 0, 0]))
    missing = (target - unbiased).mean((0, 2, 3))
    conv.bias.copy_(missing.view(len(conv.bias), -1).mean(1))


def _fit_kernel(conv: QuantConv2d, x: Tensor, target: Tensor) -> None:
    """Set kernel and weight grid in units of the input's grid, where all channels share a step."""
    factors, steps, weight, scaled = conv.factors(), conv.grid.factors, conv.weight, x
    if factors is not None and steps is not None:
        scaled, weight = x / steps, weight * factors
    columns = _columns(conv, scaled)
    outputs = target.transpose(0, 1).flatten(1).unflatten(0, (conv.groups, -1))
    kernels = weight.flatten(1).unflatten(0, (conv.groups, -1))
    grams = [_gram(*each) for each in zip(columns, outputs, kernels, strict=True)]
    nearest = [_nearest(*gram).to(kernels.dtype) for gram in grams]
    solution = torch.cat(nearest).view_as(weight)
    conv.weight_quantizer.calibrate(solution)
    _round_kernel(conv, solution, [gram for gram, _ in grams])
    if factors is not None:
        conv.weight.div_(factors)


def _round_kernel(conv: QuantConv2d, kernel: Tensor, grams: list[Tensor]) -> None:
    """Set the weight to a kernel of its shape, rounded column by column; grams: one per group."""
    kernels, grid = kernel.flatten(1).unflatten(0, (conv.groups, -1)), _grid(conv)
    rounded = [
        _rounded(k, gram, [t[i] for t in grid])
        for i, (k, gram) in enumerate(zip(kernels, grams, strict=True))
    ]
    conv.weight.copy_(torch.cat(rounded).view_as(conv.weight))


def _columns(conv: Conv2d, x: Tensor) -> Tensor:
    """The windows of x that each kernel is multiplied with, (groups, n, places)."""
    kernel = conv.weight
    pads = conv.pads(kernel)
    unfolded = F.unfold(x, kernel.shape[-2:], conv.dilation, pads, conv.stride)
    return unfolded.transpose(0, 1).flatten(1).unflatten(0, (conv.groups, -1))


def _gram(columns: Tensor, outputs: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances of the inputs with each other (n, n), and of the outputs with them (c, n).

    Both include a ridge, which acts like a little uncorrelated data that the kernel fits exactly.
    """
    x = columns - columns.mean(1, keepdim=True)
    y = outputs - outputs.mean(1, keepdim=True)
    gram, cross = (x @ x.T / x.shape[1]).double(), (y @ x.T / x.shape[1]).double()
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    gram.diagonal().add_(ridge)
    return gram, cross + ridge * kernel


def _nearest(gram: Tensor, cross: Tensor) -> Tensor:
    """The kernel (c, n) with the least squared error; it stays as it was where inputs are zero."""
    solved: Tensor = torch.linalg.solve(gram, cross.T)
    return solved.T


def _grid(conv: QuantConv2d) -> tuple[Tensor, ...]:
    """The weight grid: step, lowest and highest integer, each (groups, c, 1)."""
    weights = conv.weight_quantizer
    tensors = (weights.step, *weights.bounds())
    return tuple(t.expand(conv.out_channels, 1, 1, 1).reshape(conv.groups, -1, 1) for t in tensors)


def _rounded(kernel: Tensor, gram: Tensor, grid: list[Tensor]) -> Tensor:
    """Round a kernel (c, n) to its grid, columns of the strongest inputs first (GPTQ)."""
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
