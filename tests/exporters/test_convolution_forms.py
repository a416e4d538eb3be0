"""Checks that the quickest form of convolutions gives the same integers and becomes plain again."""

import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantnas.architectures import cost, network, registry
from quantnas.config import search_space
from quantnas.config.genotype import Choice, uniform_precision
from quantnas.config.run_config import ExportConfig
from quantnas.evaluation import float_reference
from quantnas.exporters import (
    convolution_forms,
    convolution_times,
    onnx_export,
    onnx_metadata,
    plain_forms,
    verification,
    weight_verification,
)
from quantnas.exporters.convolution_times import Costs, Shape
from quantnas.exporters.graph_index import wired
from quantnas.exporters.onnx_graph import OnnxGraph
from quantnas.onnx_import.onnx_session import open_session
from quantnas.quantization import post_training

PLAIN = ExportConfig(plain=True)
ANY = ["n", None, None, None]
"""Shape of an image of any size and number of channels."""


@dataclass(frozen=True)
class Conv:
    """A convolution of a test network, which reads the tensor of number `source`."""

    c_in: int
    c_out: int
    side: int = 3
    groups: int = 1
    source: int = -1
    relu: bool = False
    attributes: tuple[tuple[str, object], ...] = ()

    def keywords(self) -> dict[str, object]:
        keywords = {"pads": [self.side // 2] * 4} | dict(self.attributes)
        return keywords | ({"group": self.groups} if self.groups > 1 else {})


def model_of(
    convs: list[Conv], ends: tuple[int, ...] = (-1,), concatenated: bool = False
) -> onnx.ModelProto:
    """A third party's file of rounded convolutions, with the integers of some or all as output."""
    graph, generator, zeros = OnnxGraph(), np.random.default_rng(0), [3, 128, 7]

    def rounded(x: str, name: str, zero: int) -> str:
        at = [
            graph.constant("step", 1 / 16, np.float32),
            graph.constant(f"z{zero}", zero, np.uint8),
        ]
        q = graph.add("QuantizeLinear", [x, *at], f"{name}.q")
        return graph.add("DequantizeLinear", [q, *at], name)

    def parameter(name: str, values, steps, kind) -> str:
        at = graph.constant(f"{name}.steps", steps, np.float32)
        inputs = [graph.constant(f"{name}.q", values, kind), at]
        none = graph.constant(f"{name}.none", np.zeros(len(values)), kind)
        return graph.add("DequantizeLinear", [*inputs, none], name, axis=0)

    tensors = [rounded("x", "input", 3)]
    for k, conv in enumerate(convs):
        shape = (conv.c_out, conv.c_in // conv.groups, conv.side, conv.side)
        steps = np.exp2(generator.integers(-9, -6, conv.c_out))
        weight = parameter(f"w{k}", generator.integers(-100, 101, shape), steps, np.int8)
        sums = generator.integers(-2000, 2000, conv.c_out)
        bias = parameter(f"b{k}", sums, steps / 16, np.int32)
        inputs = [tensors[conv.source], weight, bias]
        graph.add("Conv", inputs, f"c{k}.out", **conv.keywords())
        graph.nodes[-1].name = f"c{k}"
        out = graph.add("Relu", [f"c{k}.out"], f"r{k}") if conv.relu else f"c{k}.out"
        tensors.append(rounded(out, f"t{k}", 0 if conv.relu else zeros[k % 3]))
    outputs = [f"{tensors[k]}.q" for k in ends]
    if concatenated:
        joined = graph.add("Concat", tensors[1:], "joined", axis=1)
        outputs = [rounded(joined, "all", 0) + ".q"]
    made = helper.make_graph(
        graph.nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", convs[0].c_in, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ANY) for name in outputs],
        list(graph.tensors.values()),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def outputs(model: onnx.ModelProto, optimise: bool = True) -> list[np.ndarray]:
    """What a model gives for an image of 13x9 pixels."""
    session = open_session(model.SerializeToString(), threads=1, optimise=optimise)
    (entry,) = session.get_inputs()
    image = np.random.default_rng(1).uniform(0, 1, (2, entry.shape[1], 13, 9))
    image = image * 255 if entry.type == "tensor(uint8)" else image * 4
    kind = np.uint8 if entry.type == "tensor(uint8)" else np.float32
    return [np.asarray(out) for out in session.run(None, {entry.name: image.astype(kind)})]


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def require_equal(plain: onnx.ModelProto, fast: onnx.ModelProto) -> None:
    """Require equal outputs of two forms, and that the quick one becomes the plain one."""
    onnx.checker.check_model(fast, full_check=True)
    wanted, found = outputs(plain), outputs(fast)
    assert all(out.std() > 0.01 for out in wanted)
    assert all(map(np.array_equal, found, wanted)) and len(found) == len(wanted)
    restored = plain_forms.plain(fast)
    onnx.checker.check_model(restored, full_check=True)
    assert [*plain_forms.problems(fast, restored)] == []
    assert all(map(np.array_equal, outputs(restored), wanted))
    made, original = kinds(restored), kinds(plain)
    for kind in ("DequantizeLinear", "Cast"):  # equal ones are there only once now
        del made[kind], original[kind]
    assert made == original
    sizes = [kernel_shapes(model) for model in (restored, plain)]
    assert sizes[0] == sizes[1]


def kernel_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name of each layer -> shape of its stored kernel, as far as no operators unpack it."""
    wiring = wired(model)
    stored = {k: wiring.makers[n.input[1]].input[0] for k, n in wiring.convolutions.items()}
    return {k: tuple(wiring.tensors[q].dims) for k, q in stored.items() if q in wiring.tensors}


CASES = {
    "grouped": [Conv(16, 16, 3, 2)],
    "4 groups": [Conv(16, 32, 5, 4)],
    "depthwise 1x1": [Conv(16, 16, 1, 16), Conv(16, 16)],
    "image": [Conv(3, 16), Conv(16, 16)],
    "outputs": [Conv(16, 12, 5)],
    "one output": [Conv(64, 1)],
    "outputs read by a convolution": [Conv(16, 12), Conv(12, 16)],
    "outputs read by two": [Conv(16, 12), Conv(12, 16), Conv(12, 12, source=1)],
    "outputs read by a grouped one": [Conv(16, 12), Conv(12, 12, 3, 2)],
    "inputs and outputs": [Conv(50, 50), Conv(50, 50), Conv(50, 50, 1)],
    "both": [Conv(12, 12, 3, 2), Conv(12, 12, 5, 4), Conv(12, 27)],
    "ReLU": [Conv(16, 12, 3, 2, relu=True), Conv(12, 12, relu=True)],
    "strided": [Conv(16, 12, 3, 2, attributes=(("strides", [2, 2]),))],
    "dilated": [Conv(16, 12, 3, 1, attributes=(("dilations", [2, 2]), ("pads", [2, 2, 2, 2])))],
    "uneven padding": [Conv(16, 12, 3, 2, attributes=(("pads", [0, 2, 1, 0]),))],
}


@pytest.mark.parametrize("case", CASES)
def test_third_party_convolutions_compute_the_same(case):
    plain = model_of(CASES[case], (2, 3) if case == "outputs read by two" else (-1,))
    fast = convolution_forms.fast(plain)
    assert kinds(fast) != kinds(plain)
    assert not any(a.name == "group" for n in fast.graph.node for a in n.attribute)
    require_equal(plain, fast)
    assert all(map(np.array_equal, outputs(fast, False), outputs(plain)))


def test_filled_channels_are_read_with_zero_weights_by_convolutions_and_cut_for_others():
    chain = [Conv(16, 12), Conv(12, 16)]
    assert kinds(convolution_forms.fast(model_of(chain)))["Slice"] == 0
    for several in ({"ends": (1, 2)}, {"concatenated": True}):
        plain = model_of(chain, **several)
        fast = convolution_forms.fast(plain)
        assert kinds(fast)["Slice"] == 1
        require_equal(plain, fast)


def test_quick_shapes_and_other_operators_are_left_alone():
    convs = [Conv(16, 16), Conv(16, 32, 1), Conv(32, 32, 5), Conv(32, 32, 3, 32)]
    model = model_of(convs)
    assert convolution_forms.fast(model) is model and plain_forms.plain(model) is model
    unsigned = model_of([Conv(16, 12)])
    for tensor in unsigned.graph.initializer:
        if tensor.name == "w0.none":
            tensor.CopyFrom(numpy_helper.from_array(np.full(12, 1, np.int8), tensor.name))
    assert convolution_forms.fast(unsigned) is unsigned


@pytest.mark.parametrize(
    ("shape", "costs", "form"),
    [
        (Shape(16, 16, 9, 2), Costs(), Shape(16, 16, 9)),
        (Shape(128, 128, 9, 4), Costs(), Shape(128, 128, 9, 4)),
        (Shape(256, 256, 9, 2), Costs(), Shape(256, 256, 9, 2)),
        (Shape(64, 64, 9, 64), Costs(), Shape(64, 64, 9, 64)),
        (Shape(16, 12, 25), Costs(), Shape(16, 16, 25)),
        (Shape(64, 3, 9), Costs(), Shape(64, 16, 9)),
        (Shape(16, 8, 1), Costs(), Shape(16, 8, 1)),
        (Shape(3, 16, 1), Costs(), Shape(3, 16, 1)),
        (Shape(3, 16, 9), Costs(fill=convolution_times.FILL_IMAGE), Shape(4, 16, 9)),
        (Shape(12, 16, 9), Costs(available=16), Shape(12, 16, 9)),
        (Shape(12, 16, 9), Costs(available=16, narrow=20), Shape(16, 16, 9)),
        (Shape(50, 50, 9), Costs(), Shape(52, 52, 9)),
        (Shape(190, 190, 9), Costs(), Shape(192, 192, 9)),
    ],
)
def test_the_form_is_the_quickest_of_the_table(shape, costs, form):
    assert convolution_times.best(shape, costs) == form


QUICK = [("tiny", 8), ("rfdn_small", 4), ("fsrcnn", 3), ("tiny", 2)]
SLOW = [
    pytest.param(name, bits, marks=pytest.mark.slow)
    for name in ("tiny", "rfdn_small", "fsrcnn")
    for bits in (8, 4, 3, 2)
    if (name, bits) not in QUICK
]
"""(space, bits of weights) of the networks whose files are compared."""


@pytest.fixture
def write(small, random_genotype, pixels, tmp_path):
    """Function (space, weight bits, activation bits, forms) -> (layers, a model for each form)."""

    def build(name: str, weights: int, activations: int, *forms: ExportConfig):
        space = small[name] if name in small else search_space.load(name, 2)
        slots, genotype = registry.slots(space), random_genotype(space, 4)
        for slot in slots:
            if "conv3x3_groups2" in slot.ops:
                genotype.choices[slot.name] = Choice("conv3x3_groups2", 4, 4)
        precision = uniform_precision(slots, weights, activations)
        net = network.build(space, genotype, precision)
        network.initialise(net, pixels(2, 16, 16, 5))
        rows = cost.layers(slots, genotype, precision, space.scale)
        totals, frozen = cost.total(rows, space.scale), post_training.freeze(net)
        models = []
        for form in forms:
            path = tmp_path / "m.onnx"
            onnx_export.to_onnx(frozen, totals, space.scale, path, form)
            models.append(onnx.load(path))
        return rows, models

    return build


@pytest.mark.parametrize(("name", "weights"), [*QUICK, *SLOW])
def test_files_of_networks_compute_the_same(write, name, weights):
    """The groups of one, and channels that are filled up, read by convolutions and by others."""
    extra = ExportConfig(compat=True, uint8_io=True)
    forms = [PLAIN, ExportConfig(), dataclasses.replace(extra, plain=True), extra]
    rows, models = write(name, weights, 4 if weights == 4 else 8, *forms)
    for plain, fast in (models[:2], models[2:]):
        assert kinds(fast)["Pad"] > 0 and kinds(plain)["Pad"] == 0
        require_equal(plain, fast)
        assert [*weight_verification.problems(fast, rows, 2)] == []


def test_readers_of_a_file_see_the_convolutions_of_its_layers(write, tmp_path):
    rows, (plain, fast, sized) = write(
        "rfdn_small", 4, 8, PLAIN, ExportConfig(), ExportConfig(size="13x9")
    )
    assert "Mul" in kinds(fast) and fast.ByteSize() < plain.ByteSize() + 4000
    references = [float_reference.make(model) for model in (plain, fast)]
    assert kinds(references[0]) == kinds(references[1])
    (tmp_path / "m.onnx").write_bytes(fast.SerializeToString())
    assert onnx_metadata.read_metadata(tmp_path / "m.onnx").cost.layers == tuple(rows)
    optimised = verification.optimised(tmp_path / "m.onnx")
    shapes = {tuple(t.dims) for t in optimised.graph.initializer if len(t.dims) == 4}
    assert {"Mul", "Reshape", "Conv"}.isdisjoint(kinds(optimised)) and (16, 16, 3, 3) in shapes
    known = {value.name for value in sized.graph.value_info}
    assert {name for n in sized.graph.node for name in n.output} <= known | {"sr"}
    ours, theirs = outputs(fast)[0][:, :, :26, :18], outputs(plain)[0][:, :, :26, :18]
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["own groups", "pads"])
def test_a_large_kernel_that_is_not_made_of_the_small_one_is_found_out(write, kind):
    rows, (model,) = write("rfdn_small", 4, 8, ExportConfig())
    operator, rank, size = ("Mul", 4, 4) if kind == "own groups" else ("Pad", 1, 8)
    readers = [node for node in model.graph.node if node.op_type == operator]
    constants = {name for node in readers for name in node.input[1:]}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name in constants and (values.ndim, values.size) == (rank, size):
            spoilt = np.ascontiguousarray(values[::-1] if rank > 1 else np.roll(values, 1))
            tensor.CopyFrom(numpy_helper.from_array(spoilt, tensor.name))
    found = [*weight_verification.problems(model, rows, 2)]
    assert any("has a large kernel that is not made of its own" in problem for problem in found)
