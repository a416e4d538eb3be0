"""Checks that a sound file passes verification and that a damaged one does not."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from quantnas.architectures import cost, network, registry, released_weights
from quantnas.architectures.cost import Layer
from quantnas.config import search_space
from quantnas.config.genotype import (
    Choice,
    Genotype,
    choice_of,
    searched_precision,
    uniform_precision,
)
from quantnas.config.run_config import ExportConfig
from quantnas.data import image_files
from quantnas.data.patches import to_tensor
from quantnas.errors import VerificationError
from quantnas.exporters import onnx_export, onnx_metadata, verification
from quantnas.exporters.graph_index import ancestors, origin, wired
from quantnas.nn.quantizers import ActQuantizer
from quantnas.quantization import post_training


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Two crops of different sizes, neither of them square."""
    first, second = (image_files.read(path) for path in image_files.bundled().held_out[:2])
    return [
        np.ascontiguousarray(first[100:150, 200:261]),
        np.ascontiguousarray(second[30:93, 50:98]),
    ]


@pytest.fixture
def make(tiny, random_genotype, photographs, tmp_path):
    """Function (bits or None = as searched, form, changes of stated layers) -> (network, file)."""

    def build(bits: int | None = None, form: ExportConfig = onnx_export.USUAL, **stated: dict):
        genotype = random_genotype(tiny, 1)
        genotype.choices["cell0_body2"] = Choice("growth3x3", 2, 2)
        slots = registry.slots(tiny)
        precision = uniform_precision(slots, bits) if bits else searched_precision(genotype)
        net = network.build(tiny, genotype, precision)
        with torch.no_grad():  # so that every layer matters, as in a trained network
            network.convolutions(net)["upsample"].weight.mul_(10)
        network.initialise(net, to_tensor(photographs[0][None]))
        frozen = post_training.freeze(net)
        path = tmp_path / "m.onnx"
        rows = cost.layers(slots, genotype, precision, tiny.scale)
        told = [replace(row, **stated.get(row.name, {})) for row in rows]
        onnx_export.to_onnx(frozen, cost.total(told, tiny.scale), tiny.scale, path, form)
        return frozen, path

    return build


def stored_of(model: onnx.ModelProto, layer: str) -> onnx.TensorProto:
    """The stored weights of a layer."""
    wiring = wired(model)
    return wiring.tensors[origin(wiring, wiring.convolutions[layer].input[1])]


@pytest.mark.parametrize("bits", [None, 8, 4, 3, 2])
def test_a_sound_file_passes_and_runs_in_integers(make, photographs, bits):
    net, path = make(bits)
    found = verification.verify(path, net, photographs)
    assert found.images == 2
    assert found.max_steps <= 2 and found.psnr > 55 and 0 <= found.share_different < 0.1
    assert found.convolutions == found.integer_convolutions == len(network.convolutions(net))
    plain = found.unoptimised
    assert plain.small and plain.max_steps <= 2 and 0 <= plain.share_different < 0.1
    kinds = [node.op_type for node in verification.optimised(path).graph.node]
    assert "Conv" not in kinds and kinds.count("QLinearConv") >= found.convolutions
    assert "Cast" not in kinds and "Sub" not in kinds


def test_the_network_is_given_back_as_it_was(make, photographs):
    net, path = make()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    verification.verify(path, net, photographs[:1])
    assert all(v.dtype == torch.float32 for v in net.state_dict().values())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("layer", ["head", "upsample"])
def test_a_file_with_one_wrong_weight_fails_and_the_layer_is_named(make, photographs, layer):
    net, path = make(8)
    model = onnx.load(path)
    tensor = stored_of(model, layer)
    first, *others = tensor.raw_data
    tensor.raw_data = bytes([first ^ 1, *others])
    onnx.save(model, path)
    with pytest.raises(VerificationError, match=f"'{layer}' has 1 of .* other than the network"):
        verification.verify(path, net, photographs)


@pytest.mark.parametrize("layer", ["head", "upsample"])
def test_a_file_with_other_biases_fails(make, photographs, layer):
    net, path = make(8)
    with torch.no_grad():
        network.convolutions(net)[layer].bias += 0.1
    with pytest.raises(VerificationError, match=r"m\.onnx differs from the network"):
        verification.verify(path, net, photographs)


