"""The operations of a network other than convolutions and grids, as LiteRT operators.

Every operation between grids becomes an int8 operator; operations that lie on no grid in the
network (luma, bilinear enlargement, sigmoid) are in float here too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from quantnas.architectures.rfdn import resize_like
from quantnas.nn.image_layers import LUMA, enlarge, luma

from .tflite_graph import Array, TFLiteGraph
from .tflite_layers import (
    SAME,
    VALID,
    Ahead,
    TFLiteValue,
    channels_last,
    in_float,
    levels,
    ordered,
    quantized,
    rounded,
)

SYMMETRIC = 1
"""Code of the padding by mirroring; with one pixel it repeats the border."""


def _float_operator(
    graph: TFLiteGraph, ahead: Ahead, kind: str, inputs: list[int], **options: Any
) -> TFLiteValue:
    """Write an operator in float."""
    out = graph.tensor(channels_last(ahead.shape), "FLOAT32")
    return TFLiteValue(graph.add(kind, inputs, out, **options))


def _pair(kind: str) -> Callable[..., TFLiteValue]:
    """Writer of a sum or a product: int8 between grids of one step, else in float."""

    def add(graph: TFLiteGraph, ahead: Ahead, a: TFLiteValue, b: TFLiteValue) -> TFLiteValue:
        if ahead.block:
            a, b = (ordered(graph, v, ahead.block) for v in (a, b))
        if ahead.even is None or a.grid is None or b.grid is None:
            return _float_operator(graph, ahead, kind, [in_float(graph, a), in_float(graph, b)])
        out = graph.tensor(channels_last(ahead.shape), "INT8", levels(ahead.even))
        graph.add(kind, [a.tensor, b.tensor], out, fusedActivationFunction=ahead.fused)
        return rounded(graph, out, ahead, ahead.even)

    return add


def _relu(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue, inplace: bool = False) -> TFLiteValue:
    if x.grid is None:
        return _float_operator(graph, ahead, "RELU", [x.tensor])
    if ahead.grid is not None and (x.grid is ahead.grid or ahead.grid.zero_point == 0):
        return x  # the grid clips, or x is on it already
    out = graph.tensor(channels_last(ahead.shape), "INT8", levels(x.grid))
    return TFLiteValue(graph.add("RELU", [x.tensor], out), x.grid, x.block)


def _cat(graph: TFLiteGraph, ahead: Ahead, parts: list[TFLiteValue], dim: int) -> TFLiteValue:
    grid = ahead.even
    if grid is None or (ahead.relu and grid.zero_point > 0):
        return _float_operator(
            graph, ahead, "CONCATENATION", [in_float(graph, p) for p in parts], axis=3
        )
    inputs = [quantized(graph, p, grid).tensor for p in parts]
    out = graph.tensor(channels_last(ahead.shape), "INT8", levels(grid))
    return TFLiteValue(graph.add("CONCATENATION", inputs, out, axis=3), grid)


def _moved(
    graph: TFLiteGraph, ahead: Ahead, kind: str, x: TFLiteValue, *more: int, **options: Any
) -> TFLiteValue:
    """Write an operator that only moves values: its output keeps the grid and the integers."""
    if x.grid is None:
        return _float_operator(graph, ahead, kind, [x.tensor, *more], **options)
    out = graph.tensor(channels_last(ahead.shape), "INT8", levels(x.grid))
    return TFLiteValue(graph.add(kind, [x.tensor, *more], out, **options), x.grid)


def _repeat(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue, count: int, dim: int) -> TFLiteValue:
    """Write the repetition of every colour `count` times in a row.

    In front of a DEPTH_TO_SPACE, the colours are repeated as a group instead, in its order.
    """
    if ahead.block**2 == count:
        return TFLiteValue(_tile(graph, ahead, x, (1, count, 1, 1)).tensor, x.grid, ahead.block)
    index = graph.constant(np.repeat(np.arange(graph.shapes[x.tensor][-1]), count), np.int32)
    return _moved(graph, ahead, "GATHER", x, index, axis=3)


def _tile(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue, counts: tuple[int, ...]) -> TFLiteValue:
    return _moved(graph, ahead, "TILE", x, graph.constant([1, 1, 1, counts[1]], np.int32))


def _shuffle(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue, scale: int) -> TFLiteValue:
    return _moved(graph, ahead, "DEPTH_TO_SPACE", ordered(graph, x, scale), blockSize=scale)


def _max_pool(
    graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue, side: int, stride: int
) -> TFLiteValue:
    options = {"filterWidth": side, "filterHeight": side, "strideW": stride, "strideH": stride}
    return _moved(graph, ahead, "MAX_POOL_2D", x, padding=VALID, **options)


def _sigmoid(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue) -> TFLiteValue:
    return _float_operator(graph, ahead, "LOGISTIC", [in_float(graph, x)])


def _luma(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue) -> TFLiteValue:
    return _weighted(graph, ahead, in_float(graph, x), np.reshape(LUMA, (1, 1, 1, 3)), SAME)


def _enlarge(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue, scale: int) -> TFLiteValue:
    """Write a bilinear enlargement by a factor, as a convolution and DEPTH_TO_SPACE.

    Unlike a resizing operator, they work at any image size.
    """
    n, height, width, c = graph.shapes[x.tensor]
    impulses = F.pad(torch.eye(9).view(9, 1, 3, 3), [1] * 4)
    responses = enlarge(impulses, scale)[:, 0, 2 * scale : 3 * scale, 2 * scale : 3 * scale]
    taps = responses.reshape(3, 3, scale**2).permute(2, 0, 1)  # (subpixel, height, width)
    kernel = torch.einsum("pyx,cd->pcyxd", taps, torch.eye(c)).flatten(0, 1)
    border = graph.constant([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    padded = graph.tensor((n, height + 2, width + 2, c), "FLOAT32")
    graph.add("MIRROR_PAD", [in_float(graph, x), border], padded, mode=SYMMETRIC)
    inside = Ahead((n, len(kernel), height, width))
    wide = _weighted(graph, inside, padded, kernel.numpy(), VALID)
    return _float_operator(graph, ahead, "DEPTH_TO_SPACE", [wide.tensor], blockSize=scale)


def _weighted(graph: TFLiteGraph, ahead: Ahead, x: int, kernel: Array, padding: int) -> TFLiteValue:
    """Write a float convolution; kernel (c_out, height, width, c_in)."""
    weight = graph.constant(kernel, np.float32)
    bias = graph.constant(np.zeros(len(kernel)), np.float32)
    options = {"padding": padding, "strideW": 1, "strideH": 1}
    return _float_operator(graph, ahead, "CONV_2D", [x, weight, bias], **options)


def _resize(graph: TFLiteGraph, ahead: Ahead, x: TFLiteValue, like: TFLiteValue) -> TFLiteValue:
    sizes = graph.constant(ahead.shape[2:], np.int32)
    return _float_operator(
        graph, ahead, "RESIZE_BILINEAR", [in_float(graph, x), sizes], halfPixelCenters=True
    )


TRANSLATE: dict[Any, Callable[..., TFLiteValue]] = {
    torch.relu: _relu,
    F.relu: _relu,
    torch.cat: _cat,
    torch.repeat_interleave: _repeat,
    torch.tile: _tile,
    torch.sigmoid: _sigmoid,
    torch.max_pool2d: _max_pool,
    F.pixel_shuffle: _shuffle,
    resize_like: _resize,
    luma: _luma,
    enlarge: _enlarge,
}
"""Function of the traced network -> its writer (graph, ahead, *arguments, **keywords) -> value."""
OPERATORS: dict[str, Callable[..., TFLiteValue]] = {"add": _pair("ADD"), "mul": _pair("MUL")}
"""Name of a Python operator -> its writer, with the signature as in `TRANSLATE`."""
