"""Check, layer by layer, that a file stores its network's weights in the bits it states.

A weight that is off by one level cannot be seen among the roundings of an output, so the integers
themselves are compared. Every convolution is followed back to its stored weights: through
DequantizeLinear, offsets, casts, and the tables that unpack bytes.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from quantnas.architectures.cost import STORED, Layer
from quantnas.nn.convolutions import subpixel
from quantnas.nn.operations import Shape
from quantnas.onnx_import import subgraphs

from . import plain_forms
from .graph_index import Wiring, origin, wired
from .packed_weights import STORAGE

UNWIRED = ("linear", "upconv", "product", "normalisation")
"""Operations that have a cost and are no Conv in a file."""
Kernel = NDArray[Any]
"""Integers (c_out, c_in / groups, height, width) of a dense kernel, 0 for a weight of 0."""


def problems(
    model: onnx.ModelProto,
    rows: Iterable[Layer],
    scale: int,
    kernels: Mapping[str, Kernel] | None = None,
) -> Iterator[str]:
    """Differences between what a file stores and what its layers state, each with a layer's name.

    kernels: name of a layer -> the kernel that it should hold, where that is known. A kernel that
    the graph makes larger is also compared with what it is made of.
    """
    model, whole = plain_forms.plain(model), model
    spoilt = [f"'{name}' {problem}" for name, problem in plain_forms.problems(whole, model)]
    if spoilt:
        yield from spoilt
        return
    wiring = wired(model)
    layers = {row.name: row for row in rows if row.op not in UNWIRED}
    for name in wiring.convolutions.keys() ^ layers.keys():
        yield f"'{name}' is in the {'metadata' if name in layers else 'graph'} only"
    both = {k: v for k, v in layers.items() if k in wiring.convolutions}
    rounded = {k: row for k, row in both.items() if row.weight_bits < 32}
    sound = []
    for name, row in both.items():
        conv, shape = wiring.convolutions[name], kernel_shape(row, scale)
        wrong = list(_storage_problems(wiring, conv, row, shape))
        yield from (f"'{name}' {problem}" for problem in wrong)
        sound += [name] if name in rounded and not wrong else []
    for name, kernel in unpacked(model, wiring, sound).items():
        row, expected = rounded[name], (kernels or {}).get(name)
        for problem in _value_problems(kernel, row, kernel_shape(row, scale), expected):
            yield f"'{name}' {problem}"


def unpacked(model: onnx.ModelProto, wiring: Wiring, names: Iterable[str]) -> dict[str, Kernel]:
    """Name of each of these layers -> the integers of its kernel, minus the zero points."""
    convs = {name: wiring.convolutions[name] for name in names}
    tensors = {name: integers(wiring, conv) for name, conv in convs.items()}
    values = subgraphs.constants(model, tensors.values())
    return {
        name: values[tensors[name]].astype(np.int64) - _zero_point(wiring, conv)
        for name, conv in convs.items()
    }


def _zero_point(wiring: Wiring, conv: onnx.NodeProto) -> Kernel:
    """The integers that stand for 0, (c_out or 1, 1, 1, 1)."""
    name = conv.input[3] if conv.op_type == "ConvInteger" else wiring.makers[conv.input[1]].input[2]
    return numpy_helper.to_array(wiring.tensors[name]).astype(np.int64).reshape(-1, 1, 1, 1)


def kernel_shape(row: Layer, scale: int) -> Shape:
    """Shape (c_out, c_in / groups, height, width) of the kernel that a file stores for a layer.

    A transposed convolution is stored as a convolution in front of a pixel shuffle.
    """
    if not row.op.startswith("transposed"):
        return row.shape
    factor, pad = (re.search(rf"_{part}(\d+)", row.op) for part in ("up", "pad"))
    up, inset = int(factor[1]) if factor else scale, int(pad[1]) if pad else None
    a, b, c, d = subpixel(torch.empty(row.shape), up, inset).shape
    return a, b, c, d


def _storage_problems(
    wiring: Wiring, conv: onnx.NodeProto, row: Layer, shape: Shape
) -> Iterator[str]:
    tensor = wiring.tensors.get(origin(wiring, conv.input[1]))
    if tensor is None:
        yield "has no stored weights"
        return
    stored = tensor.data_type, math.prod(tensor.dims)
    allowed = _allowed_forms(row.weight_bits, shape)
    if stored not in allowed:
        first, *_ = allowed
        yield (
            f"holds {stored[1]} x {_type(stored[0])}, but {row.weight_bits} bits per weight are "
            f"stated: {first[1]} x {_type(first[0])}"
        )
    bits = input_bits(wiring, conv)
    if row.act_bits < 32 and bits != row.act_bits:
        yield f"reads {bits} bits, but {row.act_bits} bits per activation are stated"


def _allowed_forms(bits: int, shape: Shape) -> list[tuple[int, int]]:
    """(element type, number of elements) that weights of these bits may be stored as."""
    count = math.prod(shape)
    if bits == 32:
        return [(TensorProto.FLOAT, count)]
    in_bytes = (TensorProto.UINT8, math.ceil(count * STORED[bits] / 8))
    return [(STORAGE[bits].element, count), in_bytes]


def integers(wiring: Wiring, conv: onnx.NodeProto, index: int = 1) -> str:
    """Name of the integers that a convolution's input comes from (0: activations, 1: weights).

    For a ConvInteger that is the input itself, else the input of a DequantizeLinear.
    """
    maker = wiring.makers.get(conv.input[index])
    if maker is not None and maker.op_type == "DequantizeLinear":
        return str(maker.input[0])
    return str(conv.input[index])


def input_bits(wiring: Wiring, conv: onnx.NodeProto) -> int:
    """Bits of the activations that a convolution reads: 8, or fewer behind a Clip of integers."""
    name, bits = integers(wiring, conv, 0), 8
    while (maker := wiring.makers.get(name)) is not None and maker.op_type == "Clip":
        high = numpy_helper.to_array(wiring.tensors[maker.input[2]])
        name, bits = maker.input[0], min(bits, int(high).bit_length())
    return bits


def _value_problems(
    kernel: Kernel, row: Layer, shape: Shape, expected: Kernel | None
) -> Iterator[str]:
    if kernel.shape != tuple(shape):
        yield f"unpacks to {kernel.shape}, but {tuple(shape)} is stated"
        return
    flat = kernel.reshape(len(kernel), -1)
    levels = int((flat.max(1) - flat.min(1)).max()) + 1
    if levels > 2**row.weight_bits:
        yield f"spans {levels} levels, but {row.weight_bits} bits per weight are stated"
    elif expected is not None and not np.array_equal(kernel, expected):
        yield f"has {np.sum(kernel != expected)} of {kernel.size} weights other than the network"


def _type(element: int) -> str:
    return str(TensorProto.DataType.Name(element)).lower()
