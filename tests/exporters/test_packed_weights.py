"""Checks how low-bit integers are packed, against ONNX's own packing."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantnas.exporters import packed_weights
from quantnas.exporters.onnx_graph import OnnxGraph
from quantnas.nn.quantizers import BITS

RANGE = {2: (0, 3), 3: (0, 7), 4: (0, 15), 8: (-128, 127)}
SHAPES = [(1,), (3,), (4,), (5, 1, 1, 1), (3, 3, 1, 1), (7, 5, 3, 3), (4, 2, 5, 5), (0,)]


def integers(bits: int, shape: tuple[int, ...]) -> np.ndarray:
    low, high = RANGE[bits]
    return np.random.default_rng(0).integers(low, high + 1, shape)


@pytest.mark.parametrize("bits", BITS)
def test_every_integer_comes_back(bits):
    low, high = RANGE[bits]
    q = np.arange(low, high + 1)
    assert np.array_equal(packed_weights.unpacked(packed_weights.packed("w", q, bits)), q)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", BITS)
def test_every_size_comes_back_and_takes_its_bytes(bits, shape):
    q = integers(bits, shape)
    tensor = packed_weights.packed("w", q, bits)
    found = packed_weights.unpacked(tensor)
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
    ours, theirs = (
        packed_weights.packed("w", q, bits),
        numpy_helper.from_array(q.astype(dtype), "w"),
    )
    assert ours.data_type == theirs.data_type == element
    assert ours.SerializeToString() == theirs.SerializeToString()
    assert np.array_equal(numpy_helper.to_array(ours).astype(int), q)


@pytest.mark.parametrize("bits", BITS)
def test_integers_that_do_not_fit_are_refused(bits):
    low, high = RANGE[bits]
    for value in (low - 1, high + 1, 1000):
        with pytest.raises(ValueError, match="kernel7"):
            packed_weights.packed("kernel7", np.array([low, value]), bits)


def computed(graph: OnnxGraph, name: str, opset: int, shape, dtype) -> np.ndarray:
    """Value that the nodes of a graph compute."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    out = helper.make_tensor_value_info(name, kind, shape)
    tensors = list(graph.tensors.values())
    made = helper.make_graph(graph.nodes, "g", [], [out], tensors)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=13)
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {})
    return found


@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (4, 2, 3, 3), (1, 3, 1, 1)])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_the_nodes_give_the_kernel_back(bits, compat, equal, shape):
    q, graph = integers(bits, shape), OnnxGraph()
    zero = np.random.default_rng(1).integers(0, 2**bits, shape[0])
    zero = np.zeros_like(zero) if bits == 8 else np.full_like(zero, 2) if equal else zero
    opset = 13 if compat else packed_weights.STORAGE[bits].opset
    for signed, kind, offset in ((True, np.int8, 0), (False, np.uint8, 128)):
        args = (q, zero, bits, signed, compat)
        name = packed_weights.integers(graph, f"w{kind.__name__}", *args)
        found = computed(graph, name, opset, shape, kind)
        assert found.dtype == kind and found.shape == shape
        assert np.array_equal(found.astype(int) - offset, q - zero[:, None, None, None])


@pytest.mark.parametrize("bits", BITS)
def test_the_stated_opset_is_the_first_that_knows_the_type(bits):
    store = packed_weights.STORAGE[bits]
    schema = onnx.defs.get_schema("Cast", store.opset, "")
    types = {t for c in schema.type_constraints for t in c.allowed_type_strs}
    name = TensorProto.DataType.Name(store.element).lower()
    assert f"tensor({name})" in types
    if bits < 8:
        older = onnx.defs.get_schema("Cast", store.opset - 1, "")
        assert name not in str([c.allowed_type_strs for c in older.type_constraints])
