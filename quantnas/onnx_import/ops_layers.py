"""ONNX operators with a kernel or with means of their own, as modules and nodes of torch.fx.

Every convolution and every product with a stored matrix is an ordinary module with a weight and a
bias, as `torch.nn` has it; padding that torch's modules do not know stands before it.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from . import shape_arithmetic
from .graph_builder import Array, Build, FileNode, Value, refuse

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
"""Dimensions of a kernel -> module"""


def convolution(
    b: Build, step: FileNode, x: fx.Node, weight: Value, bias: Value | None = None
) -> Value:
    kernel = _kernel(weight)
    sides = kernel.shape[2:]
    if len(sides) not in CONVOLUTIONS:
        raise refuse(f"a kernel of {len(sides)} dimensions")
    strides, dilations = (step.get(n, [1] * len(sides)) for n in ("strides", "dilations"))
    windows = [(k - 1) * d + 1 for k, d in zip(sides, dilations, strict=True)]
    x, pads = padded(b, step, x, windows, strides)
    groups = step.get("group", 1)
    form: Any = kernel.shape[1] * groups, kernel.shape[0], sides, strides, pads, dilations, groups
    with torch.device("meta"):
        module = CONVOLUTIONS[len(sides)](*form)
    return b.layer(_filled(module, kernel, bias, kernel.shape[0]), x, _stem(step))


def transposed(
    b: Build, step: FileNode, x: fx.Node, weight: Value, bias: Value | None = None
) -> Value:
    """Where it is padded unevenly, the rest is cut off behind."""
    kernel = _kernel(weight)
    sides = kernel.shape[2:]
    if len(sides) != 2 or step.get("output_shape"):
        raise refuse("a kernel that is not of 2 dimensions, or an output_shape")
    ones = [1, 1]
    strides, dilations = step.get("strides", ones), step.get("dilations", ones)
    more, groups = step.get("output_padding", [0, 0]), step.get("group", 1)
    windows = [(k - 1) * d + 1 for k, d in zip(sides, dilations, strict=True)]
    ends = _cut(step, [w - s + m for w, s, m in zip(windows, strides, more, strict=True)])
    even = all(first == last for first, last in ends)
    pads = [first if even else 0 for first, _ in ends]
    c_out = kernel.shape[1] * groups
    form: Any = kernel.shape[0], c_out, sides, strides, pads, more, groups, True, dilations
    with torch.device("meta"):
        module = nn.ConvTranspose2d(*form)
    module = _filled(module, kernel, bias, c_out)
    found = b.layer(module, x, _stem(step))
    if even:
        return found
    cuts = [slice(first, -last if last else None) for first, last in ends]
    return b.call(operator.getitem, found, (slice(None), slice(None), *cuts))


def _cut(step: FileNode, totals: Sequence[int]) -> list[tuple[int, int]]:
    """(begin, end) per side of what a transposed convolution leaves out."""
    how = step.get("auto_pad", "NOTSET")
    if how == "NOTSET":
        pads = step.get("pads", [0] * 4)
        return list(zip(pads[:2], pads[2:], strict=True))
    if how == "VALID":
        return [(0, 0), (0, 0)]
    if min(totals) < 0:
        raise refuse("a transposed kernel that is smaller than its stride, with auto_pad")
    halves = [(n // 2, n - n // 2) for n in totals]
    return halves if how == "SAME_UPPER" else [(last, first) for first, last in halves]


def _kernel(weight: Value | None) -> Array:
    if weight is None or isinstance(weight, fx.Node) or weight.dtype != np.float32:
        raise refuse("weights that are no stored float32")
    return weight


def _filled(module: Any, kernel: Array, bias: Value | None, count: int) -> Any:
    """A module with these numbers in it; without a bias, with zeros."""
    values = np.zeros(count, np.float32) if bias is None else _kernel(bias).reshape(count)
    module.weight = nn.Parameter(torch.tensor(kernel))
    module.bias = nn.Parameter(torch.tensor(values))
    return module


def _stem(step: FileNode) -> str:
    """A name for a layer: that of its weight, as torch calls it, or of its node."""
    stem, dot, last = step.inputs[1].rpartition(".")
    if dot and last == "weight":
        return stem
    return step.name.removesuffix(f"/{step.kind}") or step.name


# Windows


def padded(
    b: Build,
    step: FileNode,
    x: fx.Node,
    windows: Sequence[int],
    strides: Sequence[int],
    value: float = 0.0,
) -> tuple[fx.Node, list[int]]:
    """x, padded where that is not the same on both ends of a side, and what is left to pad."""
    ends = _ends(b, step, x, windows, strides)
    if all(isinstance(n, int) for pair in ends for n in pair) and all(m == n for m, n in ends):
        return x, [first for first, _ in ends]
    flat = [n for pair in reversed(ends) for n in pair]
    return b.call(F.pad, x, flat, value=value), [0] * len(ends)


def _ends(
    b: Build, step: FileNode, x: fx.Node, windows: Sequence[int], strides: Sequence[int]
) -> list[tuple[Any, Any]]:
    """(begin, end) per side"""
    how = step.get("auto_pad", "NOTSET")
    count = len(windows)
    if how in ("NOTSET", "VALID"):
        pads = step.get("pads", [0] * 2 * count) if how == "NOTSET" else [0] * 2 * count
        return list(zip(pads[:count], pads[count:], strict=True))
    found = []
    for dim, (window, stride) in enumerate(zip(windows, strides, strict=True), 2):
        total: Any = window - 1
        if stride > 1:
            total = shape_arithmetic.apply(
                b, shape_arithmetic.lacking, b.side(x, dim), stride, window
            )
        half = shape_arithmetic.apply(b, operator.floordiv, total, 2)
        rest = shape_arithmetic.apply(b, operator.sub, total, half)
        found.append((half, rest) if how == "SAME_UPPER" else (rest, half))
    return found


def max_pool(b: Build, step: FileNode, x: fx.Node) -> Value:
    kernel, strides = _window(step)
    dilations = step.get("dilations", [1, 1])
    windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    x, pads = padded(b, step, x, windows, strides, float("-inf"))
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        flat = [pads[1], pads[1], pads[0], pads[0]]
        x, pads = b.call(F.pad, x, flat, value=float("-inf")), [0, 0]
    ceil = bool(step.get("ceil_mode", 0))
    return b.call(torch.max_pool2d, x, kernel, strides, pads, dilations, ceil)


def average_pool(b: Build, step: FileNode, x: fx.Node) -> Value:
    kernel, strides = _window(step)
    counted = bool(step.get("count_include_pad", 0))
    before = x
    x, pads = padded(b, step, x, kernel, strides)
    if x is not before and not counted:
        raise refuse("an average over an uneven border that does not count")
    if any(d != 1 for d in step.get("dilations", [1])):
        raise refuse("an average with dilation")
    ceil = bool(step.get("ceil_mode", 0))
    return b.call(F.avg_pool2d, x, kernel, strides, pads, ceil, counted)


def _window(step: FileNode) -> tuple[list[int], list[int]]:
    kernel = list(step.get("kernel_shape"))
    if len(kernel) != 2:
        raise refuse(f"a window of {len(kernel)} dimensions")
    return kernel, list(step.get("strides", [1, 1]))


# Matrices


def gemm(b: Build, step: FileNode, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """A layer where weight and bias are stored, else a product."""
    turned = step.get("transA", 0), step.get("transB", 0)
    factor, share = step.get("alpha", 1.0), step.get("beta", 1.0)
    count = np.shape(b.example(weight))[0 if turned[1] else 1]
    is_bias = bias is None or (isinstance(bias, np.ndarray) and bias.size == count)
    if not isinstance(weight, fx.Node) and not turned[0] and is_bias:
        matrix = (weight if turned[1] else weight.T) * np.float32(factor)
        added = None if bias is None else np.asarray(bias) * np.float32(share)
        return _linear(b, step, b.tensor(x, step.inputs[0]), matrix, added)
    names = zip((x, weight), step.inputs, turned, strict=False)
    left, right = (
        b.call(torch.t, b.tensor(v, name)) if turn else b.tensor(v, name) for v, name, turn in names
    )
    found = b.call(operator.mul, b.call(torch.matmul, left, right), factor)
    if bias is None:
        return found
    more = b.call(operator.mul, b.tensor(bias, step.inputs[2]), share)
    return b.call(operator.add, found, more)


def matmul(b: Build, step: FileNode, x: Value, y: Value) -> Value:
    """A layer where the second factor is a stored matrix."""
    if isinstance(x, fx.Node) and not isinstance(y, fx.Node) and y.ndim == 2:
        return _linear(b, step, x, y.T, None)
    return b.call(torch.matmul, b.tensor(x, step.inputs[0]), b.tensor(y, step.inputs[1]))


def _linear(b: Build, step: FileNode, x: fx.Node, matrix: Array, bias: Array | None) -> Value:
    module = nn.Linear(matrix.shape[1], matrix.shape[0], device="meta")
    return b.layer(_filled(module, _kernel(matrix), bias, len(matrix)), x, _stem(step))


# Normalisation


def batch_norm(b: Build, step: FileNode, x: fx.Node, *values: Value) -> Value:
    if step.get("training_mode", 0):
        raise refuse("batch normalisation in training")
    weight, bias, mean, variance = (
        b.tensor(value, name, learned=k < 2)
        for k, (value, name) in enumerate(zip(values, step.inputs[1:], strict=True))
    )
    epsilon = step.get("epsilon", 1e-5)
    return b.call(F.batch_norm, x, mean, variance, weight, bias, False, 0.0, epsilon)


def instance_norm(b: Build, step: FileNode, x: fx.Node, *values: Value) -> Value:
    weight, bias = map(b.tensor, values, step.inputs[1:])
    epsilon = step.get("epsilon", 1e-5)
    return b.call(F.instance_norm, x, None, None, weight, bias, True, 0.0, epsilon)


def layer_norm(
    b: Build, step: FileNode, x: fx.Node, weight: Value, bias: Value | None = None
) -> Value:
    axis = step.get("axis", -1) % b.rank(x)
    scale = b.tensor(weight, step.inputs[1])
    if b.rank(scale) != b.rank(x) - axis:
        raise refuse("layer normalisation with a scale of another shape")
    shift = None if bias is None else b.tensor(bias, step.inputs[2])
    sides = tuple(b.example(scale).shape)
    return b.call(F.layer_norm, x, sides, scale, shift, step.get("epsilon", 1e-5))


def group_norm(b: Build, step: FileNode, x: fx.Node, weight: Value, bias: Value) -> Value:
    if step.opset < 21:
        raise refuse("group normalisation with a scale per group, as before version 21")
    scale, shift = map(b.tensor, (weight, bias), step.inputs[1:])
    return b.call(F.group_norm, x, step.get("num_groups"), scale, shift, step.get("epsilon", 1e-5))
