"""How grids and convolutions are written in ONNX: in the forms that run in integers.

A convolution that a grid reads is written in float between DequantizeLinear and QuantizeLinear,
which ONNX Runtime turns into a QLinearConv. Where what it gives goes on in float, that pattern
would stay a float convolution; so that one is a ConvInteger.
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

    Where there is one, the graph also holds the integers, as `<name>.q`.
    """

    name: str
    grid: ActQuantizer | None


ONE = 64
"""The level of a weight of 1 where a channel is multiplied by a number."""
Readers = Mapping[str, ActQuantizer]
"""Name of a convolution -> the grid that alone reads what it gives, if there is one."""


def integers(graph: OnnxGraph, x: str, name: str, grid: ActQuantizer, divided: bool = False) -> str:
    """x -> uint8 on the grid; below 8 bits the integers are clipped in uint8.

    divided: x is divided by the factors of its channels already.
    """
    f, steps, zeros = grid.factors, grid.step, torch.tensor(grid.zero_point)
    if f is not None and (f != 1).any() and not divided:
        steps, zeros = steps * f.flatten(), zeros.expand(len(f))  # along axis 1, the default
    step = graph.constant(f"{name}.steps", steps.detach().numpy(), np.float32)
    zero = graph.constant(f"{name}.zeros", zeros.numpy(), np.uint8)
    if grid.bits == 8:
        return graph.add("QuantizeLinear", [x, step, zero], f"{name}.q")
    q = graph.add("QuantizeLinear", [x, step, zero], f"{name}.wide")
    low = graph.constant("clip.low", 0, np.uint8)
    high = graph.constant(f"clip.high{grid.bits}", 2**grid.bits - 1, np.uint8)
    return graph.add("Clip", [q, low, high], f"{name}.q")


def on_grid(graph: OnnxGraph, q: str, name: str, grid: ActQuantizer) -> str:
    """uint8 -> float, divided by the factors of the channels where the grid has any."""
    step = graph.constant(f"{name}.step", grid.step.item(), np.float32)
    zero = graph.constant(f"{name}.zero", grid.zero_point, np.uint8)
    return graph.add("DequantizeLinear", [q, step, zero], name)


def evened(graph: OnnxGraph, x: str, name: str, factors: torch.Tensor) -> str:
    """x, which lies on a grid, divided by the factors of its channels; ONNX Runtime does it in
    integers.

    A convolution of each channel with one weight: a step per channel in the QuantizeLinear behind
    a QLinearConv would take ten times as long as the convolution.
    """
    parts = (1 / factors.flatten()).numpy()
    ones = graph.constant(f"ones{len(parts)}", np.full((len(parts), 1, 1, 1), ONE), np.int8)
    step = graph.constant(f"{name}.parts", parts / ONE, np.float32)
    none = graph.constant(f"none{len(parts)}", np.zeros(len(parts)), np.int8)
    weight = graph.add("DequantizeLinear", [ones, step, none], f"{name}.ones", axis=0)
    return graph.add("Conv", [x, weight], f"{name}.evened", group=len(parts))


def quantized(graph: OnnxGraph, x: str, name: str, grid: ActQuantizer) -> OnnxValue:
    """x -> uint8 -> float on the grid."""
    return OnnxValue(on_grid(graph, integers(graph, x, name, grid), name, grid), grid)


def convolution(
    graph: OnnxGraph,
    x: OnnxValue,
    conv: QuantConv2d,
    readers: Readers,
    compat: bool = False,
    form: Mapping[str, Any] | None = None,
) -> OnnxValue:
    """A convolution with packed weights and an int32 bias on the accumulator's grid.

    form: the attributes of the node, if not those of `conv`.

    ONNX Runtime makes a QLinearConv of one that a grid reads; the others are a ConvInteger.
    """
    name, grid, source = conv.name, conv.input_quantizer, x.name
    if grid is not None:
        factors, done = grid.factors, grid in readers.values()
        if factors is not None and (factors != 1).any() and x.grid is not None and not done:
            source, done = evened(graph, source, f"{name}.in", factors), True
        q = integers(graph, source, f"{name}.in", grid, done)
        source = on_grid(graph, q, f"{name}.in", grid)
    reader = readers.get(name)
    kernel = packed_weights.integers(
        graph, name, *_kernel(conv), conv.precision.weights, reader is not None, compat
    )
    if reader is None:
        return _summed(graph, source, kernel, conv, _form(conv) if form is None else form)
    return _rounded(graph, source, kernel, conv, reader)


