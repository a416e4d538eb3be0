"""Element-by-element arithmetic, as in ONNX, on numbers that depend on the image's size.

A shape is an array of integers and nodes of the graph (`graph_builder`). Known numbers are computed
here; for the others a node is added to the graph. Floats have 32 bits, as in the file.
"""

import math
import operator
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from .graph_builder import Array, Build, Value, numbers, shape

Numbers = Callable[..., Any]


def one_node(function: Numbers) -> Numbers:
    """Make a function of numbers stay a single node when a graph that calls it is traced again."""

    @wraps(function)
    def traced(*args: Any) -> Any:
        for proxy in (n for n in args if isinstance(n, fx.Proxy)):
            return proxy.tracer.create_proxy("call_function", traced, args, {})
        return function(*args)

    return traced


@one_node
def single(x: float) -> float:
    """Round to a float of 32 bits."""
    return float(np.float32(x))


@one_node
def quotient(a: Any, b: Any) -> Any:
    """Divide as ONNX does: integers without the fraction, towards zero."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b


@one_node
def choose(condition: Any, a: Any, b: Any) -> Any:
    """Return `a` if the condition holds, else `b`."""
    return a if condition else b


@one_node
def larger(a: Any, b: Any) -> Any:
    """Return the larger of two numbers."""
    return max(a, b)


@one_node
def smaller(a: Any, b: Any) -> Any:
    """Return the smaller of two numbers."""
    return min(a, b)


@one_node
def root(x: float) -> float:
    """Return the square root."""
    return math.sqrt(x)


@one_node
def whole(x: Any, how: str) -> Any:
    """Round or cast a number; `how` is a key of `ROUNDINGS`."""
    return ROUNDINGS[how](x)


@one_node
def lacking(side: int, stride: int, window: int) -> int:
    """Padding along a side for which a strided window gives ceil(side / stride) values, pixels."""
    return max((-(-side // stride) - 1) * stride + window - side, 0)


@one_node
def tensor_of(sides: tuple[int, ...], *elements: Any) -> Tensor:
    """A tensor with these elements: of int64 or bool or, if there are floats, of float32."""
    return torch.tensor(elements).reshape(sides)


@one_node
def progression(start: Any, limit: Any, delta: Any) -> Tensor:
    """The numbers from `start` to `limit`, without it, in steps of `delta`."""
    return torch.arange(start, limit, delta)


ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "round": lambda x: float(round(x)),
}
"""Name of a rounding or a cast -> its function."""


def apply(b: Build, function: Callable[..., Any], *args: Any) -> Any:
    """Apply a function to numbers: the result is a node if an argument is one, else a number."""
    if not any(isinstance(n, fx.Node) for n in args):
        result = function(*args)
        return single(result) if isinstance(result, float) else result
    node = b.call(function, *args)
    return b.call(single, node) if isinstance(b.example(node), float) else node


def elementwise(b: Build, function: Callable[..., Any], *values: Value) -> Array:
    """Apply a function to the elements of arrays, which are broadcast against each other."""
    arrays = [np.reshape(shape(numbers(v)), b.example(v).shape) for v in values]
    parts = np.broadcast_arrays(*arrays)
    result = np.empty(parts[0].shape, object)
    for index in np.ndindex(result.shape):
        result[index] = apply(b, function, *(part[index] for part in parts))
    return result


def as_tensor(b: Build, value: Value, name: str) -> fx.Node:
    """The node of a value, as of `Build.tensor`; a shape may depend on the image's size here."""
    if not isinstance(value, fx.Node) and value.dtype == object:
        elements = value.ravel().tolist()
        if any(isinstance(n, fx.Node) for n in elements):
            return b.call(tensor_of, value.shape, *elements)
    return b.tensor(value, name)


def rounded(b: Build, values: Value, how: str) -> Array:
    """Apply `whole` to every element that does not have the type `how` already."""

    def one(x: Any) -> Any:
        example = b.seen(x)[0]
        return x if type(example).__name__ == how else apply(b, whole, x, how)

    flat = shape([one(x) for x in numbers(values)])
    return flat.reshape(b.example(values).shape)


def product(b: Build, elements: Any) -> Any:
    """The product of integers and nodes; an integer or a node."""
    total: Any = 1
    for element in elements:
        total = element if total == 1 else apply(b, operator.mul, total, element)
    return total
