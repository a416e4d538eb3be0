"""ONNX's elementwise operators and reductions, translated to torch.fx or shape arithmetic."""

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import fx

from . import shape_arithmetic
from .graph_builder import Build, FileNode, Translation, Value, fixed, numbers, refuse, shape

TYPES: dict[int, tuple[torch.dtype, str]] = {
    TensorProto.FLOAT: (torch.float32, "float"),
    TensorProto.DOUBLE: (torch.float64, "float"),
    TensorProto.UINT8: (torch.uint8, "int"),
    TensorProto.INT32: (torch.int32, "int"),
    TensorProto.INT64: (torch.int64, "int"),
    TensorProto.BOOL: (torch.bool, "bool"),
}
"""ONNX element type -> (torch's type, key of `shape_arithmetic.ROUNDINGS` for plain numbers)."""


def unary(
    function: Callable[..., Any],
    number: Callable[..., Any] | None = None,
    **keywords: tuple[str, float],
) -> Translation:
    """Translation of an operator on one tensor or number.

    function: on tensors. number: on numbers; None where only tensors occur. keywords: keyword of
    the torch function -> (attribute of the node, its default).
    """

    def translate(b: Build, step: FileNode, x: Value) -> Value:
        if number and not isinstance(x, fx.Node):
            return shape_arithmetic.elementwise(b, number, x)
        args = {key: step.get(*attribute) for key, attribute in keywords.items()}
        return b.call(function, b.tensor(x, step.inputs[0]), **args)

    return translate


def binary(function: Callable[..., Any], number: Callable[..., Any] | None = None) -> Translation:
    """Translation of an operator on two tensors or numbers, applied in turn if there are more."""

    def pair(b: Build, x: Value, y: Value, names: tuple[str, str]) -> Value:
        if not isinstance(x, fx.Node) and not isinstance(y, fx.Node):
            return shape_arithmetic.elementwise(b, number or function, x, y)
        return b.call(function, operand(b, x, y, names[0]), operand(b, y, x, names[1]))

    def translate(b: Build, step: FileNode, *values: Value) -> Value:
        left, name = values[0], step.inputs[0]
        for right, other in zip(values[1:], step.inputs[1:], strict=True):
            left, name = pair(b, left, right, (name, other)), step.outputs[0]
        return left

    return translate


def operand(b: Build, x: Value, other: Value, name: str) -> Any:
    """An operand of a torch function: a number if x is one that broadcasts, else a node."""
    if isinstance(x, fx.Node):
        return x
    if x.size == 1 and isinstance(other, fx.Node) and b.rank(other) >= x.ndim:
        return x.ravel().tolist()[0]
    return shape_arithmetic.as_tensor(b, x, name)


def divide(b: Build, step: FileNode, x: Value, y: Value) -> Value:
    """Div; a quotient of integers is rounded towards zero."""
    whole = [v for v in (x, y) if isinstance(v, fx.Node) and _is_whole(b.example(v))]
    if not whole:
        return binary(operator.truediv, shape_arithmetic.quotient)(b, step, x, y)
    pairs = ((x, y, step.inputs[0]), (y, x, step.inputs[1]))
    first, second = (operand(b, *each) for each in pairs)
    return b.call(torch.div, first, second, rounding_mode="trunc")


def _is_whole(example: Any) -> bool:
    """Whether a value is a tensor of integers."""
    return isinstance(example, torch.Tensor) and not example.is_floating_point()


def either(function: Callable[..., Any], how: str) -> Translation:
    """Translation of a rounding of tensors or numbers; `how` as in `shape_arithmetic.whole`."""

    def translate(b: Build, step: FileNode, x: Value) -> Value:
        if isinstance(x, fx.Node):
            return b.call(function, x)
        return shape_arithmetic.rounded(b, x, how)

    return translate


def clip(
    b: Build, step: FileNode, x: Value, low: Value | None = None, high: Value | None = None
) -> Value:
    """Clip; its limits are attributes or, in later opsets, inputs."""
    if not isinstance(x, fx.Node):
        for end, function in ((low, shape_arithmetic.larger), (high, shape_arithmetic.smaller)):
            x = x if end is None else shape_arithmetic.elementwise(b, function, x, end)
        return x
    first, last = (
        step.get(name) if end is None else operand(b, end, x, f"{step.name}_{name}")
        for name, end in (("min", low), ("max", high))
    )
    return b.call(torch.clamp, x, first, last)


def cast(b: Build, step: FileNode, x: Value) -> Value:
    """Cast to another element type."""
    if step.get("to") not in TYPES:
        raise refuse(f"a Cast to {TensorProto.DataType.Name(step.get('to')).lower()}")
    dtype, how = TYPES[step.get("to")]
    if not isinstance(x, fx.Node):
        return shape_arithmetic.rounded(b, x, how)
    return x if b.example(x).dtype == dtype else b.method("to", x, dtype)


def where(b: Build, step: FileNode, condition: Value, x: Value, y: Value) -> Value:
    """Where: a choice between two tensors or numbers."""
    if not any(isinstance(v, fx.Node) for v in (condition, x, y)):
        return shape_arithmetic.elementwise(b, shape_arithmetic.choose, condition, x, y)
    values = zip((condition, x, y), step.inputs, strict=True)
    return b.call(torch.where, *(shape_arithmetic.as_tensor(b, *each) for each in values))


