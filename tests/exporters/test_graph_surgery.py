"""Checks imported networks: as macro-architectures, and in the files that are made from theirs."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

from quantnas.architectures import cost, imported_onnx, network, onnx_survey, registry
from quantnas.cli.main import main
from quantnas.config import genotype
from quantnas.config.run_config import ExportConfig, PixelsConfig
from quantnas.config.search_space import Pixels, SearchSpace, outputs
from quantnas.exporters import graph_surgery, onnx_metadata, verification
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer
from quantnas.onnx_import import pixel_conversion
from quantnas.quantization import post_training, retraining


class Small(nn.Module):
    """A network with groups, dilation, stride, an enlarging convolution and a skip."""

    def __init__(self, peak: int = 1) -> None:
        super().__init__()
        self.peak = peak
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.norm.running_mean.normal_()
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.strided = nn.Conv2d(8, 4, 3, stride=2)
        self.up, self.last = nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.Conv2d(4, 3, 1)

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        x = low / self.peak
        y = F.relu(self.norm(self.first(F.pad(x, (1, 0, 0, 2))[:, :, 2:, 1:])))
        y = y + self.deep(y) * self.strided(y).mean((1, 2, 3), keepdim=True).sigmoid()
        skip = F.interpolate(x, scale_factor=2, mode="bilinear")
        return (self.last(F.relu(self.up(y))) * 0.05 + skip) * self.peak


def exported(net, path, opset=13, axes=None):
    """Export a network to ONNX; axes: None = any number of images, of any size."""
    net.eval()
    axes = {"x": {0: "n", 2: "h", 3: "w"}} if axes is None else axes
    torch.onnx.export(
        net, (torch.rand(1, 3, 24, 20),), path, opset_version=opset, dynamo=False,
        input_names=["x"], output_names=["y"], dynamic_axes=axes,
    )  # fmt: skip
    return path


pytestmark = pytest.mark.filterwarnings("ignore")


def space_of(path):
    return SearchSpace("it", "onnx", 2, 0, 0, {}, source=str(path))


def rounded(space, bits, low, powers=False):
    """A frozen network and its cost; with `powers`, steps are powers of two and floats exact."""
    found = onnx_survey.genotype(space)
    precision = genotype.uniform_precision(registry.slots(space), bits)
    net = network.build(space, found, precision)
    network.initialise(net, low)
    for grid in net.modules():
        if powers and isinstance(grid, ActQuantizer | WeightQuantizer):
            grid.log2_step.data.round_()
        if powers and getattr(grid, "octaves", None) is not None:
            grid.octaves.data.round_()
    return post_training.freeze(net), cost.network_cost(space, found, precision)


def test_the_network_in_float_is_that_of_the_file(tmp_path):
    net = Small()
    space = space_of(exported(net, tmp_path / "m.onnx"))
    built = network.build(space, onnx_survey.genotype(space), None).eval()
    low = torch.rand(2, 3, 21, 30)
    torch.testing.assert_close(built(low), net(low), rtol=0, atol=1e-6)
    assert [slot.name for slot in registry.slots(space)][-1] == "last"


def test_forms_and_areas_are_read_from_the_file(tmp_path):
    space = space_of(exported(Small(), tmp_path / "m.onnx"))
    slots = {slot.name: slot for slot in registry.slots(space)}
    assert slots["deep"].ops == ("conv3x3_groups2_dilation2",)
    assert slots["strided"].area == "strided" and slots["strided"].gate
    assert slots["up"].up == 2 and slots["up"].ops == ("transposed4x4_up2",)
    assert [outputs(slots[n].area, 30, 20, 2) for n in ("up", "last")] == [600, 2400]


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_file_is_the_network(bits, compat, tmp_path, pixels):
    space = space_of(exported(Small(), tmp_path / "m.onnx"))
    net, totals = rounded(space, bits, pixels(4, 20, 24))
    form = ExportConfig(compat=compat)
    written = graph_surgery.to_onnx(net, totals, space, tmp_path / "out.onnx", form)
    images = [np.random.default_rng(k).integers(0, 256, (20 + k, 31, 3), np.uint8) for k in (0, 1)]
    found = verification.verify(tmp_path / "out.onnx", net, images)
    assert found.integer_convolutions == found.convolutions == 5
    assert (written.compat, written.note) == (compat, None)


def test_the_file_is_equal_with_steps_that_are_powers_of_two(tmp_path, pixels):
    class Plain(nn.Sequential):
        pass

    net = Plain(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 1, 1), nn.PixelShuffle(2))
    space = space_of(exported(net, tmp_path / "m.onnx"))
    ours, totals = rounded(space, 4, pixels(4, 20, 24), powers=True)
    graph_surgery.to_onnx(ours, totals, space, tmp_path / "out.onnx", ExportConfig())
    low = torch.randint(0, 9, (1, 3, 19, 14)) / 8  # on a grid of powers of two
    run = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    (got,) = run.run(None, {"x": low.numpy()})
    assert np.array_equal(got, ours(low).detach().numpy())


def uneven(path):
    """A file of one convolution whose padding differs on both ends, with strides of 1."""
    rng = np.random.default_rng(0)
    w = numpy_helper.from_array(rng.normal(size=(12, 3, 3, 2)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[2, 0, 0, 1]),
        helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="DCR"),
    ]
    ends = [helper.make_tensor_value_info(n, 1, ["n", 3, None, None]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)],
                                ir_version=8), path)  # fmt: skip
    return path


def test_uneven_padding_and_the_order_of_channels_stay_those_of_the_file(tmp_path, pixels):
    space = space_of(uneven(tmp_path / "m.onnx"))
    net, totals = rounded(space, 8, pixels(4, 20, 24))
    graph_surgery.to_onnx(net, totals, space, tmp_path / "out.onnx", ExportConfig())
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
    assert verification.verify(tmp_path / "out.onnx", net, [image]).max_steps <= 1
    kinds = [n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node]
    assert "DepthToSpace" in kinds and "Conv" not in kinds


def test_a_file_that_cannot_be_converted_gets_bytes_and_a_note(tmp_path, pixels, monkeypatch):
    space = space_of(exported(Small(), tmp_path / "m.onnx"))
    net, totals = rounded(space, 2, pixels(4, 20, 24))

    def fail(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(graph_surgery.file_forms, "converted", fail)
    written = graph_surgery.to_onnx(net, totals, space, tmp_path / "out.onnx", ExportConfig())
    assert written.compat and written.opset == 13 and "bytes" in written.note


# What an image becomes


@pytest.mark.parametrize("pixels_", [Pixels(255, 255, "BGR"), Pixels(multiple=8, smallest=24)])
def test_what_is_taken_is_given_back(pixels_):
    low = torch.rand(1, 3, 13, 17)
    there = pixel_conversion.taken(low, pixels_)
    back = pixel_conversion.given(F.interpolate(there, scale_factor=2), low, pixels_, 2)
    torch.testing.assert_close(back, F.interpolate(low, scale_factor=2), rtol=0, atol=1e-6)
    assert all(side % pixels_.multiple == 0 for side in there.shape[2:])


def test_brightness_alone_leaves_grey_grey():
    low = torch.full((1, 3, 6, 5), 0.5)
    y = pixel_conversion.taken(low, Pixels(order="Y"))
    assert y.shape == (1, 1, 6, 5)
    out = pixel_conversion.given(F.interpolate(y, scale_factor=2), low, Pixels(order="Y"), 2)
    torch.testing.assert_close(out, torch.full((1, 3, 12, 10), 0.5))


def test_ranges_are_found_out_and_can_be_set(tmp_path):
    path = exported(Small(255), tmp_path / "m.onnx")
    found = onnx_survey.survey(path)
    assert (found.space.pixels.input_peak, found.space.pixels.output_peak) == (255, 255)
    assert onnx_survey.survey(path, PixelsConfig(order="BGR")).space.pixels.order == "BGR"
    assert any("0..255" in line for line in onnx_survey.lines(found))


# Retraining


class Learned(nn.Module):
    """A network with every kind of layer whose parameters a file stores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)
        self.alone, self.share = nn.PReLU(), nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.before, self.one = nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True)
        self.group, self.norm = nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.full, self.deep = nn.Linear(8, 8), nn.Linear(8, 8)
        self.line = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 3, 2), nn.Conv2d(8, 3, 3)
        for layer in (self.act, self.alone, self.before, self.one, self.group, self.norm):
            for parameter in layer.parameters():  # equal tensors would be stored once
                parameter.data.uniform_(0.5, 1)
        self.before.weight.data.fill_(1)  # as the variances, so both become one tensor

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        x = self.act(self.first(low))
        x = self.alone(self.before(x) * self.share)
        x = x + self.one(x) + self.group(x)
        rows = self.norm(x.permute(0, 2, 3, 1))
        x = x + self.full(rows).permute(0, 3, 1, 2)
        mean = x.mean((2, 3))
        x = x * self.deep(mean).sigmoid()[:, :, None, None]
        x = x * self.line(mean[:, None]).transpose(1, 2)[..., None].sigmoid()
        skip = F.interpolate(low, scale_factor=2, mode="bilinear")
        return F.pad(self.last(self.up(x)), (0, 1, 0, 1)) * 0.1 + skip


