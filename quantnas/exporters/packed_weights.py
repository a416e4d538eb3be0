"""Storage of 2-, 3-, 4- and 8-bit weights in ONNX: from arrays to initializers and nodes.

Below 8 bits, weights are an unsigned packed initializer -> Cast(INT8) -> Sub(zero points), in front
of a DequantizeLinear. Cast and Sub are constant, so ONNX Runtime folds them at load and runs an
ordinary int8 convolution. A DequantizeLinear directly on packed weights would be slow (4 bits) or
would not load at all (2 bits). For a ConvInteger, the kernel is moved to uint8 in the same way:
with int8 weights, ONNX Runtime takes seven times as long.

Older runtimes know neither packed types nor 8-bit Add and Sub: for these the same bytes are stored
as plain uint8, and a table gives the int32 weights that each byte holds.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from .onnx_graph import OnnxGraph

Array = NDArray[np.integer]
INT32 = TensorProto.INT32


@dataclass(frozen=True)
class Storage:
    """A packed element type and the ONNX versions that know it."""

    element: int
    """Element type, a `TensorProto.DataType`."""
    per_byte: int
    """Weights in a byte."""
    opset: int
    """Oldest opset that has the type."""
    ir_version: int
    """Oldest version of the file format that has the type."""


STORAGE: dict[int, Storage] = {
    2: Storage(TensorProto.UINT2, 4, 25, 13),
    3: Storage(TensorProto.UINT4, 2, 21, 10),
    4: Storage(TensorProto.UINT4, 2, 21, 10),
    8: Storage(TensorProto.INT8, 1, 13, 7),
}
"""Weight bits -> how the weights are stored."""

MIDDLE = 128
"""The level of a uint8 kernel that stands for 0."""


def packed(name: str, q: NDArray[np.integer], bits: int) -> onnx.TensorProto:
    """Pack integers q into an initializer; q is in [0, 2^bits - 1], or in [-128, 127] at 8 bits.

    A byte holds several integers with the first in its low bits, in row-major order; the last byte
    is padded with zeros. Raises ValueError when a value does not fit.
    """
    low, high = (-128, 127) if bits == 8 else (0, 2**bits - 1)
    if q.size and not (low <= int(q.min()) and int(q.max()) <= high):
        raise ValueError(f"{name}: integers outside [{low}, {high}]")
    store = STORAGE[bits]
    if store.per_byte == 1:
        raw = q.astype(np.int8).tobytes()
    else:
        flat = np.pad(q.astype(np.uint8).ravel(), (0, -q.size % store.per_byte))
        shifts = np.arange(store.per_byte, dtype=np.uint8) * (8 // store.per_byte)
        shifted = flat.reshape(-1, store.per_byte) << shifts
        raw = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8).tobytes()
    tensor = TensorProto(name=name, data_type=store.element, dims=q.shape)
    tensor.raw_data = raw
    return tensor


def unpacked(tensor: onnx.TensorProto) -> NDArray[np.integer]:
    """Read the integers from an initializer that `packed` made."""
    store = next(s for s in STORAGE.values() if s.element == tensor.data_type)
    if store.per_byte == 1:
        return np.frombuffer(tensor.raw_data, np.int8).reshape(tuple(tensor.dims))
    codes = _codes(np.frombuffer(tensor.raw_data, np.uint8), store.per_byte)
    return codes.ravel()[: int(np.prod(tensor.dims))].reshape(tuple(tensor.dims))


def _codes(stored: NDArray[np.uint8], per_byte: int) -> NDArray[np.uint8]:
    """Split bytes (n,) into the integers that they hold -> (n, per_byte)."""
    width = 8 // per_byte
    shifts = np.arange(per_byte, dtype=np.uint8) * width
    codes: NDArray[np.uint8] = stored[:, None] >> shifts & (2**width - 1)
    return codes.astype(np.uint8)


def integers(
    graph: OnnxGraph,
    name: str,
    q: Array,
    zero: Array,
    bits: int,
    signed: bool,
    compat: bool = False,
) -> str:
    """Add a kernel's integers to the graph -> the name of the tensor, constant once loaded.

    The tensor is q - zero in int8 if `signed`, else q - zero + MIDDLE in uint8. q (c_out, c_in, k,
    k); zero (c_out,), 0 at 8 bits; compat: store bytes and a table, not a packed type.
    """
    kind, element = (np.int8, TensorProto.INT8) if signed else (np.uint8, TensorProto.UINT8)
    zeros = zero.astype(np.int32).reshape(-1, 1, 1, 1) - (0 if signed else MIDDLE)
    if bits == 8:
        return graph.constant(f"{name}.q", q - zeros, kind)
    if (zeros == zeros[0]).all():
        zeros = zeros[0, 0, 0, 0]
    if compat:
        levels, offset = _from_table(graph, name, q, bits), graph.int32(f"{name}.zero", zeros)
        moved = graph.add("Sub", [levels, offset], f"{name}.moved")
        return graph.add("Cast", [moved], f"{name}.int", to=element)
    stored = packed(f"{name}.q", q, bits)
    graph.tensors[stored.name] = stored
    wide = graph.add("Cast", [stored.name], f"{name}.wide", to=element)
    offset = graph.constant(f"{name}.zero", abs(zeros), kind)
    return graph.add("Sub" if signed else "Add", [wide, offset], f"{name}.int")


def _from_table(graph: OnnxGraph, name: str, q: Array, bits: int) -> str:
    """Add q in int32, read from stored bytes with a table of the integers in each byte."""
    per_byte = STORAGE[bits].per_byte
    codes = _codes(np.arange(256, dtype=np.uint8), per_byte)
    table = graph.constant(f"table{per_byte}", codes, np.int8)
    packs = np.frombuffer(packed(name, q, bits).raw_data, np.uint8)
    at = graph.add("Cast", [graph.constant(f"{name}.q", packs, np.uint8)], f"{name}.at", to=INT32)
    levels = graph.add("Gather", [table, at], f"{name}.levels")
    if q.size % per_byte:
        flat = graph.add("Reshape", [levels, graph.constant("flat", [-1], np.int64)], f"{name}.all")
        ends = [graph.constant(f"{name}.{end}", [end], np.int64) for end in (0, q.size)]
        levels = graph.add("Slice", [flat, *ends], f"{name}.used")
    shape = graph.constant(f"{name}.shape", q.shape, np.int64)
    shaped = graph.add("Reshape", [levels, shape], f"{name}.shaped")
    return graph.add("Cast", [shaped], f"{name}.wide", to=INT32)
