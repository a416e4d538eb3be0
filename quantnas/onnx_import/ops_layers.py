"""ONNX's convolutions, pooling, matrix products and normalisations, translated to torch.fx.

Every convolution and every product with a stored matrix becomes an ordinary module of `torch.nn`
with a weight and a bias. Padding that torch's modules lack becomes a node before the module.
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
"""Number of a kernel's spatial dimensions -> module."""


def convolution(
    b: Build, step: FileNode, x: fx.Node, weight: Value, bias: Value | None = None
) -> Value:
    """Conv: a module of one or two spatial dimensions."""
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
    """ConvTranspose: a module in two dimensions; uneven padding is cut off after it."""
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
    enlarged = b.layer(module, x, _stem(step))
    if even:
        return enlarged
    cuts = [slice(first, -last if last else None) for first, last in ends]
    return b.call(operator.getitem, enlarged, (slice(None), slice(None), *cuts))


def _cut(step: FileNode, totals: Sequence[int]) -> list[tuple[int, int]]:
    """Pixels (at the begin, at the end) of each side that a transposed convolution cuts off.

    totals: pixels that `auto_pad` cuts off, per side.
    """
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
    """The stored weight of a layer. Refuses one that is computed or not in float32."""
    if weight is None or isinstance(weight, fx.Node) or weight.dtype != np.float32:
        raise refuse("weights that are not stored as float32")
    return weight


def _filled(module: Any, kernel: Array, bias: Value | None, count: int) -> Any:
    """Put a kernel and a bias into a module; a missing bias becomes `count` zeros."""
    values = np.zeros(count, np.float32) if bias is None else _kernel(bias).reshape(count)
    module.weight = nn.Parameter(torch.tensor(kernel))
    module.bias = nn.Parameter(torch.tensor(values))
    return module


def _stem(step: FileNode) -> str:
    """Name of a layer: the one that its weight has in torch, or the name of its node."""
    stem, dot, last = step.inputs[1].rpartition(".")
    if dot and last == "weight":
        return stem
    return step.name.removesuffix(f"/{step.kind}") or step.name


# Padding and pooling


def padded(
    b: Build,
    step: FileNode,
    x: fx.Node,
    windows: Sequence[int],
    strides: Sequence[int],
    value: float = 0.0,
) -> tuple[fx.Node, list[int]]:
    """Pad x with `value` if the padding differs between the two ends of a side.

    Returns the padded x, and the padding per side that the module has to apply itself.
    """
    ends = _ends(b, step, x, windows, strides)
    if all(isinstance(n, int) for pair in ends for n in pair) and all(m == n for m, n in ends):
        return x, [first for first, _ in ends]
    flat = [n for pair in reversed(ends) for n in pair]
    return b.call(F.pad, x, flat, value=value), [0] * len(ends)


def _ends(
    b: Build, step: FileNode, x: fx.Node, windows: Sequence[int], strides: Sequence[int]
) -> list[tuple[Any, Any]]:
    """Padding (at the begin, at the end) of each side, integers or nodes."""
    how = step.get("auto_pad", "NOTSET")
    count = len(windows)
    if how in ("NOTSET", "VALID"):
        pads = step.get("pads", [0] * 2 * count) if how == "NOTSET" else [0] * 2 * count
        return list(zip(pads[:count], pads[count:], strict=True))
    ends = []
    for dim, (window, stride) in enumerate(zip(windows, strides, strict=True), 2):
        total: Any = window - 1
        if stride > 1:
            total = shape_arithmetic.apply(
                b, shape_arithmetic.lacking, b.side(x, dim), stride, window
            )
        half = shape_arithmetic.apply(b, operator.floordiv, total, 2)
        rest = shape_arithmetic.apply(b, operator.sub, total, half)
        ends.append((half, rest) if how == "SAME_UPPER" else (rest, half))
    return ends