def test_another_network_fails(make, photographs):
    other, _ = make(8)
    torch.manual_seed(1)
    _, path = make(8)
    with pytest.raises(VerificationError, match="weights other than the network"):
        verification.verify(path, other, photographs)


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_file_that_is_none_fails(make, photographs, damage):
    net, path = make(8)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_bytes(b"no model")
    else:
        path.unlink()
    with pytest.raises(VerificationError, match=r"ONNX's own checker refuses m\.onnx"):
        verification.verify(path, net, photographs)


def test_a_file_without_its_layers_fails(make, photographs):
    net, path = make(8)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(VerificationError, match=r"m\.onnx does not state its layers"):
        verification.verify(path, net, photographs)


@pytest.mark.parametrize(
    ("layer", "stated", "problem"),
    [
        ("smooth", {"weight_bits": 2}, "'smooth' holds 576 x uint4, but 2 bits per weight"),
        ("head", {"weight_bits": 4}, "'head' holds 216 x int8, but 4 bits per weight"),
        ("cell0_fuse", {"act_bits": 4}, "'cell0_fuse' reads 8 bits, but 4 bits per activation"),
    ],
)
def test_metadata_that_state_other_bits_than_are_stored_fail(
    make, photographs, layer, stated, problem
):
    net, path = make(4, **{layer: stated})
    with pytest.raises(VerificationError, match=problem):
        verification.verify(path, net, photographs)


def directly(model: onnx.ModelProto, layer: str) -> None:
    """Make a DequantizeLinear read packed weights, without the Cast and the offset between."""
    wiring, stored = wired(model), stored_of(model, layer)
    dequantize, offset, *_ = ancestors(wiring, wiring.convolutions[layer].input[1])
    zero = wiring.tensors[offset.input[1]]
    zeros = np.broadcast_to(numpy_helper.to_array(zero).ravel(), stored.dims[0])
    model.graph.initializer.append(
        helper.make_tensor("packed_zero", stored.data_type, zeros.shape, zeros)
    )
    dequantize.input[0], dequantize.input[2] = stored.name, "packed_zero"


def unrounded(model: onnx.ModelProto, layer: str) -> None:
    """Remove the grid behind a convolution."""
    conv = wired(model).convolutions[layer]
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] == conv.output[0]:
            grid = node
    (end,) = (n for n in model.graph.node if n.input[:1] == [grid.output[0]])
    for node in model.graph.node:
        node.input[:] = [conv.output[0] if name == end.output[0] else name for name in node.input]
    for node in (grid, end):
        model.graph.node.remove(node)


LEFT = {
    directly: (4, "smooth", "a DequantizeLinear directly on its weights in uint4"),
    unrounded: (8, "smooth", "its output is read by [A-Za-z]+, not by a QuantizeLinear"),
}


@pytest.mark.parametrize("spoil", LEFT, ids=lambda spoil: spoil.__name__)
def test_a_convolution_that_stays_in_float_fails_and_is_named(make, photographs, spoil):
    bits, layer, reason = LEFT[spoil]
    net, path = make(bits, ExportConfig(plain=True))
    model = onnx.load(path)
    spoil(model, layer)
    onnx.save(model, path)
    told = rf"1 of \d+ convolutions .* stay in float .*: '{layer}' \({reason}\)\."
    with pytest.raises(VerificationError, match=told):
        verification.verify(path, net, photographs)


def test_2_bits_read_directly_do_not_load(make, photographs):
    net, path = make(2)
    model = onnx.load(path)
    directly(model, "smooth")
    onnx.save(model, path)
    with pytest.raises(VerificationError, match=r"does not load m\.onnx: .*2-bit files need 1\.24"):
        verification.verify(path, net, photographs)


# Files in float, of one size, of bytes


