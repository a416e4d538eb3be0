import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantnas.errors import DataError
from quantnas.onnx_import import subgraphs
from quantnas.onnx_import.onnx_session import cannot_load, open_session


def model() -> onnx.ModelProto:
    """A graph of sr = lr + (a + b) * Constant, with another node whose output nothing reads."""
    nodes = [
        helper.make_node("Constant", [], ["c"], value_float=2.0),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Mul", ["sum", "c"], ["product"]),
        helper.make_node("Add", ["lr", "product"], ["sr"]),
        helper.make_node("Neg", ["lr"], ["unread"]),
    ]
    low, high = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("lr", "sr"))
    tensors = [numpy_helper.from_array(np.float32([1, 2, 3]), name) for name in ("a", "b")]
    graph = helper.make_graph(nodes, "g", [low], [high], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def outputs(nodes: list[onnx.NodeProto]) -> list[str]:
    return [node.output[0] for node in nodes]


def test_what_a_tensor_needs():
    nodes, names = subgraphs.needed(model().graph.node, ["product"])
    assert outputs(nodes) == ["c", "sum", "product"]
    assert names == {"a", "b", "c", "sum", "product"}


def test_a_node_reads_what_its_own_graphs_read():
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "then", [], [])
    node = helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner)
    assert subgraphs.inputs(node) == {"condition", "x"}


def test_constant_nodes_are_told_apart():
    constant, others = subgraphs.parted(model().graph.node, ["a", "b"])
    assert outputs(constant) == ["c", "sum", "product"]
    assert outputs(others) == ["sr", "unread"]


def test_constants_are_read_or_computed():
    found = subgraphs.constants(model(), ["product", "a", "product"])
    assert set(found) == {"product", "a"}
    assert np.array_equal(found["product"], [4, 8, 12])
    assert np.array_equal(found["a"], [1, 2, 3])
    assert subgraphs.constants(model(), []) == {}


def test_a_session_runs_a_file_and_its_bytes_alike(tmp_path):
    path = tmp_path / "a.onnx"
    onnx.save(model(), path)
    low = np.float32([1, 1, 1])
    for run in (
        open_session(path),
        open_session(path.read_bytes(), threads=1, optimise=False, spinning=False),
    ):
        assert np.array_equal(run.run(None, {"lr": low})[0], [5, 9, 13])


def test_what_is_no_file_is_named():
    with pytest.raises(Exception, match="protobuf") as caught:
        open_session(b"nothing", log_severity_level=4)
    error = cannot_load("the file", caught.value)
    assert isinstance(error, DataError) and "cannot load the file" in error.cause
