"""Checks that third-party networks run in integers from end to end, and equal their networks."""

import collections

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from quantnas.architectures import cost, imported_onnx, network, onnx_survey, registry
from quantnas.config import genotype
from quantnas.config.run_config import ExportConfig
from quantnas.config.search_space import Precision
from quantnas.exporters import graph_surgery, node_forms, verification
from quantnas.onnx_import.onnx_session import open_session
from quantnas.quantization import equalisation, post_training
from tests.onnx_import.chain_networks import KINDS, file_of, in_float, space_of

pytestmark = pytest.mark.filterwarnings("ignore")


PLAIN, USUAL = Precision(8, 8), ExportConfig()


def written(space, low, folder, bits=PLAIN, carried=None, form=USUAL):
    """(file, frozen network) at these bits; carried: None = all tensors that can be."""
    found, names = onnx_survey.genotype(space), imported_onnx.carried(space)
    names = names if carried is None else carried
    precision = genotype.uniform_precision(registry.slots(space), bits.weights, bits.activations)
    teacher = in_float(space)
    if names:
        equalisation.equalise(teacher, names, precision, low)
    net = network.build(space, found, precision, names)
    network.inherit(net, teacher)
    network.initialise(net, low)
    post_training.correct_biases(net, teacher, low)
    frozen, path = post_training.freeze(net), folder / "out.onnx"
    totals = cost.network_cost(space, found, precision)
    graph_surgery.to_onnx(frozen, totals, space, path, form)
    return path, frozen


def verified(path, net):
    rng = np.random.default_rng(0)
    return verification.verify(path, net, [rng.integers(0, 256, (21, 30, 3), np.uint8)])


def operators(path):
    return collections.Counter(n.op_type for n in verification.optimised(path).graph.node)


@pytest.mark.parametrize("kind", KINDS)
def test_every_convolution_is_one_in_integers(kind, tmp_path, pixels):
    path, net = written(space_of(kind, tmp_path), pixels(4, 24, 20), tmp_path)
    found = verified(path, net)
    assert found.integer_convolutions == found.convolutions and not found.slower
    kinds = operators(path)
    assert kinds["QLinearConv"] == found.convolutions and not kinds["ConvInteger"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("relu6", Precision(4, 4)),
        ("attention", Precision(2, 8)),
        ("rows", Precision(3, 4)),
        *(
            pytest.param(kind, Precision(*bits), marks=SLOW)
            for kind in ("relu", "relu6", "attention", "branches", "rows")
            for bits in ((4, 4), (2, 8), (3, 4))
        ),
    ],
)
def test_fewer_bits_are_chains_too(kind, bits, tmp_path, pixels):
    path, net = written(space_of(kind, tmp_path), pixels(4, 24, 20), tmp_path, bits)
    found = verified(path, net)
    assert found.integer_convolutions == found.convolutions == operators(path)["QLinearConv"]


INTEGERS = {
    "relu": {"QLinearAdd"},
    "relu6": {"QLinearAdd"},
    "leaky_relu": {"QLinearLeakyRelu", "QLinearAdd"},
    "silu": {"QLinearSigmoid", "QLinearMul", "QLinearAdd"},
    "attention": {"QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearMul", "QLinearAdd"},
    "branches": {"QLinearConcat", "QLinearLeakyRelu", "NhwcMaxPool"},
}
FLOAT = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Concat", "ReduceMean", "MaxPool", "PRelu"}


@pytest.mark.parametrize("kind", INTEGERS)
def test_what_stands_between_them_is_in_integers(kind, tmp_path, pixels):
    path, _ = written(space_of(kind, tmp_path), pixels(4, 24, 20), tmp_path)
    kinds = operators(path)
    assert INTEGERS[kind] <= kinds.keys()
    assert not (FLOAT - {"Concat"} if kind == "branches" else FLOAT) & kinds.keys()


@pytest.mark.parametrize("form", [ExportConfig(compat=True), ExportConfig(plain=True)])
def test_other_forms_are_chains_too(form, tmp_path, pixels):
    space, low = space_of("attention", tmp_path), pixels(4, 24, 20)
    found = verified(*written(space, low, tmp_path, Precision(2, 8), form=form))
    assert found.integer_convolutions == found.convolutions and not found.slower


