"""The operations of a network other than convolutions and grids, as ONNX nodes.

Attributes with ONNX's default value are left out, such as Resize's half-pixel coordinates.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from quantnas.architectures.imdn import contrast
from quantnas.architectures.rfdn import resize_like
from quantnas.nn.image_layers import LUMA, enlarge, luma

from .onnx_graph import OnnxGraph
from .onnx_layers import OnnxValue, quantized


def _pointwise(kind: str) -> Callable[..., OnnxValue]:
    """Writer of an elementwise operator; its output lies on no grid."""

    def add(graph: OnnxGraph, name: str, *values: OnnxValue, inplace: bool = False) -> OnnxValue:
        return OnnxValue(graph.add(kind, [v.name for v in values], name), None)

    return add


def _cat(graph: OnnxGraph, name: str, parts: list[OnnxValue], dim: int) -> OnnxValue:
    return OnnxValue(graph.add("Concat", [p.name for p in parts], name, axis=dim), None)


def _repeat(graph: OnnxGraph, name: str, x: OnnxValue, count: int, dim: int) -> OnnxValue:
    """Write the repetition of every colour `count` times in a row."""
    index = graph.constant(f"{name}.index", np.repeat(np.arange(3), count), np.int64)
    return _kept(graph, name, x, "Gather", index, axis=dim)


def _tile(
    graph: OnnxGraph, name: str, x: OnnxValue, counts: tuple[int, int, int, int]
) -> OnnxValue:
    """Write the repetition of the three colours as a group, `counts[1]` times."""
    index = graph.constant(f"{name}.index", np.tile(np.arange(3), counts[1]), np.int64)
    return _kept(graph, name, x, "Gather", index, axis=1)


def _shuffle(graph: OnnxGraph, name: str, x: OnnxValue, scale: int) -> OnnxValue:
    return _kept(graph, name, x, "DepthToSpace", blocksize=scale, mode="CRD")


def _max_pool(graph: OnnxGraph, name: str, x: OnnxValue, side: int, stride: int) -> OnnxValue:
    return _kept(graph, name, x, "MaxPool", kernel_shape=[side] * 2, strides=[stride] * 2)


def _kept(
    graph: OnnxGraph, name: str, x: OnnxValue, kind: str, *more: str, **attributes: Any
) -> OnnxValue:
    """Write an operator that only moves values: its output keeps the grid and the integers."""
    if x.grid is None:
        return OnnxValue(graph.add(kind, [x.name, *more], name, **attributes), None)
    moved = graph.add(kind, [x.name, *more], f"{name}.moved", **attributes)
    return quantized(graph, moved, name, x.grid)


def _part(
    graph: OnnxGraph, name: str, x: OnnxValue, dim: int, start: int, length: int
) -> OnnxValue:
    """Write a slice of `length` entries of axis `dim`, from `start` on."""
    ends = (("start", start), ("end", start + length), ("dim", dim))
    at = [graph.constant(f"{name}.{end}", [n], np.int64) for end, n in ends]
    return _kept(graph, name, x, "Slice", *at)


def _leaky(
    graph: OnnxGraph, name: str, x: OnnxValue, negative_slope: float, inplace: bool = False
) -> OnnxValue:
    return OnnxValue(graph.add("LeakyRelu", [x.name], name, alpha=negative_slope), None)


def _contrast(graph: OnnxGraph, name: str, x: OnnxValue) -> OnnxValue:
    """Write the standard deviation plus the mean over height and width, in float."""
    mean = graph.add("GlobalAveragePool", [x.name], f"{name}.mean")
    centred = graph.add("Sub", [x.name, mean], f"{name}.centred")
    square = graph.add("Mul", [centred, centred], f"{name}.square")
    variance = graph.add("GlobalAveragePool", [square], f"{name}.variance")
    deviation = graph.add("Sqrt", [variance], f"{name}.deviation")
    return OnnxValue(graph.add("Add", [deviation, mean], name), None)


def _luma(graph: OnnxGraph, name: str, x: OnnxValue) -> OnnxValue:
    weights = graph.constant("luma.weights", np.reshape(LUMA, (1, 3, 1, 1)), np.float32)
    parts = graph.add("Mul", [x.name, weights], f"{name}.parts")
    axis = graph.constant("axis.colours", [1], np.int64)
    return OnnxValue(graph.add("ReduceSum", [parts, axis], name), None)


def _enlarge(graph: OnnxGraph, name: str, x: OnnxValue, scale: int) -> OnnxValue:
    """Write a bilinear enlargement by a factor."""
    factors = graph.constant(f"factors{scale}", [1, 1, scale, scale], np.float32)
    return OnnxValue(graph.add("Resize", [x.name, "", factors], name, mode="linear"), None)


def _resize(graph: OnnxGraph, name: str, x: OnnxValue, like: OnnxValue) -> OnnxValue:
    """Write a bilinear resizing to the size of `like`, which may change from image to image."""
    sides = []
    for source, ends in ((x, (0, 2)), (like, (2, 4))):
        shape = graph.add("Shape", [source.name], f"{name}.shape{ends[0]}")
        at = [graph.constant(f"{name}.at{end}", [end], np.int64) for end in ends]
        sides.append(graph.add("Slice", [shape, *at], f"{name}.sides{ends[0]}"))
    sizes = graph.add("Concat", sides, f"{name}.sizes", axis=0)
    return OnnxValue(graph.add("Resize", [x.name, "", "", sizes], name, mode="linear"), None)


TRANSLATE: dict[Any, Callable[..., OnnxValue]] = {
    torch.relu: _pointwise("Relu"),
    F.relu: _pointwise("Relu"),
    torch.cat: _cat,
    torch.repeat_interleave: _repeat,
    torch.tile: _tile,
    torch.sigmoid: _pointwise("Sigmoid"),
    torch.max_pool2d: _max_pool,
    torch.narrow: _part,
    F.leaky_relu: _leaky,
    contrast: _contrast,
    resize_like: _resize,
    luma: _luma,
    enlarge: _enlarge,
    F.pixel_shuffle: _shuffle,
}
"""Function of the traced network -> (graph, name, *arguments, **keywords) -> OnnxValue."""
OPERATORS: dict[str, Callable[..., OnnxValue]] = {
    "add": _pointwise("Add"),
    "mul": _pointwise("Mul"),
}
"""Name of a Python operator -> its writer, with the signature as in `TRANSLATE`."""


def translation(node: fx.Node) -> Callable[..., OnnxValue]:
    """Return the function in `TRANSLATE` or `OPERATORS` that writes the operation of a node."""
    target: Any = node.target
    return TRANSLATE.get(target) or OPERATORS[target.__name__]
