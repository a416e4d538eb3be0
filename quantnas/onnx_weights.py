"""How 2-, 3-, 4- and 8-bit weights are stored in ONNX: arrays in, initializers and nodes out.

Below 8 bits: unsigned packed initializer -> Cast(INT8) -> Sub(zero points) -> DequantizeLinear.
The first three are constant, so ONNX Runtime folds them at load and runs an ordinary int8
convolution. A DequantizeLinear directly on packed weights would be slow (4 bits) or would not
load at all (2 bits). For a ConvInteger, the kernel is moved to uint8 in the same way: with int8
weights, ONNX Runtime takes seven times as long.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper


@dataclass(frozen=True)
class Storage:
    """A packed element type and the ONNX versions that know it."""

    element: int
    per_byte: int
    opset: int
    ir_version: int


STORAGE: dict[int, Storage] = {
    2: Storage(TensorProto.UINT2, 4, 25, 13),
    3: Storage(TensorProto.UINT4, 2, 21, 10),
    4: Storage(TensorProto.UINT4, 2, 21, 10),
    8: Storage(TensorProto.INT8, 1, 13, 7),
}


MIDDLE = 128
"""The level of a kernel in uint8 that means 0."""


def packed(name: str, q: NDArray[np.integer], bits: int) -> onnx.TensorProto:
    """Initializer of the stored integers q: in [0, 2^bits - 1], or signed at 8 bits.

    Several to a byte with the first in the low bits, row-major, zero padded at the end. Raises
    ValueError when a value does not fit.
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
    """The integers that `packed` stored."""
    store = next(s for s in STORAGE.values() if s.element == tensor.data_type)
    if store.per_byte == 1:
        return np.frombuffer(tensor.raw_data, np.int8).reshape(tuple(tensor.dims))
    width = 8 // store.per_byte
    shifts = np.arange(store.per_byte, dtype=np.uint8) * width
    codes = np.frombuffer(tensor.raw_data, np.uint8)[:, None] >> shifts & (2**width - 1)
    return codes.ravel()[: int(np.prod(tensor.dims))].reshape(tuple(tensor.dims)).astype(np.uint8)


def dequantized(
    name: str,
    q: NDArray[np.integer],
    zero: NDArray[np.integer],
    step: NDArray[np.floating],
    bits: int,
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """(nodes, initializers, output name) that give the float kernel (q - zero) * step.

    q (c_out, c_in, k, k); zero and step (c_out,).
    """
    stored = packed(f"{name}.q", q, bits)
    shape = (len(step), 1, 1, 1)
    tensors = [
        stored,
        onnx.numpy_helper.from_array(step.astype(np.float32).ravel(), f"{name}.step"),
        onnx.numpy_helper.from_array(np.zeros(len(step), np.int8), f"{name}.none"),
    ]
    nodes, source = [], stored.name
    if bits < 8:
        z = zero.astype(np.int8).reshape(shape)
        tensors.append(onnx.numpy_helper.from_array(z, f"{name}.zero"))
        nodes.append(helper.make_node("Cast", [source], [f"{name}.wide"], to=TensorProto.INT8))
        nodes.append(helper.make_node("Sub", [f"{name}.wide", f"{name}.zero"], [f"{name}.int"]))
        source = f"{name}.int"
    inputs = [source, f"{name}.step", f"{name}.none"]
    nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.w"], axis=0))
    return nodes, tensors, f"{name}.w"


def unsigned(
    name: str, q: NDArray[np.integer], zero: NDArray[np.integer], bits: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """(nodes, initializers, output name) that give the uint8 kernel q - zero + MIDDLE.

    q (c_out, c_in, k, k); zero (c_out,). At 8 bits it is stored like that.
    """
    shift = MIDDLE - zero.reshape(-1, 1, 1, 1)
    if bits == 8:
        whole = (q + shift).astype(np.uint8)
        return [], [onnx.numpy_helper.from_array(whole, f"{name}.q")], f"{name}.q"
    tensors = [
        packed(f"{name}.q", q, bits),
        onnx.numpy_helper.from_array(shift.astype(np.uint8), f"{name}.shift"),
    ]
    nodes = [
        helper.make_node("Cast", [f"{name}.q"], [f"{name}.wide"], to=TensorProto.UINT8),
        helper.make_node("Add", [f"{name}.wide", f"{name}.shift"], [f"{name}.w"]),
    ]
    return nodes, tensors, f"{name}.w"