@pytest.mark.parametrize(("side", "padding", "more"), [(9, 4, 1), (4, 1, 0), (6, 2, 0), (5, 2, 1)])
def test_transposed_convolutions_of_any_padding_are_in_integers(
    side, padding, more, tmp_path, pixels
):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 3, side, 2, padding, more)
    )
    space = file_of(net, tmp_path / "up.onnx")
    assert registry.slots(space)[1].up == 2
    path, frozen = written(space, pixels(4, 24, 20), tmp_path)
    low = pixels(1, 15, 22)
    with torch.no_grad():
        torch.testing.assert_close(in_float(space)(low), net(low), rtol=0, atol=1e-5)
    found = verified(path, frozen)
    assert found.integer_convolutions == found.convolutions == 2 and not found.slower


def test_a_clip_is_in_the_file_where_no_grid_replaces_it(tmp_path, pixels):
    space = space_of("relu6", tmp_path)
    for bits in (Precision(8, 8), Precision(4, 4)):
        verified(*written(space, pixels(4, 24, 20), tmp_path, bits, carried=()))


def test_some_tensors_may_stay_in_float(tmp_path, pixels):
    space = space_of("leaky_relu", tmp_path)
    names = imported_onnx.carried(space)
    for kept in (names[:3], names[::2], names[-1:]):
        path, net = written(space, pixels(4, 24, 20), tmp_path, carried=kept)
        found = verified(path, net)
        assert found.integer_convolutions == found.convolutions
    path, net = written(space, pixels(4, 24, 20), tmp_path, carried=())
    found = verified(path, net)
    assert operators(path)["ConvInteger"] == found.convolutions == len(found.slower)
    assert found.slower["tail"] == "its output is in float, for DepthToSpace"


def test_names_of_input_and_output_and_of_layers_stay(tmp_path, pixels):
    space = space_of("prelu", tmp_path)
    path, _ = written(space, pixels(4, 24, 20), tmp_path)
    before, after = onnx.load(space.source).graph, onnx.load(path).graph
    assert [v.name for v in after.input] == [v.name for v in before.input]
    assert [v.name for v in after.output] == [v.name for v in before.output]
    layers = {slot.name for slot in registry.slots(space)}
    assert {n.name for n in after.node if n.op_type == "Conv"} >= layers


def model_of(node, constants=(), shape=(1, 4, 5, 6)):
    """A model with a single node from x to y, at opset 17."""
    known = [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)], known,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rewritten(model):
    known = node_forms.facts(model)
    return [n.op_type for node in model.graph.node for n in node_forms.faster(node, known)]


@pytest.mark.parametrize("slopes", [[0.2, -1.0, 1.0, 0.0], [0.2, 1.5, 0.1, 0.0]])
def test_prelu_has_a_faster_form_with_the_same_result(slopes):
    slopes = np.array(slopes, np.float32).reshape(4, 1, 1)
    model = model_of(helper.make_node("PRelu", ["x", "s"], ["y"]), {"s": slopes})
    assert ("Max" in rewritten(model)) == (slopes.max() <= 1) and "PRelu" not in rewritten(model)
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    (expected,) = open_session(model.SerializeToString()).run(None, {"x": x})
    nodes = [*node_forms.faster(model.graph.node[0], node_forms.facts(model))]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (found,) = open_session(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "keepdims", "shape", "kinds"),
    [
        ([2, 3], 1, (1, 4, 5, 6), ["GlobalAveragePool"]),
        ([-1, -2], 1, (1, 4, 5, 6), ["GlobalAveragePool"]),
        ([2, 3], 0, (1, 4, 5, 6), ["ReduceMean"]),
        ([1], 1, (1, 4, 5, 6), ["ReduceMean"]),
        ([2, 3], 1, (1, 4, 5, 6, 7), ["ReduceMean"]),
    ],
)
def test_means_over_images_are_poolings(axes, keepdims, shape, kinds):
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=keepdims)
    assert rewritten(model_of(node, shape=shape)) == kinds
