"""Checks the TFLite file in LiteRT: its output, its int8 operators and its metadata."""

import dataclasses

import numpy as np
import pytest
import torch

from quantnas.architectures import cost, network, registry
from quantnas.config import search_space
from quantnas.config.genotype import uniform_precision
from quantnas.data import bicubic, image_files, patches
from quantnas.errors import DataError, UsageError
from quantnas.exporters import tflite
from quantnas.exporters.tflite_graph import schema
from quantnas.quantization import post_training

pytest.importorskip("ai_edge_litert")
CASES = [("apart", 8, 8), ("tiny", 2, 4), ("basic", 4, 8), ("plain", 3, 4), ("rfdn", 4, 8)]
SIZE = (40, 56)


def photograph() -> np.ndarray:
    """A part of a real photograph, (40, 56, 3)."""
    first = image_files.read(image_files.bundled().held_out[0])
    return np.ascontiguousarray(bicubic.downscale(first[:164, :224], 4)[: SIZE[0], : SIZE[1]])


@pytest.fixture
def make(small, random_genotype, pixels, tmp_path):
    """Function (name of a space, weight bits, activation bits) -> (network, cost, file)."""

    def build(name: str, weights: int = 8, activations: int = 8):
        space = small.get(name) or dataclasses.replace(search_space.load(name, 2), channels=8)
        space = dataclasses.replace(space, cells=1, scale=2)
        slots, genotype = registry.slots(space), random_genotype(space, weights)
        precision = uniform_precision(slots, weights, activations)
        net = network.build(space, genotype, precision)
        network.initialise(net, patches.to_tensor(photograph()[None]))
        frozen = post_training.freeze(net)
        totals = cost.total(cost.layers(slots, genotype, precision, 2), 2)
        tflite.to_tflite(frozen, totals, 2, SIZE, tmp_path / "m.tflite")
        return frozen, totals, tmp_path / "m.tflite"

    return build


@torch.no_grad()
def wanted(net, image) -> np.ndarray:
    """Output of the network for an image, (H, W, 3), in steps of 1/255."""
    return net(patches.to_tensor(image[None]))[0].permute(1, 2, 0).numpy() * 255


def run(path, image, delegate=True) -> np.ndarray:
    loaded = tflite.interpreter(path, delegate=delegate)
    loaded.allocate_tensors()
    (source,), (target,) = loaded.get_input_details(), loaded.get_output_details()
    loaded.set_tensor(source["index"], image[None].astype(np.float32) / np.float32(255))
    loaded.invoke()
    return loaded.get_tensor(target["index"])[0] * 255


@pytest.mark.parametrize(("name", "weights", "activations"), CASES)
def test_litert_computes_the_same_but_for_roundings(make, name, weights, activations):
    net, _, path = make(name, weights, activations)
    image = photograph()
    expected = wanted(net, image)
    for delegate in (True, False):
        error = run(path, image, delegate) - expected
        assert np.abs(error).max() < 3.01 and np.mean(error**2) < 255**2 / 1e5  # 50 dB
    assert expected.std() > 10


def contents(path):
    model = schema().ModelT.InitFromPackedBuf(path.read_bytes())
    return model, model.subgraphs[0]


@pytest.mark.parametrize(("name", "bits"), [("apart", 2), ("fsrcnn", 3), ("espcn", 8)])
def test_every_convolution_is_int8_and_holds_the_integers(make, name, bits):
    net, _, path = make(name, bits, 4)
    model, graph = contents(path)
    s = schema()
    codes, found = (s.BuiltinOperator.CONV_2D, s.BuiltinOperator.DEPTHWISE_CONV_2D), []
    for operator in graph.operators:
        source, kernel, *_ = (graph.tensors[i] for i in [*operator.inputs, *operator.outputs])
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code in codes and source.type == s.TensorType.INT8:
            ends = [kernel.type, *(graph.tensors[i].type for i in operator.outputs)]
            assert ends == [s.TensorType.INT8] * 2
            found.append(np.sort(model.buffers[kernel.buffer].data.view(np.int8)))
    for conv in network.convolutions(net).values():
        q, zero = conv.integers()
        stored = np.sort(conv.dense((q - zero).float()).numpy().ravel().astype(np.int8))
        assert any(np.array_equal(stored, other) for other in found)


def test_constants_are_aligned_for_runtimes_that_map_the_file(make):
    _, _, path = make("apart")
    data = path.read_bytes()
    model = schema().Model.GetRootAs(data, 0)
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if not buffer.DataIsNone():
            array = buffer.DataAsNumpy()
            at = array.__array_interface__["data"][0]
            assert (at - np.frombuffer(data, np.uint8).__array_interface__["data"][0]) % 16 == 0


@pytest.mark.parametrize("name", ["apart", "plain"])
def test_an_upscaler_takes_images_of_any_size(make, name):
    net, _, path = make(name)
    upscale = tflite.upscaler(path)
    for image in (photograph()[:17, :30], photograph(), photograph()[:5, :6]):
        high = upscale(image)
        assert high.dtype == np.uint8 and high.shape == (2 * image.shape[0], 2 * image.shape[1], 3)
        assert np.abs(high.astype(int) - wanted(net, image).round()).max() <= 2


@pytest.mark.parametrize("name", ["apart", "plain"])
def test_a_file_for_uint8_pixels_gives_the_same_pixels(make, name):
    net, totals, path = make(name)
    in_float = tflite.upscaler(path)(photograph())
    tflite.to_tflite(net, totals, 2, SIZE, path, pixels=True)
    loaded = tflite.interpreter(path)
    ends = [*loaded.get_input_details(), *loaded.get_output_details()]
    assert [end["dtype"] for end in ends] == [np.uint8] * 2
    assert np.array_equal(tflite.upscaler(path)(photograph()), in_float)


def test_attention_holds_for_the_size_of_the_file_alone(make):
    _, _, path = make("rfdn")
    upscale = tflite.upscaler(path)
    with pytest.raises(DataError, match="40x30 pixels"):
        upscale(photograph()[:30, :40])
    assert upscale(photograph()).shape == (80, 112, 3)


@pytest.mark.parametrize("name", ["rfdn_published", "imdn", "edsr"])
def test_tensors_in_float_are_refused(make, name):
    with pytest.raises(UsageError, match="rfdn_deploy"):
        make(name)


def test_metadata_give_the_cost_back(make):
    _, totals, path = make("plain", 4, 8)
    facts = tflite.read_metadata(path)
    assert facts["scale"] == 2 and facts["cost"]["bitops"] == totals.bitops


@pytest.mark.parametrize("keep", [0, 7, 40, 2000])
def test_a_truncated_file_is_a_data_error(make, keep):
    _, _, path = make("plain")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"m\.tflite"):
        tflite.upscaler(path)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        tflite.upscaler(tmp_path / "none.tflite")


def test_without_litert_the_extra_is_named(make, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"quantnas\[litert\]"):
        make("plain")
