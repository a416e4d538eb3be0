"""Checks that pre-trained weights of the released RFDN give the outputs of the released network."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from quantnas.architectures import network, released_weights
from quantnas.config import search_space
from quantnas.config.genotype import searched_precision
from quantnas.data import photographs
from quantnas.errors import DataError, UsageError
from quantnas.evaluation import scoring
from quantnas.inference import upscaler

RELEASED = Path(__file__).parents[2].parent / "shared" / "models" / "rfdn_aim_x4.safetensors"
ESA = {"conv1": (2, 8, 1), "conv_f": (2, 2, 1), "conv_max": (2, 2, 3), "conv2": (2, 2, 3)}
ESA |= {"conv3": (2, 2, 3), "conv3_": (2, 2, 3), "conv4": (8, 2, 1)}
BLOCK = {f"c{i}_d": (4, 8, 1) for i in (1, 2, 3)} | {f"c{i}_r": (8, 8, 3) for i in (1, 2, 3)}
BLOCK |= {"c4": (4, 8, 3), "c5": (8, 16, 1)} | {f"esa.{n}": shape for n, shape in ESA.items()}
WHOLE = {"fea_conv": (8, 3, 3), "c.0": (8, 16, 1), "LR_conv": (8, 8, 3), "upsampler.0": (12, 8, 3)}
WHOLE |= {f"B{k}.{n}": shape for k in (1, 2) for n, shape in BLOCK.items()}


@pytest.fixture
def tensors():
    """Weights of a released RFDN with 8 channels and two blocks at scale 2, under its own names."""
    found = {}
    for name, (c_out, c_in, side) in WHOLE.items():
        found[f"{name}.weight"] = torch.randn(c_out, c_in, side, side) / (c_in * side**2) ** 0.5
        found[f"{name}.bias"] = torch.randn(c_out)
    return found


@pytest.fixture
def space():
    return dataclasses.replace(search_space.load("rfdn50", 2), channels=8, cells=2)


@pytest.fixture
def save(tensors, tmp_path):
    """Function (tensors to replace, None = leave out) -> a file of weights."""

    def write(**changes) -> Path:
        kept = {k: v for k, v in {**tensors, **changes}.items() if v is not None}
        save_file(kept, tmp_path / "theirs.safetensors")
        return tmp_path / "theirs.safetensors"

    return write


def released(t, x):
    """Forward pass of the released RFDN, written independently; t: weights; x in [0, 255]."""

    def conv(name, v, stride=1):
        kernel = t[f"{name}.weight"]
        padding = kernel.shape[2] // 2 if stride == 1 else 0
        return F.conv2d(v, kernel, t[f"{name}.bias"], stride, padding)

    def leaky(v):
        return F.leaky_relu(v, 0.05)

    def esa(name, v):
        thin = conv(f"{name}.conv1", v)
        c = F.max_pool2d(conv(f"{name}.conv2", thin, 2), kernel_size=7, stride=3)
        c = F.relu(conv(f"{name}.conv3", F.relu(conv(f"{name}.conv_max", c))))
        c = F.interpolate(conv(f"{name}.conv3_", c), v.shape[2:], mode="bilinear")
        return v * torch.sigmoid(conv(f"{name}.conv4", c + conv(f"{name}.conv_f", thin)))

    first = y = conv("fea_conv", x)
    outputs = []
    for b in ("B1", "B2"):
        kept, u = [], y
        for i in (1, 2, 3):
            kept.append(leaky(conv(f"{b}.c{i}_d", u)))
            u = leaky(conv(f"{b}.c{i}_r", u) + u)
        kept.append(leaky(conv(f"{b}.c4", u)))
        y = esa(f"{b}.esa", conv(f"{b}.c5", torch.cat(kept, 1)))
        outputs.append(y)
    y = conv("LR_conv", leaky(conv("c.0", torch.cat(outputs, 1)))) + first
    return F.pixel_shuffle(conv("upsampler.0", y), 2)


def test_the_network_computes_what_the_released_one_does(
    space, tensors, save, random_genotype, pixels
):
    net = network.build(space, random_genotype(space, 0), None)
    released_weights.load(net, save())
    x = pixels(2, 17, 20).double()
    with torch.no_grad():
        found = net.double()(x) * 255
        wanted = released({k: v.double() for k, v in tensors.items()}, x * 255)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-3)
    assert wanted.std() > 10


def test_a_rounded_network_takes_the_same_weights(space, save, random_genotype):
    genotype = random_genotype(space, 0)
    nets = [network.build(space, genotype, p) for p in (None, searched_precision(genotype))]
    for net in nets:
        released_weights.load(net, save())
    first, second = map(network.convolutions, nets)
    assert all(torch.equal(first[name].weight, second[name].weight) for name in first)
    assert all(torch.equal(first[name].bias, second[name].bias) for name in first)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"B2.c1_r.bias": None}, DataError, "no weights for cell1_body0"),
        ({"mean.weight": torch.ones(3)}, DataError, r"'mean\.weight', which"),
        ({"B3.c4.bias": torch.ones(4)}, DataError, r"'cell2_body3\.bias', which"),
        ({"LR_conv.bias": torch.ones(9)}, UsageError, r"smooth\.bias has the shape \[8\].*\[9\]"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_copied(
    space, save, random_genotype, changes, kind, words
):
    net = network.build(space, random_genotype(space, 0), None)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    with pytest.raises(kind, match=words):
        released_weights.load(net, save(**changes))
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_file_that_cannot_be_read_is_a_data_error(space, random_genotype, tmp_path, content):
    path = tmp_path / "theirs.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match="Cannot read"):
        released_weights.load(network.build(space, random_genotype(space, 0), None), path)


@pytest.fixture
def published(random_genotype):
    """The float network with the released weights; the test is skipped when they are absent."""
    if not RELEASED.is_file():
        pytest.skip(f"{RELEASED} is not there")
    space = search_space.load("rfdn50")
    net = network.build(space, random_genotype(space, 0), None)
    released_weights.load(net, RELEASED)
    return net


def test_nothing_of_the_released_file_is_left_out(published):
    found = sum(c.weight.numel() + c.bias.numel() for c in network.convolutions(published).values())
    assert found == sum(t.numel() for t in load_file(RELEASED).values()) == 433_448


@pytest.mark.parametrize(
    ("name", "wanted"), [("set5", 32.16), pytest.param("set14", 28.65, marks=pytest.mark.slow)]
)
def test_the_released_weights_score_as_published(published, shared_data, name, wanted):
    upscale = upscaler.torch_upscaler(published)
    photos = photographs.find(shared_data / "test" / name, 4)
    mean = scoring.mean(list(scoring.score(upscale, photos, 4)))
    assert mean.psnr == pytest.approx(wanted, abs=0.02)
