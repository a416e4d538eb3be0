"""Checks that a layer which is not stored as the file's metadata state is found."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantnas.architectures import cost, network, registry
from quantnas.architectures.cost import Layer
from quantnas.config import search_space
from quantnas.config.genotype import uniform_precision
from quantnas.config.search_space import Precision
from quantnas.exporters import onnx_export, packed_weights, plain_forms, weight_verification
from quantnas.exporters.graph_index import origin, wired
from quantnas.onnx_import import subgraphs
from quantnas.quantization import post_training


@pytest.fixture
def made(tiny, random_genotype, pixels, tmp_path):
    """Function (weight bits, space, activation bits) -> (model, layers) of a random network."""

    def make(bits: int, space: search_space.SearchSpace = tiny, inputs: int = 8):
        slots = registry.slots(space)
        found = random_genotype(space, 1)
        precision = uniform_precision(slots, bits) | {"smooth": Precision(bits, inputs)}
        net = network.build(space, found, precision)
        network.initialise(net, pixels(1, 24, 24))
        rows = cost.layers(slots, found, precision, space.scale)
        path = tmp_path / "m.onnx"
        onnx_export.to_onnx(
            post_training.freeze(net), cost.total(rows, space.scale), space.scale, path
        )
        return onnx.load(path), rows

    return make


def other(rows: list[Layer], name: str, **changes) -> list[Layer]:
    return [replace(row, **changes) if row.name == name else row for row in rows]


def kernel(model: onnx.ModelProto, layer: str) -> onnx.TensorProto:
    """The stored tensor of a layer's weights."""
    wiring = wired(model)
    return wiring.tensors[origin(wiring, wiring.convolutions[layer].input[1])]


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_a_sound_file_has_no_problems(made, bits):
    model, rows = made(bits)
    assert [*weight_verification.problems(model, rows, 2)] == []


@pytest.mark.parametrize("skeleton_name", ["imdn", "rfdn_published", "edsr"])
@pytest.mark.parametrize("bits", [8, 2])
def test_sums_that_go_on_in_float_are_found_too(made, small, skeleton_name, bits):
    model, rows = made(bits, small[skeleton_name])
    assert any(node.op_type == "ConvInteger" for node in model.graph.node)
    assert [*weight_verification.problems(model, rows, small[skeleton_name].scale)] == []


def test_a_transposed_convolution_is_stored_in_parts(made):
    model, rows = made(8, replace(search_space.load("fsrcnn"), channels=4, cells=1))
    assert rows[-1].op == "transposed9x9"
    assert kernel(model, "upsample").dims == [4, 4, 5, 5]
    assert [*weight_verification.problems(model, rows, 2)] == []


def test_metadata_that_claim_2_bits_for_4_are_found_out(made):
    model, rows = made(4)
    (problem,) = weight_verification.problems(model, other(rows, "smooth", weight_bits=2), 2)
    assert problem.startswith("'smooth' holds 576 x uint4, but 2 bits per weight are stated: 576 x")


def test_3_bits_that_use_more_than_8_levels_are_found_out(made):
    model, rows = made(3)
    assert [*weight_verification.problems(model, other(rows, "smooth", weight_bits=4), 2)] == []
    tensor = kernel(model, "smooth")
    tensor.raw_data = bytes([0xF0]) + tensor.raw_data[1:]
    assert [*weight_verification.problems(model, rows, 2)] == [
        "'smooth' spans 16 levels, but 3 bits per weight are stated"
    ]


def test_weights_stored_unpacked_are_found_out(made):
    model, rows = made(4)
    tensor = kernel(model, "smooth")
    wide = packed_weights.unpacked(tensor).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    assert [*weight_verification.problems(model, rows, 2)] == [
        "'smooth' holds 576 x int8, but 4 bits per weight are stated: 576 x uint4"
    ]


def test_another_shape_is_found_out(made):
    model, rows = made(8)
    turned = other(rows, "smooth", shape=(8, 8, 1, 9))
    assert [*weight_verification.problems(model, turned, 2)] == [
        "'smooth' unpacks to (8, 8, 3, 3), but (8, 8, 1, 9) is stated"
    ]
    (problem,) = weight_verification.problems(model, other(rows, "smooth", shape=(8, 4, 3, 3)), 2)
    assert "576 x int8" in problem and "288 x int8" in problem


