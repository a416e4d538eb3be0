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

from . import onnx_weights
from .conv import QuantConv2d, padding
from .onnx_graph import Graph
from .quantizer import ActQuantizer

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A tensor of the traced network: its name in the graph, and the grid that it lies on.

    Where there is one, the graph also holds the integers, as `<name>.q`.
    """

    name: str
    grid: ActQuantizer | None


Readers = Mapping[str, ActQuantizer]
"""Name of a convolution -> the grid that alone reads what it gives, if there is one."""


def integers(graph: Graph, x: str, name: str, grid: ActQuantizer, divided: bool = False) -> str:
    """x -> uint8 on the grid; below 8 bits the integers are clipped in uint8.

    divided: x is divided by the factors of its channels already.
    """
    f, steps, zeros = grid.factors, grid.step, torch.tensor(grid.zero_point)
    form = {}
    if f is not None and (f != 1).any() and not divided:
        steps, zeros, form = steps * f.flatten(), zeros.expand(len(f)), {"axis": 1}
    step = graph.constant(f"{name}.steps", steps.detach().numpy(), np.float32)
    zero = graph.constant(f"{name}.zeros", zeros.numpy(), np.uint8)
    if grid.bits == 8:
        return graph.add("QuantizeLinear", [x, step, zero], f"{name}.q", **form)
    q = graph.add("QuantizeLinear", [x, step, zero], f"{name}.wide", **form)
    low = graph.constant("clip.low", 0, np.uint8)
    high = graph.constant(f"clip.high{grid.bits}", 2**grid.bits - 1, np.uint8)
    return graph.add("Clip", [q, low, high], f"{name}.q")


def on_grid(graph: Graph, q: str, name: str, grid: ActQuantizer) -> str:
    """uint8 -> float, divided by the factors of the channels where the grid has any."""
    step = graph.constant(f"{name}.step", grid.step.item(), np.float32)
    zero = graph.constant(f"{name}.zero", grid.zero_point, np.uint8)
    return graph.add("DequantizeLinear", [q, step, zero], name)


def quantized(graph: Graph, x: str, name: str, grid: ActQuantizer) -> Value:
    """x -> uint8 -> float on the grid."""
    return Value(on_grid(graph, integers(graph, x, name, grid), name, grid), grid)


def convolution(graph: Graph, x: Value, conv: QuantConv2d, readers: Readers) -> Value:
    """A convolution with packed weights and an int32 bias on the accumulator's grid.

    ONNX Runtime makes a QLinearConv of one that a grid reads; the others are a ConvInteger.
    """
    name, grid, source = conv.name, conv.input_quantizer, x.name
    if grid is not None:
        q = integers(graph, source, f"{name}.in", grid, grid in readers.values())
        source = on_grid(graph, q, f"{name}.in", grid)
    reader = readers.get(name)
    if reader is None:
        return _summed(graph, source, conv)
    return _rounded(graph, source, conv, reader)


def _summed(graph: Graph, source: str, conv: QuantConv2d) -> Value:
    """In integers, and what the sums stand for in float."""
    name, shape = conv.name, (1, -1, 1, 1)
    nodes, tensors, kernel = onnx_weights.unsigned(name, *_kernel(conv), conv.precision.weights)
    graph.put(nodes, tensors)
    zero = graph.constant(f"{name}.zero_x", conv.grid.zero_point, np.uint8)
    middle = graph.constant("middle", onnx_weights.MIDDLE, np.uint8)
    inputs = [f"{source}.q", kernel, zero, middle]
    sums = graph.add("ConvInteger", inputs, f"{name}.sums", **_form(conv))
    units, step = _bias(conv)
    bias = graph.constant(f"{name}.b", units.reshape(shape), np.int32)
    sums = graph.add("Add", [sums, bias], f"{name}.biased")
    wide = graph.add("Cast", [sums], f"{name}.float", to=TensorProto.FLOAT)
    scale = graph.constant(f"{name}.bstep", step.reshape(shape), np.float32)
    return Value(graph.add("Mul", [wide, scale], f"{name}.out"), None)


def _rounded(graph: Graph, source: str, conv: QuantConv2d, reader: ActQuantizer) -> Value:
    """In float between grids; where `reader` has factors, divided by them."""
    name, f = conv.name, reader.factors
    parts = 1.0 if f is None else f.flatten().numpy()
    step = conv.repeated(conv.weight_quantizer.step.detach().flatten()).numpy()
    nodes, tensors, kernel = onnx_weights.dequantized(
        name, *_kernel(conv), step / parts, conv.precision.weights
    )
    graph.put(nodes, tensors)
    units, bias_step = _bias(conv)
    int32 = graph.constant(f"{name}.b", units, np.int32)
    none = graph.constant(f"{name}.bnone", np.zeros(len(units)), np.int32)
    scale = graph.constant(f"{name}.bstep", bias_step / parts, np.float32)
    bias = graph.add("DequantizeLinear", [int32, scale, none], f"{name}.bias", axis=0)
    return Value(graph.add("Conv", [source, kernel, bias], f"{name}.out", **_form(conv)), None)


def _kernel(conv: QuantConv2d) -> tuple[Array, Array]:
    """(q, zero points) of the kernel that runs."""
    q, zero = conv.integers()
    zeros = conv.repeated(zero.flatten())
    kernel = conv.dense((q - zero).float()).int() + zeros[:, None, None, None]
    return kernel.numpy(), zeros.numpy()


def _bias(conv: QuantConv2d) -> tuple[Array, Array]:
    """(integers, what one unit is worth), each (c_out,)."""
    assert conv.bias is not None
    step = conv.repeated(conv.bias_step().detach()).numpy()
    return np.round(conv.repeated(conv.bias.detach()).numpy() / step), step


def _form(conv: QuantConv2d) -> dict[str, Any]:
    """The attributes of the node."""
    kernel = conv.dense(conv.weight)
    pads = [*padding(kernel, conv.stride[0])] * 2
    form = {"kernel_shape": kernel.shape[-2:], "pads": pads, "group": conv.groups}
    return form if conv.stride == (1, 1) else form | {"strides": conv.stride}
