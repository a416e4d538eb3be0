"""Grids and convolutions as ONNX nodes, in the forms that run in integers.

A convolution whose output is rounded to a grid is written in float between DequantizeLinear and
QuantizeLinear, which ONNX Runtime turns into a QLinearConv. When the output stays in float, that
pattern would run as a float convolution; such a convolution is therefore a ConvInteger.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer

from . import packed_weights
from .onnx_graph import OnnxGraph

Array = NDArray[Any]


@dataclass(frozen=True)
class OnnxValue:
    """A tensor of the traced network: its name in the graph, and the grid that it lies on.

    When there is a grid, the graph also holds the tensor's integers, as `<name>.q`.
    """

    name: str
    grid: ActQuantizer | None


ONE = 64
"""The level that stands for a weight of 1 where channels are multiplied by constants."""
Readers = Mapping[str, ActQuantizer]
"""Name of a convolution -> the only grid that reads its output; absent when there is none."""


def integers(
    graph: OnnxGraph, x: str, name: str, grid: ActQuantizer, is_divided: bool = False
) -> str:
    """Round x to uint8 levels of a grid -> their name; below 8 bits they are clipped in uint8.

    is_divided: x is divided by the factors of its channels already.
    """
    f, steps, zeros = grid.factors, grid.step, torch.tensor(grid.zero_point)
    if f is not None and (f != 1).any() and not is_divided:
        steps, zeros = steps * f.flatten(), zeros.expand(len(f))  # along axis 1, the default
    step = graph.constant(f"{name}.steps", steps.detach().numpy(), np.float32)
    zero = graph.constant(f"{name}.zeros", zeros.numpy(), np.uint8)
    if grid.bits == 8:
        return graph.add("QuantizeLinear", [x, step, zero], f"{name}.q")
    q = graph.add("QuantizeLinear", [x, step, zero], f"{name}.wide")
    low = graph.constant("clip.low", 0, np.uint8)
    high = graph.constant(f"clip.high{grid.bits}", 2**grid.bits - 1, np.uint8)
    return graph.add("Clip", [q, low, high], f"{name}.q")


def dequantized(graph: OnnxGraph, q: str, name: str, grid: ActQuantizer) -> str:
    """Turn uint8 levels into float, divided by the factors of the channels if the grid has any."""
    step = graph.constant(f"{name}.step", grid.step.item(), np.float32)
    zero = graph.constant(f"{name}.zero", grid.zero_point, np.uint8)
    return graph.add("DequantizeLinear", [q, step, zero], name)


def divided_by_factors(graph: OnnxGraph, x: str, name: str, factors: torch.Tensor) -> str:
    """Divide x, which lies on a grid, by the factors of its channels, in integers.

    The division is a depthwise 1x1 convolution: a step per channel in the QuantizeLinear behind a
    QLinearConv would take ten times as long as the convolution.
    """
    parts = (1 / factors.flatten()).numpy()
    ones = graph.constant(f"ones{len(parts)}", np.full((len(parts), 1, 1, 1), ONE), np.int8)
    step = graph.constant(f"{name}.parts", parts / ONE, np.float32)
    zeros = graph.constant(f"none{len(parts)}", np.zeros(len(parts)), np.int8)
    weight = graph.add("DequantizeLinear", [ones, step, zeros], f"{name}.ones", axis=0)
    return graph.add("Conv", [x, weight], f"{name}.evened", group=len(parts))


def quantized(graph: OnnxGraph, x: str, name: str, grid: ActQuantizer) -> OnnxValue:
    """Round x to a grid: to uint8 levels, and back to float."""
    return OnnxValue(dequantized(graph, integers(graph, x, name, grid), name, grid), grid)


def convolution(
    graph: OnnxGraph,
    x: OnnxValue,
    conv: QuantConv2d,
    readers: Readers,
    compat: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> OnnxValue:
    """Write a convolution with packed weights and an int32 bias on the accumulator's grid.

    compat: store weights in bytes with tables, not in packed types; attributes: the attributes of
    the node, if not those of `conv`. ONNX Runtime turns the convolution into a QLinearConv when a
    grid reads it; otherwise it is a ConvInteger.
    """
    name, grid, source = conv.name, conv.input_quantizer, x.name
    if grid is not None:
        factors, is_divided = grid.factors, grid in readers.values()
        if factors is not None and (factors != 1).any() and x.grid is not None and not is_divided:
            source, is_divided = divided_by_factors(graph, source, f"{name}.in", factors), True
        q = integers(graph, source, f"{name}.in", grid, is_divided)
        source = dequantized(graph, q, f"{name}.in", grid)
    reader = readers.get(name)
    kernel = packed_weights.integers(
        graph, name, *_kernel(conv), conv.precision.weights, reader is not None, compat
    )
    form = _attributes(conv) if attributes is None else attributes
    if reader is None:
        return _integer_convolution(graph, source, kernel, conv, form)
    return _fused_convolution(graph, source, kernel, conv, reader, form)


def float_convolution(graph: OnnxGraph, x: OnnxValue, conv: Conv2d) -> OnnxValue:
    """Write a convolution in float."""
    assert conv.bias is not None
    kernel = conv.dense(conv.weight.detach()).numpy()
    inputs = [
        x.name,
        graph.constant(f"{conv.name}.w", kernel, np.float32),
        graph.constant(f"{conv.name}.b", conv.repeated(conv.bias.detach()).numpy(), np.float32),
    ]
    return OnnxValue(graph.add("Conv", inputs, f"{conv.name}.out", **_attributes(conv)), None)


def _integer_convolution(
    graph: OnnxGraph, source: str, kernel: str, conv: QuantConv2d, attributes: Mapping[str, Any]
) -> OnnxValue:
    """Write a ConvInteger, and the conversion of its integer sums to float."""
    name, shape = conv.name, (-1, 1, 1)
    zero = graph.constant(f"{name}.zero_x", conv.grid.zero_point, np.uint8)
    middle = graph.constant("middle", packed_weights.MIDDLE, np.uint8)
    inputs = [f"{source}.q", kernel, zero, middle]
    sums = graph.add("ConvInteger", inputs, f"{name}.sums", **attributes)
    bias = graph.int32(f"{name}.b", _bias(conv).reshape(shape))
    sums = graph.add("Add", [sums, bias], f"{name}.biased")
    wide = graph.add("Cast", [sums], f"{name}.float", to=TensorProto.FLOAT)
    step = graph.constant(f"{name}.step_w", _step(conv).reshape(shape), np.float32)
    unit = graph.add("Mul", [f"{source}.step", step], f"{name}.unit")
    return OnnxValue(graph.add("Mul", [wide, unit], f"{name}.out"), None)


def _fused_convolution(
    graph: OnnxGraph,
    source: str,
    kernel: str,
    conv: QuantConv2d,
    reader: ActQuantizer,
    attributes: Mapping[str, Any],
) -> OnnxValue:
    """Write a Conv between grids; if `reader` has factors, its output is divided by them."""
    name, f, units = conv.name, reader.factors, _bias(conv)
    parts = 1.0 if f is None else f.flatten().numpy()
    step = graph.constant(f"{name}.step_w", _step(conv) / parts, np.float32)
    zeros = np.zeros(len(units))
    levels = [kernel, step, graph.constant(f"none{len(zeros)}", zeros, np.int8)]
    weight = graph.add("DequantizeLinear", levels, f"{name}.w", axis=0)
    unit = graph.add("Mul", [f"{source}.step", step], f"{name}.unit")
    sums = [graph.int32(f"{name}.b", units), unit, graph.int32(f"nones{len(zeros)}", zeros)]
    bias = graph.add("DequantizeLinear", sums, f"{name}.bias", axis=0)
    return OnnxValue(graph.add("Conv", [source, weight, bias], f"{name}.out", **attributes), None)


def _kernel(conv: QuantConv2d) -> tuple[Array, Array]:
    """Levels and zero points of the dense kernel."""
    q, zero = conv.integers()
    zeros = conv.repeated(zero.flatten())
    kernel = conv.dense((q - zero).float()).int() + zeros[:, None, None, None]
    return kernel.numpy(), zeros.numpy()


def _step(conv: QuantConv2d) -> Array:
    """Step of the kernel's grid for each output channel, (c_out,)."""
    return conv.repeated(conv.weight_quantizer.step.detach().flatten()).numpy()


def _bias(conv: QuantConv2d) -> Array:
    """Bias in units of the integer sums, (c_out,)."""
    assert conv.bias is not None
    return conv.repeated((conv.bias / conv.bias_step()).round().detach()).numpy()


def _attributes(conv: Conv2d) -> dict[str, Any]:
    """Attributes of a convolution's node, without those that have their default value."""
    pads = conv.pads(conv.dense(conv.weight))
    attributes = {"pads": [*pads, *pads], "group": conv.groups, "strides": conv.stride}
    attributes |= {"dilations": conv.dilation}
    defaults = {"pads": [0] * 4, "group": 1, "strides": (1, 1), "dilations": (1, 1)}
    return {key: value for key, value in attributes.items() if value != defaults[key]}
