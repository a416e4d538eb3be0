"""Checks the float reference of an exported file: equal weights, nothing rounded."""

import platform
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import uniform_precision
from quantnas.config.run_config import ExportConfig
from quantnas.data import image_files
from quantnas.data.patches import to_tensor
from quantnas.errors import DataError
from quantnas.evaluation import float_reference
from quantnas.exporters import onnx_export
from quantnas.quantization import post_training
from quantnas.runs import bundled_models

PROVIDERS = ["CPUExecutionProvider"]


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)
    (out,) = session.run(None, {"lr": image})
    return np.asarray(out)


def twin_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float reference, after checking that it is valid and rounds nothing."""
    made = float_reference.make(model)
    assert made is not None
    onnx.checker.check_model(made, full_check=True)
    kinds = {node.op_type for node in made.graph.node}
    assert not {kind for kind in kinds if kind.startswith(float_reference.INTEGER)} | kinds & {
        "Clip"
    }
    return made


def psnr(some: np.ndarray, other: np.ndarray) -> float:
    wrong = np.clip(some, 0, 1) - np.clip(other, 0, 1)
    return float(-10 * np.log10(np.mean(wrong.astype(float) ** 2)))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A part of a photograph, (1, 3, 48, 63), uint8."""
    image = image_files.read(image_files.bundled().held_out[0])[100:148, 200:263]
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


@pytest.fixture
def write(random_genotype, photo, tmp_path):
    """A function (space, bits or None, form) -> exported file of an untrained network."""

    def build(space, bits=None, form=onnx_export.USUAL) -> onnx.ModelProto:
        found, slots = random_genotype(space, 1), registry.slots(space)
        precision = uniform_precision(slots, *(bits or (8, 8)))
        torch.manual_seed(0)
        net = network.build(space, found, precision)
        network.initialise(net, to_tensor(photo.transpose(0, 2, 3, 1)))
        rows = cost.layers(slots, found, precision, space.scale)
        totals = cost.total(rows, space.scale)
        path = tmp_path / "m.onnx"
        onnx_export.to_onnx(post_training.freeze(net), totals, space.scale, path, form)
        return onnx.load(path)

    return build


@pytest.mark.parametrize("name", ["plain-x2", "plain-x4"])
def test_of_a_bundled_model_only_the_noise_of_rounding_is_left_out(name, photo, tmp_path):
    model = onnx.load(bundled_models.bundled()[name])
    made, pixels = twin_of(model), (photo / 255).astype(np.float32)
    assert psnr(run(made, pixels), run(model, pixels)) > 45
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    ort.InferenceSession(made.SerializeToString(), options, providers=PROVIDERS)
    found = onnx.load(tmp_path / "optimised.onnx").graph.node
    kinds = Counter((node.domain, node.op_type) for node in found)
    wanted = sum(node.op_type == "Conv" for node in model.graph.node)
    if platform.machine() == "x86_64":
        assert kinds["com.microsoft.nchwc", "Conv"] == wanted
    assert sum(kind == "Relu" for _, kind in kinds) <= 1  # the rest is merged into convolutions


@pytest.mark.parametrize("index", range(7))
def test_every_macro_architecture_has_one(small, write, photo, index):
    space = list(small.values())[index]
    model, pixels = write(space), (photo / 255).astype(np.float32)
    assert psnr(run(twin_of(model), pixels), run(model, pixels)) > 32


@pytest.mark.parametrize(("name", "bits"), [("tiny", (2, 8)), ("tiny", (4, 4)), ("rfdn", (3, 4))])
def test_all_forms_of_a_file_have_the_same_one(small, write, photo, name, bits):
    space, pixels = small[name], (photo / 255).astype(np.float32)
    usual = run(twin_of(write(space, bits)), pixels)
    assert usual.std() > 0.1
    compat = run(twin_of(write(space, bits, ExportConfig(compat=True))), pixels)
    fixed = run(twin_of(write(space, bits, ExportConfig(size="48x63"))), pixels)
    whole = run(twin_of(write(space, bits, ExportConfig(uint8_io=True))), photo)
    for other in (compat, fixed, whole):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, usual, atol=2e-5)


def test_a_float_file_needs_none():
    node = helper.make_node("Conv", ["lr", "w"], ["sr"])
    assert float_reference.make(graph([node], {"w": np.ones((2, 3, 1, 1), np.float32)})) is None


def graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list("nchw")) for n in ("lr", "sr")]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


@pytest.mark.parametrize(("zero", "wanted"), [(0, [0.0, 1.25]), (128, [-1.5, 1.25])])
def test_a_grid_that_starts_at_zero_stands_for_a_relu(zero, wanted):
    grid = {"s": np.float32(0.5), "z": np.uint8(zero), "half": np.float32(-0.5)}
    nodes = [
        helper.make_node("Mul", ["lr", "half"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["sr"]),
    ]
    made = twin_of(graph(nodes, {k: np.asarray(v) for k, v in grid.items()}))
    image = np.float32([3.0, -2.5]).reshape(1, 1, 1, 2)
    assert run(made, image).ravel().tolist() == wanted


def test_steps_of_channels_go_into_the_weights():
    """The expected values of two groups of two channels, each with its step, are made by hand."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-9, 9, (4, 2, 1, 1)).astype(np.int8)
    steps, common = np.float32([1, 2, 4, 8]), np.float32(0.5)
    constants = {
        "steps": steps, "zeros": np.zeros(4, np.uint8), "step": common, "zero": np.uint8(0),
        "w": kernel, "ws": np.float32([0.25, 0.5, 1, 2]), "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["lr", "steps", "zeros"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["k"], axis=0),
        helper.make_node("Conv", ["x", "k"], ["sr"], group=2),
    ]
    made = twin_of(graph(nodes, {k: np.asarray(v) for k, v in constants.items()}))
    assert [node.op_type for node in made.graph.node] == ["Conv"]
    image = rng.random((1, 4, 3, 5), np.float32)
    scaled = image * (common / steps).reshape(1, 4, 1, 1)
    weights = kernel[:, :, 0, 0] * constants["ws"][:, None]
    wanted = [weights[o] @ scaled[0, 2 * (o // 2) :][:2].reshape(2, -1) for o in range(4)]
    np.testing.assert_allclose(run(made, image)[0].reshape(4, -1), wanted, rtol=1e-5)


def test_integer_operators_of_others_are_refused():
    nodes = [
        helper.make_node("QuantizeLinear", ["lr", "s", "z"], ["q"]),
        helper.make_node("MatMulInteger", ["q", "w"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["sr"], to=TensorProto.FLOAT),
    ]
    constants = {"s": np.float32(1), "z": np.uint8(0), "w": np.ones((2, 2), np.uint8)}
    with pytest.raises(DataError, match="MatMulInteger"):
        float_reference.make(graph(nodes, {k: np.asarray(v) for k, v in constants.items()}))