@pytest.mark.parametrize("bits", [8, 3, 2])
def test_one_weight_that_is_off_by_one_level_is_found_out(made, bits):
    model, rows = made(bits)
    layers = plain_forms.plain(model)
    wanted = weight_verification.unpacked(layers, wired(layers), ["smooth", "fuse"])
    assert [*weight_verification.problems(model, rows, 2, wanted)] == []
    tensor = kernel(model, "smooth")
    first, *others = tensor.raw_data
    tensor.raw_data = bytes([first ^ 1, *others])
    assert [*weight_verification.problems(model, rows, 2, wanted)] == [
        "'smooth' has 1 of 576 weights other than the network"
    ]


@pytest.mark.parametrize(("bits", "stated"), [(4, 8), (8, 4), (4, 2)])
def test_activations_in_other_bits_are_found_out(made, bits, stated):
    model, rows = made(4, inputs=bits)
    assert [*weight_verification.problems(model, rows, 2)] == []
    assert [*weight_verification.problems(model, other(rows, "smooth", act_bits=stated), 2)] == [
        f"'smooth' reads {bits} bits, but {stated} bits per activation are stated"
    ]


def test_layers_of_one_side_only_are_found_out(made):
    model, rows = made(8)
    assert [*weight_verification.problems(model, rows[1:], 2)] == ["'head' is in the graph only"]
    more = [*rows, replace(rows[0], name="tail")]
    assert [*weight_verification.problems(model, more, 2)] == ["'tail' is in the metadata only"]


# Bytes with a table of what each of them holds


def table_model(q: np.ndarray, bits: int) -> onnx.ModelProto:
    """A file of a convolution whose weights are looked up byte by byte and cut to length."""
    per_byte = 8 // bits
    flat = np.pad(q.ravel(), (0, -q.size % per_byte)).reshape(-1, per_byte)
    packs = (flat << (np.arange(per_byte) * bits)).sum(1).astype(np.uint8)
    table = np.arange(256)[:, None] >> (np.arange(per_byte) * bits) & (2**bits - 1)
    tensors = {
        "packs": packs, "table": table.astype(np.int8), "flat": np.array([-1]),
        "begin": np.array([0]), "end": np.array([q.size]), "shape": np.array(q.shape),
        "zero": np.full((len(q), 1, 1, 1), 2, np.int8), "none": np.zeros(len(q), np.int8),
        "step": np.ones(len(q), np.float32),
    }  # fmt: skip
    nodes = [
        ("Cast", ["packs"], "at", {"to": TensorProto.INT32}),
        ("Gather", ["table", "at"], "levels", {}),
        ("Reshape", ["levels", "flat"], "all", {}),
        ("Slice", ["all", "begin", "end"], "used", {}),
        ("Reshape", ["used", "shape"], "shaped", {}),
        ("Cast", ["zero"], "zero8", {"to": TensorProto.INT8}),
        ("Sub", ["shaped", "zero8"], "integers", {}),
        ("DequantizeLinear", ["integers", "step", "none"], "w", {"axis": 0}),
        ("Conv", ["lr", "w"], "sr", {"name": "only"}),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("lr", "sr")]
    graph = helper.make_graph(
        [helper.make_node(kind, i, [o], **more) for kind, i, o, more in nodes],
        "g", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_bytes_are_followed_through_their_table(bits):
    q = np.random.default_rng(0).integers(0, 2**bits, (3, 1, 3, 1))
    row = Layer("only", "conv3x1", q.shape, bits, 8, "low", 0, 0)
    model = table_model(q, bits)
    assert kernel(model, "only").name == "packs"
    found = subgraphs.constants(model, ["integers"])
    assert np.array_equal(found["integers"], q - 2)
    assert [*weight_verification.problems(model, [row], 2)] == []
    (problem,) = weight_verification.problems(model, [replace(row, weight_bits=6 - bits)], 2)
    assert problem.startswith(f"'only' holds {-(-9 * bits // 8)} x uint8, but {6 - bits} bits")


def test_a_float_kernel_is_what_32_bits_state():
    nodes = [helper.make_node("Conv", ["lr", "w"], ["sr"], name="only")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("lr", "sr")]
    w = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [w]))
    row = Layer("only", "conv1x1", (2, 3, 1, 1), 32, 32, "low", 0, 0)
    assert [*weight_verification.problems(model, [row], 2)] == []
    for bits in (2, 8):
        (problem,) = weight_verification.problems(model, [replace(row, weight_bits=bits)], 2)
        assert "'only' holds 6 x float" in problem
