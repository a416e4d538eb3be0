"""Checks how low-bit integers are packed, against ONNX's own packing."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantnas import onnx_weights
from quantnas.quantizer import BITS

RANGE = {2: (0, 3), 3: (0, 7), 4: (0, 15), 8: (-128, 127)}
SHAPES = [(1,), (3,), (4,), (5, 1, 1, 1), (3, 3, 1, 1), (7, 5, 3, 3), (4, 2, 5, 5), (0,)]


def integers(bits: int, shape: tuple[int, ...]) -> np.ndarray:
    low, high = RANGE[bits]
    return np.random.default_rng(0).integers(low, high + 1, shape)


@pytest.mark.parametrize("bits", BITS)
def test_every_integer_comes_back(bits):
    low, high = RANGE[bits]
    q = np.arange(low, high + 1)
    assert np.array_equal(onnx_weights.unpacked(onnx_weights.packed("w", q, bits)), q)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", BITS)
def test_every_size_comes_back_and_takes_its_bytes(bits, shape):
    q = integers(bits, shape)
    tensor = onnx_weights.packed("w", q, bits)
    found = onnx_weights.unpacked(tensor)
    assert found.shape == shape and np.array_equal(found, q)
    stored = {2: 2, 3: 4, 4: 4, 8: 8}[bits]
    assert len(tensor.raw_data) == -(-q.size * stored // 8)
    assert tensor.name == "w"


@pytest.mark.parametrize("shape", SHAPES[:-1])
@pytest.mark.parametrize(
    ("bits", "dtype", "element"),
    [
        (2, ml_dtypes.uint2, TensorProto.UINT2),
        (3, ml_dtypes.uint4, TensorProto.UINT4),
        (4, ml_dtypes.uint4, TensorProto.UINT4),
        (8, np.int8, TensorProto.INT8),
    ],
)
def test_the_bytes_are_those_of_onnx_itself(bits, dtype, element, shape):
    q = integers(bits, shape)
    ours, theirs = onnx_weights.packed("w", q, bits), numpy_helper.from_array(q.astype(dtype), "w")
    assert ours.data_type == theirs.data_type == element
    assert ours.SerializeToString() == theirs.SerializeToString()
    assert np.array_equal(numpy_helper.to_array(ours).astype(int), q)


@pytest.mark.parametrize("bits", BITS)
def test_integers_that_do_not_fit_are_refused(bits):
    low, high = RANGE[bits]
    for value in (low - 1, high + 1, 1000):
        with pytest.raises(ValueError, match="kernel7"):
            onnx_weights.packed("kernel7", np.array([low, value]), bits)


def computed(nodes, tensors, name: str, element: int, bits: int) -> np.ndarray:
    """What the nodes give, (3, 5, 3, 3)."""
    out = helper.make_tensor_value_info(name, element, (3, 5, 3, 3))
    graph = helper.make_graph(nodes, "g", [], [out], tensors)
    store = onnx_weights.STORAGE[bits]
    opsets = [helper.make_opsetid("", max(21, store.opset))]  # 21: the reference knows it
    model = helper.make_model(graph, opset_imports=opsets, ir_version=store.ir_version)
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {})
    return found


def kernel(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(q, zero points)"""
    zero = np.random.default_rng(1).integers(0, 2**bits, 3)
    return integers(bits, (3, 5, 3, 3)), np.zeros(3, int) if bits == 8 else zero


@pytest.mark.parametrize("bits", BITS)
def test_the_nodes_give_the_kernel_back(bits):
    (q, zero), step = kernel(bits), np.random.default_rng(2).random(3).astype(np.float32)
    nodes, tensors, name = onnx_weights.dequantized("w", q, zero, step, bits)
    wanted = (q - zero[:, None, None, None]).astype(np.float32) * step[:, None, None, None]
    assert np.array_equal(computed(nodes, tensors, name, TensorProto.FLOAT, bits), wanted)


@pytest.mark.parametrize("bits", BITS)
def test_the_nodes_give_the_kernel_back_in_uint8(bits):
    q, zero = kernel(bits)
    nodes, tensors, name = onnx_weights.unsigned("w", q, zero, bits)
    found = computed(nodes, tensors, name, TensorProto.UINT8, bits)
    assert found.dtype == np.uint8
    assert np.array_equal(found.astype(int) - 128, q - zero[:, None, None, None])


@pytest.mark.parametrize("bits", BITS)
def test_the_stated_opset_is_the_first_that_knows_the_type(bits):
    store = onnx_weights.STORAGE[bits]
    schema = onnx.defs.get_schema("Cast", store.opset, "")
    types = {t for c in schema.type_constraints for t in c.allowed_type_strs}
    name = TensorProto.DataType.Name(store.element).lower()
    assert f"tensor({name})" in types
    if bits < 8:
        older = onnx.defs.get_schema("Cast", store.opset - 1, "")
        assert name not in str([c.allowed_type_strs for c in older.type_constraints])