def float_convolution(graph: OnnxGraph, x: OnnxValue, conv: Conv2d) -> OnnxValue:
    """One that rounds nothing."""
    assert conv.bias is not None
    kernel = conv.dense(conv.weight.detach()).numpy()
    inputs = [
        x.name,
        graph.constant(f"{conv.name}.w", kernel, np.float32),
        graph.constant(f"{conv.name}.b", conv.repeated(conv.bias.detach()).numpy(), np.float32),
    ]
    return OnnxValue(graph.add("Conv", inputs, f"{conv.name}.out", **_form(conv)), None)


def _summed(
    graph: OnnxGraph, source: str, kernel: str, conv: QuantConv2d, form: Mapping[str, Any]
) -> OnnxValue:
    """In integers, and what the sums stand for in float."""
    name, shape = conv.name, (-1, 1, 1)
    zero = graph.constant(f"{name}.zero_x", conv.grid.zero_point, np.uint8)
    middle = graph.constant("middle", packed_weights.MIDDLE, np.uint8)
    inputs = [f"{source}.q", kernel, zero, middle]
    sums = graph.add("ConvInteger", inputs, f"{name}.sums", **form)
    bias = graph.int32(f"{name}.b", _bias(conv).reshape(shape))
    sums = graph.add("Add", [sums, bias], f"{name}.biased")
    wide = graph.add("Cast", [sums], f"{name}.float", to=TensorProto.FLOAT)
    step = graph.constant(f"{name}.step_w", _step(conv).reshape(shape), np.float32)
    unit = graph.add("Mul", [f"{source}.step", step], f"{name}.unit")
    return OnnxValue(graph.add("Mul", [wide, unit], f"{name}.out"), None)


def _rounded(
    graph: OnnxGraph, source: str, kernel: str, conv: QuantConv2d, reader: ActQuantizer
) -> OnnxValue:
    """In float between grids; where `reader` has factors, divided by them."""
    name, f, units = conv.name, reader.factors, _bias(conv)
    parts = 1.0 if f is None else f.flatten().numpy()
    step = graph.constant(f"{name}.step_w", _step(conv) / parts, np.float32)
    none = np.zeros(len(units))
    levels = [kernel, step, graph.constant(f"none{len(none)}", none, np.int8)]
    weight = graph.add("DequantizeLinear", levels, f"{name}.w", axis=0)
    unit = graph.add("Mul", [f"{source}.step", step], f"{name}.unit")
    sums = [graph.int32(f"{name}.b", units), unit, graph.int32(f"nones{len(none)}", none)]
    bias = graph.add("DequantizeLinear", sums, f"{name}.bias", axis=0)
    return OnnxValue(graph.add("Conv", [source, weight, bias], f"{name}.out", **_form(conv)), None)


def _kernel(conv: QuantConv2d) -> tuple[Array, Array]:
    """(q, zero points) of the kernel that runs."""
    q, zero = conv.integers()
    zeros = conv.repeated(zero.flatten())
    kernel = conv.dense((q - zero).float()).int() + zeros[:, None, None, None]
    return kernel.numpy(), zeros.numpy()


def _step(conv: QuantConv2d) -> Array:
    """(c_out,), between two levels of the kernel."""
    return conv.repeated(conv.weight_quantizer.step.detach().flatten()).numpy()


def _bias(conv: QuantConv2d) -> Array:
    """(c_out,), in units of the sums."""
    assert conv.bias is not None
    return conv.repeated((conv.bias / conv.bias_step()).round().detach()).numpy()


def _form(conv: Conv2d) -> dict[str, Any]:
    """The attributes of the node, without those that it has by default."""
    pads = conv.pads(conv.dense(conv.weight))
    form = {"pads": [*pads, *pads], "group": conv.groups, "strides": conv.stride}
    form |= {"dilations": conv.dilation}
    none = {"pads": [0] * 4, "group": 1, "strides": (1, 1), "dilations": (1, 1)}
    return {key: value for key, value in form.items() if value != none[key]}
