"""Checks that networks exported by torch are imported: equal, for any size, as ordinary layers."""

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from quantnas.architectures import network, registry
from quantnas.config import search_space
from quantnas.errors import DataError
from quantnas.nn.tracing import Tracer
from quantnas.onnx_import import importer, parity

FIXED = [
    n for n in sorted(search_space.builtin()) if registry.known_genotype(search_space.load(n), None)
]
"""The architectures that leave nothing to choose."""
OPSETS = (11, 13, 17, 20, None)
"""Opsets to export; None stands for the exporter of torch.export with its default."""


def exported(net: nn.Module, path: Path, opset: int | None = 17, **options) -> Path:
    """Export a network to a file, for any height and width unless `dynamic_axes` fixes them."""
    low = torch.rand(1, 3, 32, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if opset is None:
            pytest.importorskip("onnxscript")
            sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
            torch.onnx.export(
                net, (low,), path, dynamo=True, dynamic_shapes=(sides,), verbose=False
            )
            return path
        options.setdefault("dynamic_axes", {"x": {0: "n", 2: "h", 3: "w"}})
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(net, (low,), path, opset_version=opset, dynamo=False, **names, **options)
    return path


def require_parity(net: nn.Module, path: Path) -> importer.OnnxImport:
    """Import a file, check its parity, and compare it with the network at a third size."""
    found = importer.load(path)
    assert parity.check(found, path).largest < 1e-5
    if found.entry.height is None:
        low = torch.rand(2 if found.entry.batch is None else 1, 3, 52, 60)
        with torch.no_grad():
            torch.testing.assert_close(found.network(low), net(low), rtol=1e-3, atol=1e-4)
    return found


# Third-party networks


class Dense(nn.Module):
    """A dense block with small residuals, as in ESRGAN (arXiv 1809.00219)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        widths = (4, 4, 4, 4, 8)
        self.convs = nn.ModuleList(
            nn.Conv2d(8 + 4 * k, n, 3, padding=1) for k, n in enumerate(widths)
        )
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        parts = [x]
        for conv in self.convs[:-1]:
            parts.append(F.leaky_relu(conv(torch.cat(parts, 1)), 0.2))
        x = x + self.convs[-1](torch.cat(parts, 1)) * 0.2
        return self.last(F.interpolate(x, scale_factor=2, mode="nearest"))


class Windows(nn.Module):
    """Shifted attention in windows of 4 pixels, to which images are padded (arXiv 2108.10257)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.table = nn.Parameter(torch.randn(49, 2))
        at = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        apart = at[:, None] - at[None] + 3
        self.register_buffer("index", (apart[..., 0] * 7 + apart[..., 1]).flatten())

    def attend(self, x: Tensor) -> Tensor:
        """Attention inside of every window, (windows, 16, 8) -> (windows, 16, 8)."""
        q, k, v = self.qkv(x).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
        nearness = self.table[self.index].view(16, 16, 2).permute(2, 0, 1)[None]
        weights = (q * 0.5 @ k.transpose(-2, -1) + nearness).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(-1, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4), "reflect")
        x = self.first(x)
        n, c, h, w = x.shape
        rows = x.flatten(2).transpose(1, 2)
        y = torch.roll(self.norms[0](rows).view(n, h, w, c), (-2, -2), (1, 2))
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        y = self.attend(y).view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        rows = rows + torch.roll(y.reshape(n, h, w, c), (2, 2), (1, 2)).view(n, h * w, c)
        rows = rows + self.mlp(self.norms[1](rows))
        x = x + rows.transpose(1, 2).view(n, c, h, w)
        return F.pixel_shuffle(self.last(x), 2)[:, :, : height * 2, : width * 2]


