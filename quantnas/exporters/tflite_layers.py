"""Grids and convolutions as LiteRT operators in int8, each rounded exactly as in the network.

A uint8 level q of a grid of b bits is stored as q + 128 - 2^b, so that int8 itself clips at the
upper end; at 8 bits that is q - 128. A grid that starts at 0 is clipped at the lower end by the
ReLU that is built into a convolution or a sum.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantnas.errors import UsageError
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import ActQuantizer

from .tflite_graph import Array, Levels, TFLiteGraph

SAME, VALID = 0, 1
"""Codes of paddings: SAME adds zeros on all sides, so that the size stays; VALID adds none."""
NONE, RELU = 0, 1
"""Codes of the activation that an operator applies to its result."""
HIGHEST = 127
"""The highest level in int8."""


@dataclass(frozen=True)
class TFLiteValue:
    """A tensor of the traced network: its number in the graph, and the grid that it lies on."""

    tensor: int
    grid: ActQuantizer | None = None
    """None for a tensor in float."""
    block: int = 0
    """Factor for which its channels are in the order of DEPTH_TO_SPACE; 0 = in the usual order."""


@dataclass(frozen=True)
class Ahead:
    """The shape of a traced node's output, and the operations that follow it."""

    shape: tuple[int, ...]
    """Shape (N, C, H, W) of the output."""
    grid: ActQuantizer | None = None
    """The only quantizer consuming the output, directly or after a ReLU."""
    relu: bool = False
    """Whether a ReLU stands between the output and the grid."""
    block: int = 0
    """Factor of the pixel shuffle that is the output's only reader; 0 for none."""

    @property
    def even(self) -> ActQuantizer | None:
        """The grid if all channels have the same step on it, else None."""
        return None if self.grid is None or gains(self.grid) is not None else self.grid

    @property
    def fused(self) -> int:
        """Code of the activation that the node's operator applies when it rounds to the grid."""
        clips = self.relu or (self.grid is not None and self.grid.zero_point == 0)
        return RELU if clips else NONE


def gains(grid: ActQuantizer) -> Array | None:
    """Gains (C,) of the channels before they are rounded with one step; None when all are 1."""
    if grid.factors is None or (grid.factors == 1).all():
        return None
    return 1 / grid.factors.detach().flatten().numpy()


def levels(grid: ActQuantizer) -> Levels:
    """The int8 form of a grid."""
    return Levels([grid.step.item()], lowest(grid) + grid.zero_point)


def lowest(grid: ActQuantizer) -> int:
    """The int8 number that stands for level 0 of a grid."""
    return HIGHEST - grid.top


def quantized(graph: TFLiteGraph, x: TFLiteValue, grid: ActQuantizer) -> TFLiteValue:
    """Round x to a grid."""
    if x.grid is grid:
        return x
    shape, factors = graph.shapes[x.tensor], gains(grid)
    if factors is not None and x.grid is not None:
        q = _divided_by_factors(graph, x, grid, factors)
    else:
        source = x.tensor
        if factors is not None:
            by = graph.constant(factors, np.float32)
            source = graph.add("MUL", [source, by], graph.tensor(shape, "FLOAT32"))
        q = graph.add("QUANTIZE", [source], graph.tensor(shape, "INT8", levels(grid)))
    if x.grid is None or x.grid.zero_point > 0:
        q = _clipped(graph, q, grid)
    return TFLiteValue(q, grid, x.block)


def _divided_by_factors(
    graph: TFLiteGraph, x: TFLiteValue, grid: ActQuantizer, factors: Array
) -> int:
    """Round x to a grid with a step per channel, by a depthwise 1x1 convolution."""
    assert x.grid is not None
    shape = graph.shapes[x.tensor]
    ones, zeros = np.ones((1, 1, 1, len(factors))), np.zeros(len(factors))
    weight = graph.constant(ones, np.int8, Levels(factors, axis=3))
    bias = graph.constant(zeros, np.int32, Levels(factors * x.grid.step.item()))
    options = {"padding": VALID, "strideW": 1, "strideH": 1, "depthMultiplier": 1}
    out = graph.tensor(shape, "INT8", levels(grid))
    return graph.add("DEPTHWISE_CONV_2D", [x.tensor, weight, bias], out, **options)


