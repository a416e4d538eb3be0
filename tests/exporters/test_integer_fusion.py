"""Checks that a convolution left in float is named, with what keeps it there."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantnas.exporters import integer_fusion, verification
from quantnas.exporters.graph_index import wired

KERNEL = np.arange(-18, 18).reshape(4, 1, 3, 3)


class Draft:
    """A graph of two 3x3 convolutions in a row, 1 -> 4 -> 4 channels, that a test may spoil."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.constant("step", 0.02, np.float32)
        self.constant("zero", 0, np.uint8)
        self.rounded("x", "x.grid")
        self.layer("first", "x.grid", KERNEL, 1)
        self.layer("second", "first.grid", np.tile(KERNEL, (1, 4, 1, 1)), 4)

    def constant(self, name: str, value, dtype) -> str:
        self.tensors[name] = numpy_helper.from_array(np.array(value, dtype), name)
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def rounded(self, source: str, name: str) -> None:
        self.add("QuantizeLinear", [source, "step", "zero"], f"{name}.q")
        self.add("DequantizeLinear", [f"{name}.q", "step", "zero"], name)

    def layer(self, name: str, source: str, kernel, c_in: int) -> None:
        self.constant(f"{name}.q", kernel, np.int8)
        self.constant(f"{name}.step", np.full(4, 0.01), np.float32)
        self.constant(f"{name}.none", np.zeros(4), np.int8)
        inputs = [f"{name}.q", f"{name}.step", f"{name}.none"]
        self.add("DequantizeLinear", inputs, f"{name}.w", axis=0)
        self.add("Conv", [source, f"{name}.w"], f"{name}.out", pads=[1, 1, 1, 1], name=name)
        self.rounded(f"{name}.out", f"{name}.grid")

    def node(self, output: str) -> onnx.NodeProto:
        (found,) = (node for node in self.nodes if node.output[0] == output)
        return found

    def between(self, kind: str, source: str, reader: str, **attributes) -> None:
        """Insert an operator in front of the first input of the node that makes `reader`."""
        at = self.nodes.index(self.node(reader))
        self.nodes.insert(at, helper.make_node(kind, [source], [f"{reader}.new"], **attributes))
        self.node(reader).input[0] = f"{reader}.new"

    def model(self, opset: int = 21) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", c, "h", "w"])
            for name, c in (("x", 1), ("second.grid", 4))
        ]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], [*self.tensors.values()])
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )


def leaky(draft: Draft) -> None:
    draft.between("LeakyRelu", "first.out", "first.grid.q", alpha=0.1)


def clipped(draft: Draft) -> None:
    low, high = draft.constant("low", 0.1, np.float32), draft.constant("high", 0.4, np.float32)
    draft.between("Clip", "first.out", "first.grid.q")
    draft.node("first.grid.q.new").input.extend([low, high])


def relu_off_zero(draft: Draft) -> None:
    draft.constant("middle", 128, np.uint8)
    for name in ("first.grid.q", "first.grid"):
        draft.node(name).input[2] = "middle"
    draft.between("Relu", "first.out", "first.grid.q")


def not_rounded(draft: Draft) -> None:
    draft.nodes.remove(draft.node("first.grid.q"))
    draft.nodes.remove(draft.node("first.grid"))
    draft.node("second.out").input[0] = "first.out"


def read_twice(draft: Draft) -> None:
    end = draft.node("second.grid")
    end.output[0] = "inside"
    draft.add("GlobalAveragePool", ["first.out"], "mean")
    draft.add("Add", ["inside", "mean"], "second.grid")


def per_channel(draft: Draft) -> None:
    draft.constant("steps", [0.02] * 4, np.float32)
    draft.constant("zeros", [0] * 4, np.uint8)
    for name in ("first.grid.q", "first.grid"):
        draft.node(name).input[1:] = ["steps", "zeros"]


def float_kernel(draft: Draft) -> None:
    draft.node("first.out").input[1] = draft.constant("kernel", KERNEL, np.float32)


def float_input(draft: Draft) -> None:
    draft.node("first.out").input[0] = "x"


def four_bits(draft: Draft) -> None:
    draft.tensors["first.q"] = helper.make_tensor(
        "first.q", TensorProto.INT4, KERNEL.shape, np.clip(KERNEL, -8, 7).ravel()
    )
    draft.tensors["first.none"] = helper.make_tensor("first.none", TensorProto.INT4, [4], [0] * 4)


def blocks(draft: Draft) -> None:
    kernel = np.arange(-72, 72).reshape(4, 4, 3, 3)
    draft.constant("second.q", kernel, np.int8)
    draft.constant("second.step", np.full((4, 2, 3, 3), 0.01), np.float32)
    draft.constant("second.none", np.zeros((4, 2, 3, 3)), np.int8)
    old = draft.node("second.w")
    new = helper.make_node("DequantizeLinear", old.input, old.output, axis=1, block_size=2)
    draft.nodes[draft.nodes.index(old)] = new


BROKEN = {
    leaky: ("first", "its output is read by LeakyRelu, not by a QuantizeLinear"),
    clipped: ("first", "Clip between it and its QuantizeLinear"),
    relu_off_zero: ("first", "Relu between it and its QuantizeLinear"),
    read_twice: ("first", "its output is not read by one QuantizeLinear alone"),
    float_input: ("first", "no DequantizeLinear before its input, but x"),
    four_bits: ("first", "a DequantizeLinear directly on its weights in int4"),
}
REFUSED = {
    per_channel: ("first", "the QuantizeLinear behind it has a step for every channel"),
    float_kernel: ("first", "no DequantizeLinear before its weights, but stored float"),
    blocks: ("second", "its weights have a step for every block"),
}
"""Damages that not every version of ONNX Runtime leaves in float: some versions round the weights,
or fail when they run the file."""


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_what_is_left_in_float_is_named_with_the_reason(spoil, tmp_path):
    draft, path = Draft(), tmp_path / "m.onnx"
    spoil(draft)
    onnx.save(draft.model(), path)
    onnx.checker.check_model(path, full_check=True)
    name, reason = BROKEN[spoil]
    assert integer_fusion.in_float(onnx.load(path), verification.optimised(path)) == {name: reason}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_other_reasons_are_read_from_the_graph(spoil):
    draft = Draft()
    spoil(draft)
    name, reason = REFUSED[spoil]
    wiring = wired(draft.model())
    found = {k: [*integer_fusion.reasons(wiring, conv)] for k, conv in wiring.convolutions.items()}
    assert {k: texts for k, texts in found.items() if texts} == {name: [reason]}


def test_all_that_is_affected_is_named(tmp_path):
    draft, path = Draft(), tmp_path / "m.onnx"
    not_rounded(draft)
    onnx.save(draft.model(), path)
    assert integer_fusion.in_float(onnx.load(path), verification.optimised(path)) == {
        "first": "its output is read by Conv, not by a QuantizeLinear",
        "second": "no DequantizeLinear before its input, but Conv",
    }


def test_nothing_is_said_of_a_sound_graph(tmp_path):
    draft, path = Draft(), tmp_path / "m.onnx"
    draft.between("Relu", "first.out", "first.grid.q")  # its grid starts at 0
    onnx.save(draft.model(), path)
    model = onnx.load(path)
    assert integer_fusion.in_float(model, verification.optimised(path)) == {}
    for conv in wired(model).convolutions.values():
        assert [*integer_fusion.reasons(wired(model), conv)] == []
