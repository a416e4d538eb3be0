"""Low-bit weights by least squares, which reduces the damage of rounding without any training.

The layers are set from front to back. A convolution of the rounded network reads an input x that
is inexact already; the float one outputs y. First the kernel becomes the one that comes nearest to
y from that x, then it is rounded column by column, and later columns compensate for the error of
rounding the earlier ones (GPTQ, arXiv 2210.17323). The target is y, and not the output of the
layer's own kernel for x, which is the step from GPTQ to Qronos (arXiv 2505.11695).
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures.network import convolutions, hooked, inherit, visited
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import calibrating, fake_quantize

RIDGE = 0.01
"""Strength that pulls a kernel towards its float values, as a share of the mean input power."""


def improve(net: nn.Module, teacher: nn.Module, low: Tensor) -> Iterator[tuple[int, int]]:
    """Set weights, biases and all grids of a rounded network, in place.

    net: the rounded network with the weights of `teacher`, the float one; low: calibration images
    (N, 3, H, W) in [0, 1]. Kernels of transposed convolutions are rounded to nearest. One pass is
    enough where every layer has a kernel of its own. A shared kernel has to suit inputs that are
    not rounded yet: a second pass knows them, and is kept if its output on `low` is nearer to that
    of the teacher. Yields (done, all) of the layers of all passes.
    """
    net.eval()
    targets = _outputs(teacher, low)
    shared = _shared_grams(teacher, teacher, targets, low)
    passes = 2 if shared else 1
    for done, total in _pass(net, targets, shared, low):
        yield done, passes * total
    if shared:
        first, error = copy.deepcopy(net.state_dict()), _error(net, teacher, low)
        shared = _shared_grams(net, teacher, targets, low)
        inherit(net, teacher)
        for done, total in _pass(net, targets, shared, low):
            yield total + done, passes * total
        if not _error(net, teacher, low) < error:
            net.load_state_dict(first)


Grams = list[tuple[Tensor, Tensor]]
"""For each group of a convolution, the covariances that `_gram` gives."""


def _pass(
    net: nn.Module, targets: Mapping[str, Tensor], shared: Mapping[str, Grams], low: Tensor
) -> Iterator[tuple[int, int]]:
    """Fit all layers from front to back; yields (done, all) of them."""

    def fit(conv: Any, args: tuple[Tensor]) -> None:
        _fit(targets[conv.name], conv, args, shared.get(conv.name))

    with calibrating(net, weights=False):
        yield from visited(net, low, fit)


@torch.no_grad()
def _error(net: nn.Module, teacher: nn.Module, low: Tensor) -> float:
    """Mean squared difference of the outputs of two networks on low."""
    return float((net(low) - teacher.eval()(low)).square().mean())


@torch.no_grad()
def _outputs(net: nn.Module, low: Tensor) -> dict[str, Tensor]:
    """Map layer names to the convolutions' outputs (N, c_out, H, W)."""
    outputs: dict[str, Tensor] = {}
    with hooked(net, lambda conv, args, out: outputs.update({conv.name: out})):
        net.eval()(low)
    return outputs


@torch.no_grad()
def _shared_grams(
    net: nn.Module, teacher: nn.Module, targets: Mapping[str, Tensor], low: Tensor
) -> dict[str, Grams]:
    """Map the first layer of each shared kernel to covariances, summed over all its layers.

    They are those of the layers' inputs in `net`, and of the outputs `targets` with them. Shared
    kernels of transposed convolutions are left out.
    """
    kernels = {name: conv.weight for name, conv in convolutions(teacher).items()}
    firsts = {conv.shares for conv in convolutions(net).values() if conv.up == 1} - {""}
    sums: dict[str, Grams] = {}

    def add(conv: Any, args: tuple[Tensor]) -> None:
        first = conv.shares or conv.name
        if first in firsts:
            grid = getattr(conv, "input_quantizer", None)
            x = args[0] if grid is None else grid(args[0])
            more = _grams(conv, x, targets[conv.name], kernels[first])
            known = sums.get(first)
            if known is not None:
                more = [(a + c, b + d) for (a, b), (c, d) in zip(known, more, strict=True)]
            sums[first] = more

    if firsts:
        with hooked(net, add, before=True):
            net.eval()(low)
    return sums


def _fit(target: Tensor, conv: Any, args: tuple[Tensor], shared: Grams | None = None) -> None:
    """Set a convolution's weights, grids and bias from its input, just before it runs.

    shared: the covariances of `_shared_grams`, for the first layer of a shared kernel; the others
    find their kernel rounded already.
    """
    x = args[0]
    if conv.input_quantizer is not None:
        conv.spread(x)
        conv.input_quantizer.calibrate(x)
        x = conv.input_quantizer(x)
    if conv.up == 1 and shared is not None:
        _set_kernel(conv, shared)
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
    _set_kernel(conv, _grams(conv, scaled, target, weight))
    if factors is not None:
        conv.weight.div_(factors)


def _grams(conv: Conv2d, x: Tensor, target: Tensor, weight: Tensor) -> Grams:
    """The covariances of a convolution's input and wanted output, with its float kernel."""
    outputs = target.transpose(0, 1).flatten(1).unflatten(0, (conv.groups, -1))
    kernels = weight.flatten(1).unflatten(0, (conv.groups, -1))
    return [_gram(*each) for each in zip(_columns(conv, x), outputs, kernels, strict=True)]


def _set_kernel(conv: QuantConv2d, grams: Grams) -> None:
    """Set the weight and its grid: the nearest kernel, rounded column by column."""
    kernels = [_nearest(*gram).to(conv.weight.dtype) for gram in grams]
    conv.weight_quantizer.calibrate(torch.cat(kernels).view_as(conv.weight))
    grid = _grid(conv)
    rounded = [
        _rounded(kernel, gram, [t[i] for t in grid])
        for i, (kernel, (gram, _)) in enumerate(zip(kernels, grams, strict=True))
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
