"""Checks that files of few bytes cannot take gigabytes, and that damaged ones are told."""

import resource
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from quantnas.architectures import onnx_survey
from quantnas.errors import DataError
from quantnas.exporters.onnx_metadata import METADATA_KEY
from quantnas.onnx_import import file_limits, file_reader, subgraphs
from quantnas.runs import models

CASES = Path(__file__).parents[1] / "cases" / "onnx"
REASONS = {
    "constant_of_3gb": "more than 512 MB",
    "constant_of_12gb": "more than 512 MB",
    "folded_4gb": "more than 512 MB",
    "function_bomb": "33,554,439 operators",
    "recursive_function": "calls itself",
    "input_value_error": "an unknown type",
    "output_type_error": "no UTF-8",
}


def peak() -> int:
    """Memory that this process has taken at most, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", REASONS)
def test_a_hostile_file_is_refused_in_little_memory(name):
    before = peak()
    with pytest.raises(DataError, match=REASONS[name]):
        onnx_survey.survey(CASES / f"{name}.onnx")
    assert peak() - before < 3e8


@pytest.mark.parametrize("name", ["constant_of_3gb", "function_bomb"])
def test_metadata_of_this_project_are_no_way_around_it(tmp_path, name):
    model = onnx.load(CASES / f"{name}.onnx")
    text = '{"version":"0","scale":2,"layers":"a conv3x3 8x3x3x3 8 8 low"}'
    helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, tmp_path / "m.onnx")
    before = peak()
    with pytest.raises(DataError, match=REASONS[name]):
        models.resolve(str(tmp_path / "m.onnx"))
    assert peak() - before < 3e8


def chain(count: int) -> onnx.ModelProto:
    """A model that makes a constant of `count` floats and sums it."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [count])
    result = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "g", [], [result], [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_constants_within_the_limit_are_computed_as_before():
    assert subgraphs.constants(chain(1000), ["sum"])["sum"] == 0
    with pytest.raises(DataError, match="512 MB"):
        subgraphs.constants(chain(10**9), ["sum"])
    assert subgraphs.constants(chain(1000), ["sum"])["sum"] == 0


def test_functions_are_counted_with_those_that_they_call(tmp_path):
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    inner = helper.make_function(
        "f", "g", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opset
    )
    calls = [helper.make_node("g", [f"x{i}"], [f"x{i + 1}"], domain="f") for i in range(10)]
    outer = helper.make_function("f", "h", ["x0"], ["x10"], calls, opset)
    model = chain(3)
    model.functions.extend([inner, outer])
    model.graph.node.append(helper.make_node("h", ["large"], ["z"], domain="f"))
    file_limits.require_few_nodes(model, tmp_path)
    model.graph.node.extend(model.graph.node[-1:] * (file_limits.MOST_NODES // 10))
    with pytest.raises(DataError, match="100,012 operators"):
        file_limits.require_few_nodes(model, tmp_path)


def test_names_that_are_no_text_are_told(tmp_path):
    assert file_reader.complete(CASES / "constant_of_3gb.onnx").graph.node
    with pytest.raises(DataError, match="no UTF-8"):
        file_reader.complete(CASES / "output_type_error.onnx")
