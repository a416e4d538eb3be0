"""Checks that a sound file passes verification and that a damaged one does not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from quantnas import cost, export, foreign, images, network, quantize, skeleton, space, verify
from quantnas.errors import VerificationError
from quantnas.genotype import Choice, Genotype, searched_precision, uniform_precision
from quantnas.patches import to_tensor
from quantnas.quantizer import ActQuantizer
from quantnas.supernet import choice_of


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Two crops of different size, neither square."""
    first, second = (images.read(path) for path in images.bundled().held_out[:2])
    return [
        np.ascontiguousarray(first[100:150, 200:261]),
        np.ascontiguousarray(second[30:93, 50:98]),
    ]


@pytest.fixture
def make(tiny, random_genotype, photographs, tmp_path):
    """bits (None = as searched) -> (frozen network, file)."""

    def build(bits: int | None = None):
        genotype = random_genotype(tiny, 1)
        genotype.choices["cell0_body2"] = Choice("growth3x3", 2, 2)
        slots = skeleton.slots(tiny)
        precision = uniform_precision(slots, bits) if bits else searched_precision(genotype)
        net = network.build(tiny, genotype, precision)
        with torch.no_grad():  # so that every layer matters, as in a trained network
            network.convolutions(net)["upsample"].weight.mul_(10)
        quantize.initialise(net, to_tensor(photographs[0][None]))
        frozen = quantize.freeze(net)
        path = tmp_path / "m.onnx"
        totals = cost.total(cost.layers(slots, genotype, precision, tiny.scale), tiny.scale)
        export.to_onnx(frozen, totals, tiny.scale, path)
        return frozen, path

    return build


def kernel_of(model: onnx.ModelProto, layer: str):
    """(convolution, its kernel's DequantizeLinear, stored tensor, steps) of an 8-bit layer."""
    (conv,) = [n for n in model.graph.node if n.op_type == "Conv" and n.name == layer]
    (dequantize,) = [n for n in model.graph.node if n.output[0] == conv.input[1]]
    tensors = {t.name: t for t in model.graph.initializer}
    return conv, dequantize, *(tensors[name] for name in dequantize.input[:2])


@pytest.mark.parametrize("bits", [None, 8, 4, 3, 2])
def test_a_sound_file_passes_and_runs_in_integers(make, photographs, bits):
    net, path = make(bits)
    found = verify.verify(path, net, photographs)
    assert found.images == 2
    assert found.max_steps <= 2 and found.psnr > 55 and 0 <= found.share_different < 0.1
    assert found.convolutions == found.integer_convolutions == len(network.convolutions(net))
    kinds = [node.op_type for node in verify.optimised(path).graph.node]
    assert "Conv" not in kinds and kinds.count("QLinearConv") == found.convolutions
    assert "Cast" not in kinds and "Sub" not in kinds


def test_the_network_is_given_back_as_it_was(make, photographs):
    net, path = make()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    verify.verify(path, net, photographs[:1])
    assert all(v.dtype == torch.float32 for v in net.state_dict().values())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("layer", ["head", "upsample"])
def test_a_file_with_one_wrong_weight_fails(make, photographs, layer):
    net, path = make(8)
    model = onnx.load(path)
    tensor = kernel_of(model, layer)[2]
    raw = bytearray(tensor.raw_data)
    middle = len(raw) // 2
    raw[middle] ^= 0x80
    tensor.raw_data = bytes(raw)
    onnx.save(model, path)
    with pytest.raises(VerificationError, match="differs from the network"):
        verify.verify(path, net, photographs)


def test_another_network_fails(make, photographs):
    _, path = make(8)
    torch.manual_seed(1)
    other, _ = make(8)
    torch.manual_seed(2)
    net, path = make(8)
    with pytest.raises(VerificationError, match="differs from the network"):
        verify.verify(path, other, photographs)
    assert verify.verify(path, net, photographs).max_steps <= 2


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_file_that_does_not_load_fails(make, photographs, damage):
    net, path = make(8)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_bytes(b"no model")
    else:
        path.unlink()
    with pytest.raises(VerificationError, match=r"does not load m\.onnx"):
        verify.verify(path, net, photographs)


def test_a_convolution_that_stays_in_float_fails(make, photographs):
    net, path = make(8)
    model = onnx.load(path)
    conv, dequantize, *stored = kernel_of(model, "smooth")
    q, step = map(onnx.numpy_helper.to_array, stored)
    kernel = (q * step[:, None, None, None]).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "float_kernel"))
    conv.input[1] = "float_kernel"
    model.graph.node.remove(dequantize)
    onnx.save(model, path)
    with pytest.raises(VerificationError, match=r"1 of .* convolutions .* stay in float"):
        verify.verify(path, net, photographs)


def test_the_noise_of_a_channel_is_that_of_its_own_step():
    grid, seen = ActQuantizer(8, channels=2), []
    grid.octaves.data.copy_(torch.tensor([0.0, -3.0]))
    with verify._noisy(grid):
        grid.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        grid(torch.zeros(1, 2, 50, 50))
    largest = seen[0].detach().abs().amax((0, 2, 3))
    np.testing.assert_allclose(largest, verify.NOISE * grid.step.item() / np.array([1, 8]), 0.01)


RELEASED = Path(__file__).parents[1].parent / "shared" / "models" / "rfdn_aim_x4.safetensors"


@pytest.fixture
def deep(photographs, tmp_path):
    """(network, file, image) of the released RFDN on 4 bits: 64 convolutions, as they were."""
    if not RELEASED.exists():
        pytest.skip("needs the released weights")
    where = space.load("rfdn50", 4)
    slots = skeleton.slots(where)
    found = Genotype("rfdn50", {s.name: choice_of(s, 0, 0) for s in slots})
    precision = uniform_precision(slots, 4)
    net = network.build(where, found, precision)
    foreign.load(net, RELEASED)
    image = photographs[0][:48, :56]
    quantize.initialise(net, to_tensor(image[None]))
    frozen, path = quantize.freeze(net), tmp_path / "deep.onnx"
    rows = cost.layers(slots, found, precision, 4)
    export.to_onnx(frozen, cost.total(rows, 4), 4, path)
    return frozen, path, image


def test_a_deep_network_may_differ_by_what_its_own_noise_does(deep):
    net, path, image = deep
    found = verify.verify(path, net, [image])
    assert found.psnr < verify.LEAST and found.sensitivity is not None
    assert found.psnr > found.sensitivity - 3
    assert found.integer_convolutions == found.convolutions == 64


def test_no_noise_excuses_a_file_below_the_floor(deep, monkeypatch):
    net, path, image = deep
    monkeypatch.setattr(verify, "FLOOR", 54.9)
    with pytest.raises(VerificationError, match="never below 55 dB"):
        verify.verify(path, net, [image])


def test_a_wrong_channel_of_a_deep_network_is_more_than_its_noise(deep):
    net, path, image = deep
    with torch.no_grad():
        network.convolutions(net)["cell1_body1"].weight[3].neg_()
    with pytest.raises(VerificationError, match="against itself with noise"):
        verify.verify(path, net, [image])