def _clipped(graph: TFLiteGraph, q: int, grid: ActQuantizer) -> int:
    """Clip levels below 0; at 8 bits int8 has none."""
    if grid.bits == 8:
        return q
    low = graph.constant([lowest(grid)], np.int8, levels(grid))
    return graph.add("MAXIMUM", [q, low], graph.tensor(graph.shapes[q], "INT8", levels(grid)))


def in_float(graph: TFLiteGraph, x: TFLiteValue) -> int:
    """Convert x to float32."""
    if x.grid is None:
        return x.tensor
    return graph.add("DEQUANTIZE", [x.tensor], graph.tensor(graph.shapes[x.tensor], "FLOAT32"))


def rounded(graph: TFLiteGraph, q: int, ahead: Ahead, grid: ActQuantizer) -> TFLiteValue:
    """Finish the output of an operator that rounds to a grid: clip its lower end unless done."""
    return TFLiteValue(q if ahead.fused == RELU else _clipped(graph, q, grid), grid, ahead.block)


def convolution(graph: TFLiteGraph, x: TFLiteValue, conv: QuantConv2d, ahead: Ahead) -> TFLiteValue:
    """Write a convolution whose output is int8 levels of the grid that follows.

    Raises UsageError when the output stays in float.
    """
    grid = ahead.grid
    if grid is None:
        raise UsageError(
            f"Layer '{conv.name}' has a float output, and TFLite has no such convolution.",
            "Write ONNX, or use a space whose tensors lie on grids, such as plain, basic, rfdn or "
            "rfdn_deploy.",
        )
    assert conv.input_quantizer is not None or x.grid is conv.grid
    if conv.groups > 1:  # outputs of a grouped convolution cannot be reordered
        ahead = replace(ahead, block=0)
    x = quantized(graph, x, conv.grid)
    kernel, units, steps = _numbers(conv, ahead)
    depthwise = conv.groups == conv.in_channels > 1
    kernel = kernel.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    weight = graph.constant(kernel, np.int8, Levels(steps, axis=3 if depthwise else 0))
    bias = graph.constant(units, np.int32, Levels(steps * conv.grid.step.item()))
    options: dict[str, Any] = {"strideW": conv.stride[1], "strideH": conv.stride[0]}
    options |= {"padding": SAME if conv.stride[0] == 1 else VALID}
    options |= {"fusedActivationFunction": ahead.fused}
    if depthwise:
        options["depthMultiplier"] = len(steps) // conv.in_channels
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    out = graph.tensor(channels_last(ahead.shape), "INT8", levels(grid))
    return rounded(graph, graph.add(kind, [x.tensor, weight, bias], out, **options), ahead, grid)


def _numbers(conv: QuantConv2d, ahead: Ahead) -> tuple[Array, Array, Array]:
    """Return int8 kernel (c_out, c_in / groups, k, k), int32 bias and weight steps, both (c_out,).

    The gains of the grid ahead are multiplied into the steps.
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
    """Channels of a pixel shuffle in the order of DEPTH_TO_SPACE, (channels,)."""
    return np.arange(channels).reshape(-1, block**2).T.flatten()


def ordered(graph: TFLiteGraph, x: TFLiteValue, block: int) -> TFLiteValue:
    """Bring the channels of x into the order of DEPTH_TO_SPACE."""
    if x.block == block:
        return x
    shape = graph.shapes[x.tensor]
    order = graph.constant(shuffled(shape[-1], block), np.int32)
    kind = ("FLOAT32", None) if x.grid is None else ("INT8", levels(x.grid))
    out = graph.add("GATHER", [x.tensor, order], graph.tensor(shape, *kind), axis=3)
    return TFLiteValue(out, x.grid, block)


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Permute a shape (N, C, H, W) -> (N, H, W, C)."""
    n, c, height, width = shape
    return n, height, width, c
