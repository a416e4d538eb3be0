"""Checks the forms of the exported file against the usual one, and the command that writes them."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto

from quantnas.architectures import cost, network, registry
from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.config.genotype import Choice, uniform_precision
from quantnas.config.run_config import ExportConfig, RunConfig
from quantnas.config.schema import parse
from quantnas.config.search_space import Precision
from quantnas.errors import DataError, UsageError, VerificationError
from quantnas.exporters import onnx_export, onnx_metadata, verification
from quantnas.inference import upscaler
from quantnas.nn.quantizers import ActQuantizer
from quantnas.pipeline import evaluate_step, export_step
from quantnas.quantization import post_training
from quantnas.runs import run_settings
from quantnas.runs.run_folder import Run

WIDTHS = [(8, 8), (4, 8), (4, 4), (3, 8), (2, 8), (2, 4), (2, 2)]
ALL = {"compat": True, "uint8_io": True, "size": "7x10"}
FORMS = [ExportConfig(**{key: setting}) for key, setting in ALL.items()] + [ExportConfig(**ALL)]
IMAGE = np.random.default_rng(5).integers(0, 256, (7, 10, 3), np.uint8)


@pytest.fixture
def make(small, random_genotype, pixels):
    """Function (space, weight bits, activation bits, change) -> (frozen network, cost, scale)."""

    def build(name: str, weights: int, activations: int = 8, settle=lambda net: None):
        space = small[name] if name in small else search_space.load(name, 2)
        slots, genotype = registry.slots(space), random_genotype(space, 4)
        if name == "tiny":
            genotype.choices["cell0_body2"] = Choice("growth3x3", 2, 2)
        precision = uniform_precision(slots, weights, activations)
        net = network.build(space, genotype, precision)
        network.initialise(net, pixels(2, 16, 16, 5))
        settle(net)
        rows = cost.layers(slots, genotype, precision, space.scale)
        return post_training.freeze(net), cost.total(rows, space.scale), space.scale

    return build


def run(path, image: np.ndarray = IMAGE) -> np.ndarray:
    """Output of the file, (1, 3, H, W), in its own type."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    low = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    if entry.type == "tensor(float)":
        low = low / np.float32(255)
    return session.run(None, {"lr": low})[0]


def in_pixels(high: np.ndarray) -> np.ndarray:
    return high if high.dtype == np.uint8 else np.round(high.clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["tiny", "imdn"])
def test_every_form_runs_in_integers_and_gives_what_the_usual_one_gives(make, tmp_path, name, bits):
    net, totals, scale = make(name, bits)
    onnx_export.to_onnx(net, totals, scale, tmp_path / "usual.onnx")
    usual = run(tmp_path / "usual.onnx")
    for i, form in enumerate(FORMS):
        path = tmp_path / f"{i}.onnx"
        onnx_export.to_onnx(net, totals, scale, path, form)
        kinds = [node.op_type for node in verification.optimised(path).graph.node]
        assert kinds.count("QLinearConv") + kinds.count("ConvInteger") == len(totals.layers)
        assert "Conv" not in kinds
        found = run(path)
        assert found.dtype == (np.uint8 if form.uint8_io else np.float32)
        assert np.array_equal(found, in_pixels(usual) if form.uint8_io else usual)
    found = upscaler.onnx_upscaler(path)(IMAGE)
    assert np.array_equal(found, in_pixels(usual)[0].transpose(1, 2, 0)) and found.std() > 5


@torch.no_grad()
def powers(net) -> None:
    """Make all steps powers of two, those of pixels too, and give the output some contrast.

    Zero points of carried tensors become even, as in `test_onnx_export.round_steps`.
    """
    for name, p in net.named_parameters():
        if name.endswith(("log2_step", "octaves")):
            p.round_()
    for grid in net.modules():
        if isinstance(grid, ActQuantizer):
            if grid.octaves is None:
                grid.zero.copy_((grid.zero / 2).round() * 2)
            if grid.fixed:
                grid.log2_step.fill_(-8.0)
    *_, last = network.convolutions(net).values()
    last.bias.add_(0.5)


@pytest.mark.parametrize(("weights", "activations"), WIDTHS)
@pytest.mark.parametrize("name", ["tiny", "imdn"])
def test_with_steps_that_are_powers_of_two_both_storages_equal_torch(
    make, pixels, tmp_path, name, weights, activations
):
    net, totals, scale = make(name, weights, activations, powers)
    with torch.no_grad():
        wanted = net(torch.from_numpy(IMAGE.transpose(2, 0, 1)[None] / np.float32(255))).numpy()
    assert wanted.std() > 0.02
    onnx_export.to_onnx(net, totals, scale, tmp_path / "m.onnx")
    assert np.array_equal(run(tmp_path / "m.onnx"), wanted)
    form = ExportConfig(compat=True, uint8_io=True)  # the grid of the pixels is not theirs here
    onnx_export.to_onnx(net, totals, scale, tmp_path / "m.onnx", form)
    assert np.array_equal(run(tmp_path / "m.onnx"), in_pixels(wanted))