class Enlarger(torch.nn.Module):
    """A network of one float convolution and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)
        self.conv.weight.data.add_(0.03)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


def float_file(net: Enlarger, path: Path, sides: tuple, in_bytes: bool) -> None:
    kind = TensorProto.UINT8 if in_bytes else TensorProto.FLOAT
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "name": "only"}
    shuffle = {"blocksize": 2, "mode": "CRD"}
    nodes = [
        helper.make_node("Cast", ["lr"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["wide", "white"], ["x"]),
        helper.make_node("Conv", ["x" if in_bytes else "lr", "w", "b"], ["y"], **conv),
        helper.make_node("DepthToSpace", ["y"], ["z" if in_bytes else "sr"], **shuffle),
        helper.make_node("Mul", ["z", "white"], ["steps"]),
        helper.make_node("QuantizeLinear", ["steps", "one", "none"], ["sr"]),
    ]
    values = {"w": net.conv.weight, "b": net.conv.bias}
    tensors = {k: v.detach().numpy() for k, v in values.items()}
    if in_bytes:
        tensors |= {"white": np.float32(255), "one": np.float32(1), "none": np.uint8(0)}
    ends = [helper.make_tensor_value_info(n, kind, ["n", 3, *sides]) for n in ("lr",)]
    ends.append(helper.make_tensor_value_info("sr", kind, ["n", 3, "h2", "w2"]))
    model = helper.make_model(
        helper.make_graph(
            nodes if in_bytes else nodes[2:4], "g", ends[:1], ends[1:],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=7,
    )  # fmt: skip
    row = Layer("only", "conv3x3", (12, 3, 3, 3), 32, 32, "low", 0, 0)
    facts = {"version": "0", "scale": 2, "cost": asdict(cost.total([row], 2))}
    helper.set_model_props(model, {onnx_metadata.METADATA_KEY: json.dumps(facts)})
    onnx.save(model, path)


@pytest.mark.parametrize("in_bytes", [False, True])
@pytest.mark.parametrize("sides", [("h", "w"), (20, 90)])
def test_a_file_is_given_what_it_takes_and_need_not_round(photographs, tmp_path, sides, in_bytes):
    net, path = Enlarger(), tmp_path / "f.onnx"
    float_file(net, path, sides, in_bytes)
    found = verification.verify(path, net, photographs)
    assert found.max_steps <= 1 and found.unoptimised.max_steps <= 1 and found.psnr > 70
    assert (found.convolutions, found.integer_convolutions) == (1, 0)
    with torch.no_grad():
        net.conv.bias[3] += 2 / 255
    with pytest.raises(VerificationError, match="differs from the network"):
        verification.verify(path, net, photographs)


def test_the_noise_of_a_channel_is_that_of_its_own_step():
    grid, seen = ActQuantizer(8, channels=2), []
    grid.octaves.data.copy_(torch.tensor([0.0, -3.0]))
    with verification._noisy(grid):
        grid.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        grid(torch.zeros(1, 2, 50, 50))
    largest = seen[0].detach().abs().amax((0, 2, 3))
    np.testing.assert_allclose(
        largest, verification.NOISE * grid.step.item() / np.array([1, 8]), 0.01
    )


RELEASED = Path(__file__).parents[2].parent / "shared" / "models" / "rfdn_aim_x4.safetensors"


@pytest.fixture(scope="module")
def deep(photographs, tmp_path_factory):
    """(network, file, image) of the released RFDN at 4 bits: 64 convolutions, not trained."""
    if not RELEASED.exists():
        pytest.skip("needs the released weights")
    space = search_space.load("rfdn50", 4)
    slots = registry.slots(space)
    found = Genotype("rfdn50", {s.name: choice_of(s, 0, 0) for s in slots})
    precision = uniform_precision(slots, 4)
    net = network.build(space, found, precision)
    released_weights.load(net, RELEASED)
    image = photographs[0][:48, :56]
    network.initialise(net, to_tensor(image[None]))
    frozen, path = post_training.freeze(net), tmp_path_factory.mktemp("deep") / "deep.onnx"
    rows = cost.layers(slots, found, precision, 4)
    onnx_export.to_onnx(frozen, cost.total(rows, 4), 4, path)
    return frozen, path, image


def test_a_deep_network_may_differ_by_what_its_own_noise_does(deep):
    net, path, image = deep
    found = verification.verify(path, net, [image])
    assert found.psnr < verification.LEAST and found.sensitivity is not None
    assert found.psnr > found.sensitivity - 3
    assert found.unoptimised.psnr > found.sensitivity - 3
    assert found.integer_convolutions == found.convolutions == 64


def test_no_noise_excuses_a_file_below_the_floor(deep, monkeypatch):
    net, path, image = deep
    monkeypatch.setattr(verification, "FLOOR", 54.9)
    with pytest.raises(VerificationError, match="never below 55 dB"):
        verification.verify(path, net, [image])


def test_wrong_biases_of_a_deep_network_are_more_than_its_noise(deep):
    net, path, image = copy.deepcopy(deep)
    with torch.no_grad():
        network.convolutions(net)["upsample"].bias += 0.05
    with pytest.raises(VerificationError, match="against itself with noise"):
        verification.verify(path, net, [image])
