"""How grids and convolutions are written for LiteRT: int8, each exactly as the network rounds.

A uint8 level q of a grid of b bits is stored as q + 128 - 2^b + 127, so that int8 itself clips
at the upper end; at 8 bits that is q - 128. A grid that starts at 0 is clipped at the lower end
by the ReLU that a convolution or a sum has built in.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantnas.errors import UsageError
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import ActQuantizer

from .tflite_graph import Array, Levels, TFLiteGraph

SAME, VALID = 0, 1
"""Padding: zeros all round, so that the size stays; none."""
NONE, RELU = 0, 1
"""What an operator applies to its result."""
HIGHEST = 127


@dataclass(frozen=True)
class TFLiteValue:
    """A tensor of the traced network: its number in the graph, and the grid that it lies on."""

    tensor: int
    grid: ActQuantizer | None = None
    """None: it is in float."""
    block: int = 0
    """Not 0: its channels are in the order in which DEPTH_TO_SPACE takes them for that factor."""


@dataclass(frozen=True)
class Ahead:
    """What follows a node of the trace."""

    shape: tuple[int, ...]
    """(N, C, H, W) of what the node gives."""
    grid: ActQuantizer | None = None
    """That alone reads it, directly or behind a ReLU."""
    relu: bool = False
    block: int = 0
    """Factor of the pixel shuffle that alone it reaches, 0 for none."""

    @property
    def even(self) -> ActQuantizer | None:
        """The grid, if all channels have one step on it."""
        return None if self.grid is None or gains(self.grid) is not None else self.grid

    @property
    def fused(self) -> int:
        """What the node's operator applies to its result when it lays it on the grid."""
        clips = self.relu or (self.grid is not None and self.grid.zero_point == 0)
        return RELU if clips else NONE


def gains(grid: ActQuantizer) -> Array | None:
    """(C,), by what channels are multiplied before they are rounded in one step, if by any."""
    if grid.factors is None or (grid.factors == 1).all():
        return None
    return 1 / grid.factors.detach().flatten().numpy()


def levels(grid: ActQuantizer) -> Levels:
    """Of a grid in int8."""
    return Levels([grid.step.item()], lowest(grid) + grid.zero_point)


def lowest(grid: ActQuantizer) -> int:
    """The int8 number that stands for level 0."""
    return HIGHEST - grid.top


def laid(graph: TFLiteGraph, x: TFLiteValue, grid: ActQuantizer) -> TFLiteValue:
    """x rounded to a grid."""
    if x.grid is grid:
        return x
    shape, factors = graph.shapes[x.tensor], gains(grid)
    if factors is not None and x.grid is not None:
        q = _evened(graph, x, grid, factors)
    else:
        source = x.tensor
        if factors is not None:
            by = graph.constant(factors, np.float32)
            source = graph.add("MUL", [source, by], graph.tensor(shape, "FLOAT32"))
        q = graph.add("QUANTIZE", [source], graph.tensor(shape, "INT8", levels(grid)))
    if x.grid is None or x.grid.zero_point > 0:
        q = _clipped(graph, q, grid)
    return TFLiteValue(q, grid, x.block)


def _evened(graph: TFLiteGraph, x: TFLiteValue, grid: ActQuantizer, factors: Array) -> int:
    """Rounded with a step per channel: as a convolution of every pixel by itself."""
    assert x.grid is not None
    shape = graph.shapes[x.tensor]
    ones, none = np.ones((1, 1, 1, len(factors))), np.zeros(len(factors))
    weight = graph.constant(ones, np.int8, Levels(factors, axis=3))
    bias = graph.constant(none, np.int32, Levels(factors * x.grid.step.item()))
    form = {"padding": VALID, "strideW": 1, "strideH": 1, "depthMultiplier": 1}
    out = graph.tensor(shape, "INT8", levels(grid))
    return graph.add("DEPTHWISE_CONV_2D", [x.tensor, weight, bias], out, **form)


def _clipped(graph: TFLiteGraph, q: int, grid: ActQuantizer) -> int:
    """No level below 0; at 8 bits int8 has none."""
    if grid.bits == 8:
        return q
    low = graph.constant([lowest(grid)], np.int8, levels(grid))
    return graph.add("MAXIMUM", [q, low], graph.tensor(graph.shapes[q], "INT8", levels(grid)))