def max_pool(b: Build, step: FileNode, x: fx.Node) -> Value:
    """MaxPool in two dimensions."""
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
    """AveragePool in two dimensions."""
    kernel, strides = _window(step)
    counted = bool(step.get("count_include_pad", 0))
    unpadded = x
    x, pads = padded(b, step, x, kernel, strides)
    if x is not unpadded and not counted:
        raise refuse("an average over an uneven border that does not count")
    if any(d != 1 for d in step.get("dilations", [1])):
        raise refuse("an average with dilation")
    ceil = bool(step.get("ceil_mode", 0))
    return b.call(F.avg_pool2d, x, kernel, strides, pads, ceil, counted)


def _window(step: FileNode) -> tuple[list[int], list[int]]:
    """Kernel and strides of a pooling. Refuses other than two dimensions."""
    kernel = list(step.get("kernel_shape"))
    if len(kernel) != 2:
        raise refuse(f"a window of {len(kernel)} dimensions")
    return kernel, list(step.get("strides", [1, 1]))


# Matrices


def gemm(b: Build, step: FileNode, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Gemm: a linear layer if weight and bias are stored, else a matrix product."""
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
    product = b.call(operator.mul, b.call(torch.matmul, left, right), factor)
    if bias is None:
        return product
    scaled_bias = b.call(operator.mul, b.tensor(bias, step.inputs[2]), share)
    return b.call(operator.add, product, scaled_bias)


def matmul(b: Build, step: FileNode, x: Value, y: Value) -> Value:
    """MatMul: a linear layer if the second factor is a stored matrix, else a matrix product."""
    if isinstance(x, fx.Node) and not isinstance(y, fx.Node) and y.ndim == 2:
        return _linear(b, step, x, y.T, None)
    return b.call(torch.matmul, b.tensor(x, step.inputs[0]), b.tensor(y, step.inputs[1]))


def einsum(b: Build, step: FileNode, *values: Value) -> Value:
    """Einsum of any number of tensors."""
    tensors = map(b.tensor, values, step.inputs)
    return b.call(torch.einsum, step.get("equation").replace(" ", ""), *tensors)


def _linear(b: Build, step: FileNode, x: fx.Node, matrix: Array, bias: Array | None) -> Value:
    module = nn.Linear(matrix.shape[1], matrix.shape[0], device="meta")
    return b.layer(_filled(module, _kernel(matrix), bias, len(matrix)), x, _stem(step))


# Normalisation


def batch_norm(b: Build, step: FileNode, x: fx.Node, *values: Value) -> Value:
    """BatchNormalization with stored statistics."""
    if step.get("training_mode", 0):
        raise refuse("batch normalisation in training")
    weight, bias, mean, variance = (
        b.tensor(value, name, learned=k < 2)
        for k, (value, name) in enumerate(zip(values, step.inputs[1:], strict=True))
    )
    epsilon = step.get("epsilon", 1e-5)
    return b.call(F.batch_norm, x, mean, variance, weight, bias, False, 0.0, epsilon)


def instance_norm(b: Build, step: FileNode, x: fx.Node, *values: Value) -> Value:
    """InstanceNormalization."""
    weight, bias = map(b.tensor, values, step.inputs[1:])
    epsilon = step.get("epsilon", 1e-5)
    return b.call(F.instance_norm, x, None, None, weight, bias, True, 0.0, epsilon)


def layer_norm(
    b: Build, step: FileNode, x: fx.Node, weight: Value, bias: Value | None = None
) -> Value:
    """LayerNormalization over the last dimensions."""
    axis = step.get("axis", -1) % b.rank(x)
    scale = b.tensor(weight, step.inputs[1])
    if b.rank(scale) != b.rank(x) - axis:
        raise refuse("layer normalisation with a scale of another shape")
    shift = None if bias is None else b.tensor(bias, step.inputs[2])
    sides = tuple(b.example(scale).shape)
    return b.call(F.layer_norm, x, sides, scale, shift, step.get("epsilon", 1e-5))


def group_norm(b: Build, step: FileNode, x: fx.Node, weight: Value, bias: Value) -> Value:
    """GroupNormalization with a scale per channel, as from opset 21 on."""
    if step.opset < 21:
        raise refuse("group normalisation with a scale per group, as before version 21")
    scale, shift = map(b.tensor, (weight, bias), step.inputs[1:])
    return b.call(F.group_norm, x, step.get("num_groups"), scale, shift, step.get("epsilon", 1e-5))
