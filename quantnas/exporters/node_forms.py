"""Forms of a file's own nodes that ONNX Runtime computes faster, with the same result.

PRelu takes seventeen times as long as the larger of x and slope * x, which is the same for slopes
up to 1, and longer than a sum of two products. Of the two forms of a mean over an image, only
GlobalAveragePool has an integer form, while ReduceMean is ten times slower on images whose channels
come last, as in integers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

EMPTY = np.zeros(0)


@dataclass(frozen=True)
class Facts:
    """What is known about the tensors of a file."""

    constants: Mapping[str, NDArray[Any]]
    """Name of a stored tensor -> its content."""
    ranks: Mapping[str, int]
    """Name of a tensor -> number of its dimensions, where it is known."""


def facts(model: onnx.ModelProto) -> Facts:
    """Collect the facts about a file."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # the inference has no exception class of its own; it is no check
        graph = model.graph
    shaped = [v for v in (*graph.input, *graph.value_info) if v.type.tensor_type.HasField("shape")]
    return Facts(constants, {v.name: len(v.type.tensor_type.shape.dim) for v in shaped})


def faster(node: onnx.NodeProto, known: Facts) -> Iterator[onnx.NodeProto]:
    """The nodes that compute what `node` does: itself, or a faster form."""
    rewrite = FORMS.get(node.op_type)
    yield from (rewrite(node, known) if rewrite else None) or [node]


def _mean(node: onnx.NodeProto, known: Facts) -> list[onnx.NodeProto] | None:
    """GlobalAveragePool, for the mean over height and width that keeps both dimensions."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = known.constants.get(node.input[1]) if len(node.input) > 1 else None
    axes = attributes.get("axes", []) if given is None else given.ravel().tolist()
    if known.ranks.get(node.input[0]) != 4 or not attributes.get("keepdims", 1):
        return None
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    return [helper.make_node("GlobalAveragePool", [node.input[0]], [*node.output])]


def _prelu(node: onnx.NodeProto, known: Facts) -> list[onnx.NodeProto] | None:
    """Max(x, slope * x) where no slope is above 1, else slope * x + (1 - slope) * Relu(x)."""
    x, slope = node.input
    (y,) = node.output
    if slope not in known.constants:
        return None
    value, product = known.constants[slope], f"{y}.sloped"
    first = helper.make_node("Mul", [x, slope], [product])
    if (value <= 1).all():
        return [first, helper.make_node("Max", [x, product], [y])]
    rest, above, more = f"{y}.rest", f"{y}.above", f"{y}.more"
    return [
        first,
        helper.make_node("Constant", [], [rest], value=numpy_helper.from_array(1 - value)),
        helper.make_node("Relu", [x], [above]),
        helper.make_node("Mul", [above, rest], [more]),
        helper.make_node("Add", [product, more], [y]),
    ]


def _product(node: onnx.NodeProto, known: Facts) -> list[onnx.NodeProto] | None:
    """Mul by a number that is written as one level of a grid, which its step makes exact."""
    numbers = [k for k, n in enumerate(node.input) if known.constants.get(n, EMPTY).size == 1]
    if len(numbers) != 1:
        return None
    (at,) = numbers
    value = known.constants[node.input[at]]
    if value.dtype != np.float32 or not np.isfinite(value).all() or not value.all():
        return None
    inputs, name = [*node.input], f"{node.output[0]}.factor"
    inputs[at] = name
    level, zero = (1, 0) if value.ravel()[0] > 0 else (0, 1)
    parts = (np.full(value.shape, level, np.uint8), np.abs(value.ravel()[0]), np.uint8(zero))
    return [
        *(
            helper.make_node("Constant", [], [f"{name}.{k}"], value=numpy_helper.from_array(part))
            for k, part in enumerate(map(np.asarray, parts))
        ),
        helper.make_node("DequantizeLinear", [f"{name}.{k}" for k in range(3)], [name]),
        helper.make_node("Mul", inputs, [*node.output]),
    ]


FORMS: dict[str, Callable[[onnx.NodeProto, Facts], list[onnx.NodeProto] | None]] = {
    "Mul": _product,
    "PRelu": _prelu,
    "ReduceMean": _mean,
}
"""Operator -> function that gives a faster form, or None where there is none."""