def in_float(graph: TFLiteGraph, x: TFLiteValue) -> int:
    """x as float32."""
    if x.grid is None:
        return x.tensor
    return graph.add("DEQUANTIZE", [x.tensor], graph.tensor(graph.shapes[x.tensor], "FLOAT32"))


def rounded(graph: TFLiteGraph, q: int, ahead: Ahead, grid: ActQuantizer) -> TFLiteValue:
    """What an operator laid on the grid ahead, with the lower end clipped where it was not yet."""
    return TFLiteValue(q if ahead.fused == RELU else _clipped(graph, q, grid), grid, ahead.block)


def convolution(graph: TFLiteGraph, x: TFLiteValue, conv: QuantConv2d, ahead: Ahead) -> TFLiteValue:
    """A convolution that gives int8 on the grid that reads it.

    Raises UsageError where what it gives goes on in float.
    """
    grid = ahead.grid
    if grid is None:
        raise UsageError(
            f"What layer '{conv.name}' gives goes on in float, and TFLite has no such convolution.",
            "Write ONNX, or use a space whose tensors lie on grids, such as plain, basic, rfdn or "
            "rfdn_deploy.",
        )
    assert conv.input_quantizer is not None or x.grid is conv.grid
    if conv.groups > 1:  # whose outputs cannot change places
        ahead = replace(ahead, block=0)
    x = laid(graph, x, conv.grid)
    kernel, units, steps = _numbers(conv, ahead)
    depthwise = conv.groups == conv.in_channels > 1
    kernel = kernel.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    weight = graph.constant(kernel, np.int8, Levels(steps, axis=3 if depthwise else 0))
    bias = graph.constant(units, np.int32, Levels(steps * conv.grid.step.item()))
    form: dict[str, Any] = {"strideW": conv.stride[1], "strideH": conv.stride[0]}
    form |= {"padding": SAME if conv.stride[0] == 1 else VALID}
    form |= {"fusedActivationFunction": ahead.fused}
    if depthwise:
        form["depthMultiplier"] = len(steps) // conv.in_channels
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    out = graph.tensor(channels_last(ahead.shape), "INT8", levels(grid))
    return rounded(graph, graph.add(kind, [x.tensor, weight, bias], out, **form), ahead, grid)


def _numbers(conv: QuantConv2d, ahead: Ahead) -> tuple[Array, Array, Array]:
    """(int8 kernel (c_out, c_in / groups, k, k), int32 bias, steps of the weights (c_out,)).

    They give what the network gives, multiplied by the gains of the grid ahead.
    """
    assert ahead.grid is not None and conv.bias is not None
    q, zero = conv.integers()
    kernel = conv.dense((q - zero).float()).numpy()
    units = conv.repeated((conv.bias / conv.bias_step()).round()).numpy()
    steps = conv.repeated(conv.weight_quantizer.step.flatten()).numpy()
    factors = gains(ahead.grid)
    if factors is not None:
        steps = steps * factors
    if ahead.block:
        order = shuffled(len(steps), ahead.block)
        kernel, units, steps = kernel[order], units[order], steps[order]
    return kernel, units, steps


def shuffled(channels: int, block: int) -> Array:
    """(channels,): which channel of a pixel shuffle each channel of DEPTH_TO_SPACE is."""
    return np.arange(channels).reshape(-1, block**2).T.flatten()


def ordered(graph: TFLiteGraph, x: TFLiteValue, block: int) -> TFLiteValue:
    """x with its channels as DEPTH_TO_SPACE wants them."""
    if x.block == block:
        return x
    shape = graph.shapes[x.tensor]
    order = graph.constant(shuffled(shape[-1], block), np.int32)
    kind = ("FLOAT32", None) if x.grid is None else ("INT8", levels(x.grid))
    out = graph.add("GATHER", [x.tensor, order], graph.tensor(shape, *kind), axis=3)
    return TFLiteValue(out, x.grid, block)


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, C, H, W) -> (N, H, W, C)"""
    n, c, height, width = shape
    return n, height, width, c