def test_factors_of_channels_are_taken_out_in_integers_behind_a_grid(make, tmp_path):
    net, totals, scale = make("tiny", 4, 4)
    grids = [m for m in net.modules() if isinstance(m, ActQuantizer) and m.octaves is not None]
    assert any((grid.factors != 1).any() for grid in grids)
    onnx_export.to_onnx(net, totals, scale, tmp_path / "m.onnx")
    better = verification.optimised(tmp_path / "m.onnx")
    kinds = [node.op_type for node in better.graph.node]
    assert kinds.count("QLinearConv") > len(totals.layers) and "Conv" not in kinds
    steps = {t.name: t.dims for t in better.graph.initializer}
    assert not any(steps[n.input[1]] for n in better.graph.node if n.op_type == "QuantizeLinear")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_form_for_old_runtimes_has_old_operators_and_types(make, tmp_path, bits):
    net, totals, scale = make("imdn", bits)
    form, path = ExportConfig(compat=True), tmp_path / "m.onnx"
    onnx_export.to_onnx(net, totals, scale, path, form)
    model = onnx.load(path)
    assert model.ir_version == 7 and [o.version for o in model.opset_import] == [13]
    assert ("Gather" in {n.op_type for n in model.graph.node}) == (bits < 8)
    stored = sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == UINT8)
    assert (
        stored + sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == INT8)
        < 1.3 * totals.weight_bytes + 2000
    )
    assert {t.data_type for t in model.graph.initializer} <= {1, 2, 3, 5, 6, 7}


UINT8, INT8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8


def test_pixels_stay_integers_from_the_first_convolution_to_the_last(make, tmp_path):
    net, totals, scale = make("tiny", 8)
    onnx_export.to_onnx(net, totals, scale, tmp_path / "m.onnx", ExportConfig(uint8_io=True))
    kinds = {node.op_type for node in verification.optimised(tmp_path / "m.onnx").graph.node}
    assert not kinds & {"QuantizeLinear", "DequantizeLinear", "Cast", "Div", "Identity"}


@pytest.mark.parametrize("name", ["tiny", "basic", "rfdn", "imdn", "rfdn_published", "fsrcnn"])
def test_a_file_of_one_size_knows_every_shape_and_refuses_other_images(make, tmp_path, name):
    net, totals, scale = make(name, 4)
    path = tmp_path / "m.onnx"
    onnx_export.to_onnx(net, totals, scale, path, ExportConfig(size="16x20"))
    graph = onnx.load(path).graph
    sides = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*graph.input, *graph.output, *graph.value_info]
    }
    assert sides["lr"] == [1, 3, 16, 20] and sides["sr"] == [1, 3, 16 * scale, 20 * scale]
    assert {name for node in graph.node for name in node.output} <= set(sides)
    assert all(all(shape) for shape in sides.values())
    upscale = upscaler.onnx_upscaler(path)
    image = np.zeros((16, 20, 3), np.uint8)
    assert upscale(image).shape == (16 * scale, 20 * scale, 3)
    for other in (image[:, :19], image[:15], image.transpose(1, 0, 2)):
        with pytest.raises(DataError, match="only takes images of 16 rows and 20 columns"):
            upscale(other)


@pytest.mark.parametrize("name", ["tiny", "apart", "basic", "rfdn", "edsr", "imdn", "fsrcnn"])
def test_the_float_file_computes_what_torch_does(small, random_genotype, pixels, tmp_path, name):
    space = small[name] if name in small else search_space.load(name, 2)
    genotype, slots = random_genotype(space, 4), registry.slots(space)
    net = network.build(space, genotype, None).eval()
    none = {slot.name: Precision(32, 32) for slot in slots}
    totals = cost.total(cost.layers(slots, genotype, none, 2), 2)
    path = tmp_path / "m.onnx"
    onnx_export.to_onnx(net, totals, 2, path)
    model = onnx.load(path)
    assert [o.version for o in model.opset_import] == [13] and model.ir_version == 7
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == len(totals.layers) and "QuantizeLinear" not in kinds
    image = np.ascontiguousarray(IMAGE.repeat(3, 0).repeat(2, 1))  # 21 x 20
    with torch.no_grad():
        wanted = net(torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255))).numpy()
    np.testing.assert_allclose(run(path, image), wanted, atol=1e-4)
    assert wanted.std() > 0.01
    assert onnx_metadata.read_metadata(path).cost == totals


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_is_not_weights_is_short(make, tmp_path, bits):
    """Names, steps, biases, nodes and metadata of layers with 7 channels on average are counted."""
    net, totals, scale = make("tiny", bits)
    for form, most in ((ExportConfig(plain=True), 560), (ExportConfig(), 740)):
        onnx_export.to_onnx(net, totals, scale, tmp_path / "m.onnx", form)
        rest = (tmp_path / "m.onnx").stat().st_size - totals.weight_bytes
        assert rest < most * len(totals.layers)