def test_what_learns_is_written_and_nothing_else_learns(tmp_path, pixels):
    space = space_of(exported(Learned(), tmp_path / "m.onnx", 17))
    found = onnx_survey.genotype(space)
    precision = genotype.uniform_precision(registry.slots(space), 8)
    net = network.build(space, found, precision)
    network.initialise(net, pixels(4, 20, 24))
    retraining.set_trainable(net, "weights")
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.02)
    for seed in range(3):
        optimizer.zero_grad()
        net(pixels(2, 16, 20, seed)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    learned = imported_onnx.learned(net)
    names = {name for name, p in net.named_parameters() if any(p is q for q in learned.values())}
    assert len(learned) == 10 and names <= changed  # slopes, factors, and three normalisations
    others = {n.split(".")[1] for n in changed - names}
    assert others <= {"first", "full", "deep", "last", "first_pixels"}
    totals = cost.network_cost(space, found, precision)
    frozen = post_training.freeze(net)
    graph_surgery.to_onnx(frozen, totals, space, tmp_path / "out.onnx", ExportConfig())
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
    assert verification.verify(tmp_path / "out.onnx", frozen, [image]).unoptimised.psnr > 60


# The command


def command(*arguments):
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return end.value.code


def test_a_file_from_elsewhere_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = exported(Small(255), tmp_path / "m.onnx")
    given = ["--train", "none", "--set", "quantize.crops=4", "-o", "out.onnx"]
    assert command("quantize", path, "--bits", "w4a8", *given) == 0
    assert "5 of 5 convolutions in integers" in capsys.readouterr().out
    told = onnx_metadata.read_metadata(tmp_path / "out.onnx")
    assert told.scale == 2 and told.pixels.input_peak == 255
    assert command("info", "out.onnx") == 0 and command("info", path) == 0
    assert command("evaluate", "out.onnx", path) == 0
    assert command("quantize", "out.onnx", "--bits", "4") == 3
    assert command("quantize", path) == 2


@pytest.mark.parametrize("axes", [{}, {"x": {2: "h", 3: "w"}, "y": {2: "H", 3: "W"}}])
def test_a_file_for_one_image_or_one_size_is_calibrated_on_many(
    tmp_path, capsys, monkeypatch, axes
):
    """Nearly all third-party files state a batch of one image."""
    monkeypatch.chdir(tmp_path)
    path = exported(Small(255), tmp_path / "m.onnx", axes=axes)
    given = ["--train", "none", "--set", "quantize.crops=4", "-o", "out.onnx"]
    assert command("quantize", path, "--bits", "w4a8", *given) == 0
    assert "5 of 5 convolutions in integers" in capsys.readouterr().out
    before, after = (onnx.load(file).graph for file in (path, "out.onnx"))
    assert list(before.input) == list(after.input)
    assert [out.name for out in before.output] == [out.name for out in after.output]


def test_all_that_cannot_be_imported_is_named(tmp_path, capsys):
    path = exported(Small(), tmp_path / "m.onnx")
    model = onnx.load(path)
    for k, kind in enumerate(("Det", "NonZero")):
        model.graph.node.insert(0, helper.make_node(kind, ["x"], [f"z{k}"], f"node{k}"))
    onnx.save(model, path)
    assert command("quantize", path, "--bits", "4", "--output", tmp_path) == 2
    told = capsys.readouterr().err
    assert "node0" in told and "node1" in told
