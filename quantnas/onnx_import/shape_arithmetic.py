"""Numbers that depend on the image's size, as ONNX computes with them: element by element.

A shape is an array of objects, integers and nodes of the graph (`building`). What is known is
computed here; of what is not, a node is made. Floats have 32 bits, as in the file.
"""

import math
import operator
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from torch import fx

from .graph_builder import Array, Build, Value, numbers, shape

Numbers = Callable[..., Any]


def one_node(function: Numbers) -> Numbers:
    """A function of numbers that is one node, too, where a graph with it is traced again."""

    @wraps(function)
    def traced(*args: Any) -> Any:
        for proxy in (n for n in args if isinstance(n, fx.Proxy)):
            return proxy.tracer.create_proxy("call_function", traced, args, {})
        return function(*args)

    return traced


@one_node
def single(x: float) -> float:
    """Rounded to 32 bits."""
    return float(np.float32(x))


@one_node
def quotient(a: Any, b: Any) -> Any:
    """Of integers without its fraction, as ONNX divides them."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b


@one_node
def choose(condition: Any, a: Any, b: Any) -> Any:
    """One of two numbers."""
    return a if condition else b


@one_node
def larger(a: Any, b: Any) -> Any:
    """Of two numbers."""
    return max(a, b)


@one_node
def smaller(a: Any, b: Any) -> Any:
    """Of two numbers."""
    return min(a, b)


@one_node
def root(x: float) -> float:
    """The square root."""
    return math.sqrt(x)


@one_node
def whole(x: Any, how: str) -> Any:
    """An integer (`int`, as floats are cast) or a float without its fraction."""
    return ROUNDINGS[how](x)


@one_node
def lacking(side: int, stride: int, window: int) -> int:
    """Pixels to pad along a side so that a strided window gives ceil(side / stride) values."""
    return max((-(-side // stride) - 1) * stride + window - side, 0)


ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "round": lambda x: float(round(x)),
}


def apply(b: Build, function: Callable[..., Any], *args: Any) -> Any:
    """What a function of numbers gives: a number or, where one of them is a node, a node."""
    if not any(isinstance(n, fx.Node) for n in args):
        found = function(*args)
        return single(found) if isinstance(found, float) else found
    node = b.call(function, *args)
    return b.call(single, node) if isinstance(b.example(node), float) else node


def elementwise(b: Build, function: Callable[..., Any], *values: Value) -> Array:
    """A function of every element of arrays that fit each other."""
    known = [np.reshape(shape(numbers(v)), b.example(v).shape) for v in values]
    parts = np.broadcast_arrays(*known)
    found = np.empty(parts[0].shape, object)
    for at in np.ndindex(found.shape):
        found[at] = apply(b, function, *(part[at] for part in parts))
    return found


def rounded(b: Build, values: Value, how: str) -> Array:
    """Every element as `whole` makes it; those that are so already are left."""

    def one(x: Any) -> Any:
        known = b.seen(x)[0]
        return x if type(known).__name__ == how else apply(b, whole, x, how)

    found = shape([one(x) for x in numbers(values)])
    return found.reshape(b.example(values).shape)


def product(b: Build, elements: Any) -> Any:
    """Of integers and nodes."""
    total: Any = 1
    for element in elements:
        total = element if total == 1 else apply(b, operator.mul, total, element)
    return total