class Many(nn.Module):
    """Normalisations, attentions over channels, a transposed convolution and a bicubic skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm, self.before = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        for norm in (self.norm, self.before):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.act, self.deep = nn.PReLU(8), nn.Conv2d(8, 8, 3, 1, 2, 2, groups=8)
        squeeze = nn.Conv2d(8, 4, 1), nn.ReLU6(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), *squeeze)
        self.one, self.group = nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8)
        self.full, self.line = nn.Linear(8, 8), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(8, 3, 5, 2, 2, 1)

    def forward(self, low: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(low)))
        x = x * self.weigh(x) + self.deep(self.before(x))
        x = F.hardswish(self.one(x)) + self.group(x)
        mean = x.mean((2, 3))
        x = x * self.full(mean).sigmoid()[:, :, None, None]
        x = x * self.line(mean[:, None]).transpose(1, 2)[..., None].sigmoid()
        a, b = x.chunk(2, 1)
        x = torch.cat([a * b, F.normalize(b, dim=1)], 1)
        skip = F.interpolate(low, scale_factor=2, mode="bicubic", align_corners=False)
        return self.up(x / x.std((2, 3), keepdim=True).clamp(min=0.1)) + skip


class Simple(nn.Module):
    """Pixels to channels and back by hand, gates, and a resizing to computed sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.shift = (
            nn.Parameter(torch.rand(12, 1, 1)),
            nn.Parameter(torch.rand(12, 1, 1)),
        )
        self.gate, self.last = nn.Conv2d(12, 24, 1), nn.Conv2d(12, 48, 3, padding=1)

    def forward(self, low: Tensor) -> Tensor:
        height, width = low.shape[2:]
        x = F.pad(low, (0, width % 2, 0, height % 2), "replicate")
        n, _, h, w = x.shape
        x = (
            x.view(n, 3, h // 2, 2, w // 2, 2)
            .permute(0, 1, 3, 5, 2, 4)
            .reshape(n, 12, h // 2, w // 2)
        )
        x = x - x.mean(1, keepdim=True)
        x = x / (x.pow(2).mean(1, keepdim=True) + 1e-3).sqrt() * self.gain + self.shift
        a, b = self.gate(x).chunk(2, 1)
        x = self.last(a * F.gelu(b))
        x = x.view(n, 4, 4, 3, h // 2, w // 2).permute(0, 3, 4, 1, 5, 2).reshape(n, 3, h * 2, w * 2)
        skip = F.interpolate(low, (height * 2, width * 2), mode="bilinear", align_corners=False)
        return torch.where(skip > 0.5, skip, -skip) + x[..., : height * 2, : width * 2]


FOREIGN = (Dense, Windows, Many, Simple)


def require_back(net: nn.Module, path: Path, opset: int | None) -> None:
    require_parity(net, exported(net, path, opset))


@pytest.mark.parametrize("kind", FOREIGN)
def test_third_party_networks_come_back(kind, tmp_path):
    net = kind().eval()
    require_back(net, tmp_path / "m.onnx", 17)
    fixed = exported(net, tmp_path / "fixed.onnx", 13, dynamic_axes={})
    assert require_parity(net, fixed).sizes == ((32, 40),)


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_third_party_networks_come_back_from_every_export(kind, opset, tmp_path):
    require_back(kind().eval(), tmp_path / "m.onnx", opset)


def fixed_network(name: str) -> nn.Module:
    where = search_space.load(name)
    return network.build(where, registry.known_genotype(where, None), None).eval()


@pytest.mark.parametrize("name", ["espcn", "fsrcnn", "rfdn50"])
def test_architectures_of_the_project_come_back(name, tmp_path):
    net = fixed_network(name)
    found = require_parity(net, exported(net, tmp_path / "m.onnx", 17))
    assert (
        found.scale == search_space.load(name).scale and found.entry.channels == found.channels == 3
    )
    assert len(found.names) == len(network.convolutions(net))


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", FIXED)
def test_architectures_of_the_project_come_back_from_every_export(name, opset, tmp_path):
    require_back(fixed_network(name), tmp_path / "m.onnx", opset)


# The imported graph


def functions(found: importer.OnnxImport) -> list[str]:
    """Names of the functions that the graph calls, without layers."""
    nodes = found.network.graph.nodes
    return [n.target.__name__ for n in nodes if n.op == "call_function"]


def test_shuffles_by_hand_are_recognised_and_layers_keep_the_order_of_the_file(tmp_path):
    net = Simple().eval()
    found = require_parity(net, exported(net, tmp_path / "m.onnx"))
    called = functions(found)
    assert called.count("pixel_shuffle") == called.count("pixel_unshuffle") == 1
    assert not {"permute", "reshape"}.intersection(called)
    assert torch.equal(found.network.last.weight, net.last.weight)


class Sums(nn.Module):
    """A network that normalises grouped and transposed convolutions, one with two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(3, 6, 3, 1, 1, groups=3),
            nn.ConvTranspose2d(6, 6, 2, 2, groups=2),
        )
        self.c, self.last = nn.Conv2d(6, 6, 1, bias=False), nn.Conv2d(6, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(3))
        self.shift = nn.Parameter(torch.randn(1, 3, 1, 1))
        for norm in self.norms:
            norm.running_mean.normal_()
            norm.weight.data.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[1](self.b(self.norms[0](self.a(x))))
        y = self.c(x)
        return self.last(self.norms[2](y) + y) + self.shift


def test_normalisation_and_constants_are_folded_into_a_layer_that_they_alone_read(tmp_path):
    net = Sums().eval()
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    found = require_parity(net, exported(net, tmp_path / "m.onnx", **kept))
    assert functions(found) == ["batch_norm", "add"]
    assert [*found.names] == ["a", "b", "c", "last"]
    bias = net.last.bias + net.shift.flatten()
    torch.testing.assert_close(found.network.last.bias, bias)


def test_layers_are_ordinary_modules_with_biases_and_can_be_replaced(tmp_path):
    net = Many().eval()
    found = require_parity(net, exported(net, tmp_path / "m.onnx"))
    assert isinstance(found.network.first, nn.Conv2d) and isinstance(
        found.network.up, nn.ConvTranspose2d
    )
    assert isinstance(found.network.full, nn.Conv2d) and found.network.first.bias is not None
    assert found.names["up"].startswith("/up/")
    low = torch.rand(1, 3, 20, 24)
    other = copy.deepcopy(found.network)
    other.deep = nn.Identity()
    assert not torch.equal(other(low), found.network(low))


@pytest.mark.parametrize("kind", [Windows, Many])
def test_the_graph_can_be_traced_again(kind, tmp_path):
    found = importer.load(exported(kind().eval(), tmp_path / "m.onnx"))
    again = torch.fx.GraphModule(found.network, Tracer().trace(found.network))
    low = torch.rand(1, 3, 30, 21)
    assert torch.equal(again(low), found.network(low))


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    path = exported(Dense().eval(), tmp_path / "m.onnx")
    state = torch.get_rng_state()
    importer.load(path)
    assert torch.equal(torch.get_rng_state(), state)


# Parity


def two_convolutions(path: Path) -> Path:
    return exported(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 12, 1),
                                  nn.PixelShuffle(2)).eval(), path)  # fmt: skip


@pytest.mark.parametrize(("at", "named"), [(0, "'/0/Conv'"), (1, "'/2/Conv'")])
def test_the_first_node_that_differs_is_named(at, named, tmp_path):
    path = two_convolutions(tmp_path / "m.onnx")
    found = importer.load(path)
    with torch.no_grad():
        found.network.get_submodule([*found.names][at]).weight[0, 0] += 1
    with pytest.raises(DataError, match=f"first at Conv {named}"):
        parity.check(found, path)


def test_a_network_that_fails_or_gives_no_numbers_is_refused(tmp_path):
    path = two_convolutions(tmp_path / "m.onnx")
    found = importer.load(path)
    last = found.network.get_submodule([*found.names][1])
    last.bias.data[0] = torch.nan
    with pytest.raises(DataError, match="first at Conv '/2/Conv'"):
        parity.check(found, path)
    last.weight = nn.Parameter(torch.zeros(12, 5, 1, 1))
    with pytest.raises(DataError, match="first at Conv '/2/Conv'"):
        parity.check(found, path)


# Other forms of files


def test_weights_in_other_files_and_initializers_as_inputs_are_read(tmp_path):
    path = two_convolutions(tmp_path / "m.onnx")
    model = onnx.load(path)
    for t in model.graph.initializer:
        shape = helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        model.graph.input.append(shape)
    onnx.save(
        model,
        tmp_path / "out.onnx",
        save_as_external_data=True,
        location="weights",
        size_threshold=0,
    )
    one, other = importer.load(path), importer.load(tmp_path / "out.onnx")
    low = torch.rand(1, 3, 9, 8)
    assert torch.equal(one.network(low), other.network(low))
    assert parity.check(other, tmp_path / "out.onnx").largest < 1e-5


def test_an_image_in_bytes_is_taken(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Resize", ["f", "", "by"], ["y"], mode="linear"),
    ]
    by = numpy_helper.from_array(np.float32([1, 1, 3, 3]), "by")
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1, None, None]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, None, None]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [by])
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11), path
    )
    found = importer.load(path)
    assert (found.scale, found.entry.dtype, found.entry.channels) == (3, "uint8", 1)
    assert parity.check(found, path).largest < 1e-5