def command(*arguments) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_writes_the_form_that_was_asked_for(source, tmp_path, capsys):
    file = tmp_path / "m.onnx"
    options = ("--compat", "--uint8-io", "--plain", "--size", "24x32", "--output", tmp_path)
    assert command("export", source, "-o", file, *options) == 0
    made = tmp_path / "export" / "mine"
    found = json.loads((made / "steps" / "export.json").read_text())["psnr"]
    told = f"the file: {found['file']:.2f} dB PSNR-Y, bicubic {found['bicubic']:.2f} dB, on 2 held"
    assert told in capsys.readouterr().out
    assert file.read_bytes() == (made / "model.onnx").read_bytes()
    graph = onnx.load(file).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 24, 32]
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8
    settings = (made / "config.yaml").read_text()
    assert "size: 24x32" in settings and "plain: true" in settings
    assert "Pad" not in {node.op_type for node in graph.node}
    assert command("evaluate", made, "--output", tmp_path) == 3
    assert "only takes images of 24 rows and 32 columns" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["m.onnx"]


def test_the_float_network_is_written_beside(source, tmp_path):
    file = tmp_path / "float.onnx"
    assert command("export", source, "--float", "-o", file, "--output", tmp_path) == 0
    made = tmp_path / "export" / "mine"
    assert (made / "model.onnx").exists()
    assert file.read_bytes() == (made / "model.float.onnx").read_bytes()
    assert "Conv" in {node.op_type for node in onnx.load(file).graph.node}


def test_a_place_that_cannot_be_written_is_told_before_anything_is_done(
    source, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    cases = {
        "none/m.onnx": "does not exist",
        "file/m.onnx": "is a file",
        "folder": "is a folder",
    }
    for name, words in cases.items():
        assert (
            command("export", source, "-o", tmp_path / name, "--force", "--output", tmp_path) == 3
        )
        assert words in capsys.readouterr().err

    def refuse(**keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert command("export", source, "-o", tmp_path / "m.onnx", "--output", tmp_path) == 3
    assert "Permission denied" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_a_rejected_file_is_left_beside_the_wanted_one(source, tmp_path, monkeypatch):
    def reject(*arguments):
        raise VerificationError("It differs.", "Train.")

    monkeypatch.setattr(verification, "verify", reject)
    file = tmp_path / "m.onnx"
    assert command("export", source, "-o", file, "--output", tmp_path) == 4
    made = tmp_path / "export" / "mine"
    assert not file.exists() and not (made / "model.onnx").exists()
    rejected = tmp_path / "m.rejected.onnx"
    assert rejected.read_bytes() == (made / "model.rejected.onnx").read_bytes()


@pytest.mark.parametrize("size", ["12", "0x8", "x", "8x-1", "", "4x4x4"])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(UsageError, match="`size` is height x width"):
        parse(RunConfig, {"export": {"size": size}}, "configuration")


def test_a_size_below_what_the_network_needs_is_refused(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "smallest", lambda space: 9)
    assert command("export", source, "--size", "8x40", "--output", tmp_path) == 2
    assert "needs 9 pixels" in capsys.readouterr().err


def test_an_evaluated_run_with_a_file_of_one_size_is_measured_at_any(source, tmp_path):
    run, form = Run(source), ExportConfig(size="24x32")
    config = dataclasses.replace(run_settings.load_config(run), export=form)
    list(export_step.export_step(run, config))
    list(evaluate_step.evaluate_step(run, config))
    assert run.result("evaluate")["sets"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "m.tflite", "--float"], "but the format is float"),
        (["-o", "m.onnx", "--format", "tflite"], "but the format is tflite"),
        (["--format", "qonnx", "--float"], "are both given"),
    ],
)
def test_formats_that_contradict_each_other_are_refused(
    source, tmp_path, capsys, monkeypatch, arguments, told
):
    monkeypatch.chdir(tmp_path)
    assert command("export", source, *arguments, "--output", "there") == 2
    assert told in capsys.readouterr().err and not (tmp_path / "there").exists()


def test_a_name_that_ends_in_tflite_means_that_format(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("export", source, "-o", "m.tflite", "--size", "24x32", "--output", "there") == 0
    made = tmp_path / "there" / "export" / "mine"
    assert (tmp_path / "m.tflite").read_bytes() == (made / "model.tflite").read_bytes()
    assert (
        f"upscale PHOTO -m {made.relative_to(tmp_path) / 'model.onnx'}" in capsys.readouterr().out
    )


def test_a_qonnx_file_is_not_taken_for_a_damaged_one(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--format", "qonnx", "--size", "24x32", "--output", "there"]
    assert command("export", source, "-o", "q.onnx", *options) == 0
    assert command("evaluate", "q.onnx", "--data", "photos", "--output", "there") == 3
    assert "is a QONNX file" in capsys.readouterr().err