def prelu(b: Build, step: FileNode, x: fx.Node, slope: Value) -> Value:
    """PRelu: torch's for one slope or one per channel, else spelled out by its definition."""
    dims = b.example(slope).shape
    dims = (1,) * (b.rank(x) - len(dims)) + tuple(dims)
    if not isinstance(slope, fx.Node) and math.prod(dims) == dims[1]:
        return b.call(F.prelu, x, b.tensor(slope.ravel(), step.inputs[1]))
    below = b.call(torch.clamp, x, None, 0.0)
    lower = b.call(operator.mul, below, b.tensor(slope, step.inputs[1]))
    return b.call(operator.add, b.call(F.relu, x), lower)


def hard_sigmoid(b: Build, step: FileNode, x: fx.Node) -> Value:
    """HardSigmoid: torch's where the coefficients agree, else spelled out by its definition."""
    alpha, beta = step.get("alpha", 0.2), step.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return b.call(F.hardsigmoid, x)
    line = b.call(operator.add, b.call(operator.mul, x, alpha), beta)
    return b.call(torch.clamp, line, 0.0, 1.0)


def gelu(b: Build, step: FileNode, x: fx.Node) -> Value:
    """Gelu, exact or approximated by tanh."""
    return b.call(F.gelu, x, approximate=step.get("approximate", "none"))


def selu(b: Build, step: FileNode, x: fx.Node) -> Value:
    """Selu, by its definition, for any coefficients."""
    alpha = step.get("alpha", 1.6732632423543772)
    return b.call(operator.mul, b.call(F.elu, x, alpha), step.get("gamma", 1.0507009873554805))


def thresholded(b: Build, step: FileNode, x: fx.Node) -> Value:
    """ThresholdedRelu: 0 up to the threshold."""
    return b.call(F.threshold, x, step.get("alpha", 1.0), 0.0)


def sum_of_squares(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """The sum of the squares over some dimensions."""
    return x.square().sum(dims, keepdim=keepdim)


def log_of_sum(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """The logarithm of the sum over some dimensions."""
    return x.sum(dims, keepdim=keepdim).log()


def softmax(function: Callable[..., Any]) -> Translation:
    """Translation of Softmax or LogSoftmax.

    Before opset 13 it is taken over all dimensions from the axis on.
    """

    def translate(b: Build, step: FileNode, x: fx.Node) -> Value:
        last = b.rank(x) - 1
        axis = step.get("axis", -1 if step.opset >= 13 else 1) % (last + 1)
        if step.opset >= 13 or axis == last:
            return b.call(function, x, axis)
        sides = tuple(b.side(x, dim) for dim in range(axis, last + 1))
        flat = b.call(function, b.call(torch.flatten, x, axis), axis)
        return b.call(torch.unflatten, flat, axis, sides)

    return translate


def reduction(function: Callable[..., Any], *order: float) -> Translation:
    """Translation of a reduction of tensors; `order` is a leading argument of the torch function.

    Axes are an attribute or, in later opsets, an input; without them it reduces all dimensions.
    """

    def translate(b: Build, step: FileNode, x: fx.Node, axes: Value | None = None) -> Value:
        over = tuple(step.get("axes") or fixed(axes))
        if not over and step.get("noop_with_empty_axes"):
            return x
        over = over or tuple(range(b.rank(x)))
        return b.call(function, x, *order, over, keepdim=bool(step.get("keepdims", 1)))

    return translate


def pooled(function: Callable[..., Any]) -> Translation:
    """Translation of a global pooling: a reduction over all spatial dimensions."""

    def translate(b: Build, step: FileNode, x: fx.Node) -> Value:
        return b.call(function, x, tuple(range(2, b.rank(x))), keepdim=True)

    return translate


def product(b: Build, step: FileNode, x: Value, axes: Value | None = None) -> Value:
    """ReduceProd of the elements of a shape."""
    total = shape_arithmetic.product(b, numbers(x))
    return shape([total]) if step.get("keepdims", 1) else shape([total]).reshape(())


def total(b: Build, step: FileNode, *values: Value) -> Value:
    """Sum of any number of tensors."""
    return reduce(lambda x, y: b.call(operator.add, x, y), map(b.tensor, values, step.inputs))


def average(b: Build, step: FileNode, *values: Value) -> Value:
    """Mean of any number of tensors."""
    return b.call(operator.truediv, total(b, step, *values), len(values))


def extreme(function: Callable[..., Any], number: Callable[..., Any]) -> Translation:
    """Translation of Max or Min of any number of tensors or numbers."""

    def translate(b: Build, step: FileNode, *values: Value) -> Value:
        if not any(isinstance(v, fx.Node) for v in values):
            return reduce(lambda x, y: shape_arithmetic.elementwise(b, number, x, y), values)
        named = zip(values, step.inputs, strict=True)
        tensors = (shape_arithmetic.as_tensor(b, *each) for each in named)
        return reduce(lambda x, y: b.call(function, x, y), tensors)

    return translate
