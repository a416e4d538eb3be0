"""Checks that the forms of files that people have are imported, quantized, verified and run."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from quantnas.architectures import cost, network, onnx_survey, registry
from quantnas.config import genotype
from quantnas.config.run_config import ExportConfig
from quantnas.data import image_files
from quantnas.data.patches import to_tensor
from quantnas.errors import DataError
from quantnas.evaluation import latency
from quantnas.exporters import graph_surgery, onnx_metadata, verification
from quantnas.inference import tiling, upscaler
from quantnas.onnx_import import file_forms, file_reader
from quantnas.quantization import post_training
from quantnas.runs import models
from quantnas.runs.watcher import SILENT, follow

CASES = Path(__file__).parents[1] / "cases" / "third_party"
"""Small files that torch exported."""

Tensors = dict[str, np.ndarray]


def weights(colours: int = 3) -> Tensors:
    """Weights of three convolutions that double an image: nearest neighbours, and some noise."""
    rng = np.random.default_rng(0)
    tensors: Tensors = {}
    shapes = {"a": (8, colours, 5, 5), "b": (8, 8, 3, 3), "c": (4 * colours, 8, 3, 3)}
    for name, shape in shapes.items():
        kernel = rng.normal(0, 0.01, shape)
        for k in range(shape[0] if name == "c" else colours):
            kernel[k, k // 4 if name == "c" else k, shape[2] // 2, shape[2] // 2] += 1
        tensors[f"{name}.weight"] = kernel.astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.01, shape[0]).astype(np.float32)
    return tensors


def nodes(x: str = "x", y: str = "y", pads: int = 1) -> list[onnx.NodeProto]:
    """The nodes of the network, from x to y; `pads`: 0 for convolutions without padding."""
    ends = {"a": (x, "a0", 2 * pads), "b": ("a1", "b0", pads), "c": ("b1", "c0", pads)}
    made = []
    for name, (source, out, pad) in ends.items():
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        made.append(helper.make_node("Conv", inputs, [out], f"/{name}/Conv", pads=[pad] * 4))
        if name != "c":
            made.append(helper.make_node("Relu", [out], [f"{name}1"]))
    made.append(helper.make_node("DepthToSpace", ["c0"], [y], blocksize=2, mode="CRD"))
    return made


def model(
    graph: list[onnx.NodeProto] | None = None,
    tensors: Tensors | None = None,
    shape: tuple = ("n", 3, "h", "w"),
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(v, k) for k, v in (tensors or weights()).items()]
    entry = helper.make_tensor_value_info("x", kind, shape)
    output = helper.make_tensor_value_info("y", kind, ["n", "c", "H", "W"])
    made = helper.make_graph(graph or nodes(), "g", [entry], [output], stored)
    ir_version = 3 if opset < 9 else 8
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


# Forms


def half(ends: bool) -> onnx.ModelProto:
    """Half precision; with `ends`, the input and the output are in half too."""
    tensors = {k: v.astype(np.float16) for k, v in weights().items()}
    if ends:
        return model(None, tensors, kind=TensorProto.FLOAT16)
    first = helper.make_node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", ["yh"], ["y"], to=TensorProto.FLOAT)
    return model([first, *nodes("xh", "yh"), last], tensors)


def channels_last() -> onnx.ModelProto:
    first = helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 3, 1, 2])
    last = helper.make_node("Transpose", ["yt"], ["y"], perm=[0, 2, 3, 1])
    return model([first, *nodes("xt", "yt"), last], None, ("n", "h", "w", 3))


def in_bytes(whole: bool = True) -> onnx.ModelProto:
    """Bytes at both ends, or with `whole` false floats that lie on 256 levels."""
    tensors = {**weights(), "white": np.float32(255), "black": np.float32(0)}
    middle = nodes("xs", "ys")
    first = [
        helper.make_node("Cast", ["x"], ["xf"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["xf", "white"], ["xs"]),
    ]
    last = [
        helper.make_node("Mul", ["ys", "white"], ["ym"]),
        helper.make_node("Round", ["ym"], ["yr"]),
        helper.make_node("Clip", ["yr", "black", "white"], ["yc"]),
    ]
    if whole:
        last.append(helper.make_node("Cast", ["yc"], ["y"], to=TensorProto.UINT8))
        return model([*first, *middle, *last], tensors, kind=TensorProto.UINT8)
    last.append(helper.make_node("Div", ["yc", "white"], ["y"]))
    return model([*nodes("x", "ys"), *last], tensors)


def old(opset: int) -> onnx.ModelProto:
    """An old operator set, with the weights among the inputs."""
    tensors = weights()
    order = np.arange(12).reshape(3, 4).T.ravel()  # before opset 11, DepthToSpace knows DCR alone
    for name in ("c.weight", "c.bias"):
        tensors[name] = tensors[name][order]
    graph = nodes()
    del graph[-1].attribute[1]
    made = model(graph, tensors, opset=opset)
    stored = [(t.name, t.data_type, t.dims) for t in made.graph.initializer]
    made.graph.input.extend(helper.make_tensor_value_info(*each) for each in stored)
    return made


def without_shape(end: str) -> onnx.ModelProto:
    made = model()
    getattr(made.graph, end)[0].type.tensor_type.ClearField("shape")
    return made


def dequantized() -> onnx.ModelProto:
    tensors = weights()
    kernel = tensors.pop("b.weight")
    tensors["q"] = np.round(kernel / 0.01).clip(-128, 127).astype(np.int8)
    tensors["step"] = np.float32(0.01)
    node = helper.make_node("DequantizeLinear", ["q", "step"], ["b.weight"])
    return model([node, *nodes()], tensors)


def branched() -> onnx.ModelProto:
    """An If whose condition is computed from constants; each branch has tensors of its own."""
    tensors = {**weights(), "one": np.float32(1), "two": np.float32(2)}
    before, after = nodes()[:-2], nodes()[-2:]
    kept = helper.make_graph(
        [
            helper.make_node("Mul", ["b1", "factor"], ["m"]),
            helper.make_node("Identity", ["m"], ["out"]),
        ],
        "then",
        [],
        [onnx.ValueInfoProto(name="out")],
        [numpy_helper.from_array(np.float32(1), "factor")],
    )
    other = helper.make_graph(
        [helper.make_node("Det", ["b1"], ["out"])], "else", [], [onnx.ValueInfoProto(name="out")]
    )
    condition = helper.make_node("Less", ["one", "two"], ["condition"])
    node = helper.make_node("If", ["condition"], ["b2"], then_branch=kept, else_branch=other)
    after[0].input[0] = "b2"
    return model([condition, *before, node, *after], tensors)


def upsampled() -> onnx.ModelProto:
    """A bilinear skip with the positions of old operator sets."""
    made = old(9)
    made.graph.node[-1].output[0] = "d"
    made.graph.node.extend(
        [
            helper.make_node("Upsample", ["x", "factors"], ["u"], mode="linear"),
            helper.make_node("Add", ["d", "u"], ["s"]),
            helper.make_node("Mul", ["s", "half"], ["y"]),
        ]
    )
    more = {"factors": np.float32([1, 1, 2, 2]), "half": np.float32([0.5])}
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in more.items())
    return made


def renamed(name: str) -> onnx.ModelProto:
    """A file with a convolution, and a weight, of that name."""
    tensors = weights()
    tensors[f"{name}.weight"] = tensors.pop("b.weight")
    graph = nodes()
    graph[2].input[1], graph[2].name = f"{name}.weight", name
    return model(graph, tensors)


FORMS: dict[str, Callable[[], onnx.ModelProto]] = {
    "half_inside": lambda: half(False),
    "half_at_both_ends": lambda: half(True),
    "open_channels": lambda: model(shape=("n", "c", "h", "w")),
    "one_open_channel": lambda: model(None, weights(1), ("n", "c", "h", "w")),
    "channels_last": channels_last,
    "bytes": in_bytes,
    "levels": lambda: in_bytes(False),
    "fixed": lambda: model(shape=(1, 3, 40, 32)),
    "four_images": lambda: model(shape=(4, 3, "h", "w")),
    "opset_6": lambda: old(6),
    "opset_7": lambda: old(7),
    "opset_8": lambda: old(8),
    "upsampled": upsampled,
    "no_input_shape": lambda: without_shape("input"),
    "no_output_shape": lambda: without_shape("output"),
    "dequantized": dequantized,
    "branched": branched,
    "shrinks": lambda: model(nodes(pads=0)),
    "shrinks_fixed": lambda: model(nodes(pads=0), None, (1, 3, 64, 64)),
    "name_in": lambda: renamed("in"),
    "name_code": lambda: renamed("code"),
    "name_self": lambda: renamed("self"),
    "name_graph": lambda: renamed("graph"),
}
"""Name -> file of the same network in another form."""


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A part of a photograph, (56, 72, 3)."""
    return image_files.read(image_files.bundled().held_out[0])[100:156, 200:272]


def quantized(path: Path, target: Path, bits: int = 8):
    """Survey a file, quantize it without training, and write it -> survey, frozen network."""
    found = onnx_survey.survey(path)
    chosen = onnx_survey.genotype(found.space)
    precision = genotype.uniform_precision(registry.slots(found.space), bits)
    net = network.build(found.space, chosen, precision)
    image = image_files.read(image_files.bundled().train[0])
    crops = np.stack([image[k : k + 32, k : k + 32] for k in (0, 50, 100, 150)])
    network.initialise(net, to_tensor(crops))
    net = post_training.freeze(net)
    totals = cost.network_cost(found.space, chosen, precision)
    graph_surgery.to_onnx(net, totals, found.space, target, ExportConfig())
    return found, net


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


QUICK = ("half_inside", "bytes", "channels_last", "opset_7", "branched", "shrinks")
"""Forms that the fast tests try; the slow ones try all."""


def some(names, quick) -> list:
    """The names, of which those that are not quick are for the slow tests alone."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("form", some(FORMS, QUICK))
def test_a_form_is_imported_quantized_verified_and_run(form, photo, tmp_path):
    path, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(FORMS[form](), path)
    found, net = quantized(path, target)
    assert len(registry.slots(found.space)) == 3
    checked = verification.verify(target, net, [photo])
    assert checked.integer_convolutions == checked.convolutions == 3
    nearest = photo.repeat(2, 0).repeat(2, 1)
    before, after = (
        tiling.upscaler(models.resolve(str(f)).network())(photo) for f in (path, target)
    )
    assert before.shape == after.shape == nearest.shape
    assert psnr(before, nearest) > 28 and psnr(after, before) > 34


@pytest.mark.parametrize(
    "case", some(sorted(p.stem for p in CASES.glob("*.onnx")), ("split_bench",))
)
def test_a_file_of_torch_is_imported_quantized_and_verified(case, photo, tmp_path):
    path, target = CASES / f"{case}.onnx", tmp_path / "q.onnx"
    found, net = quantized(path, target)
    assert found.parity.largest < 1e-4
    verification.verify(target, net, [photo[:32, :32]])
    file, original = (models.resolve(str(f)).network() for f in (target, path))
    assert psnr(*(tiling.upscaler(n)(photo) for n in (file, original))) > 25
    compared, setting = [models.resolve(str(target))], latency.Setting(rounds=1)
    result = follow(latency.measure(compared, setting), SILENT)
    assert result.rows[0].float_times is not None


def test_products_with_matrices_are_as_small_as_convolutions(photo, tmp_path):
    found, _ = quantized(CASES / "linear_pointwise.onnx", tmp_path / "q.onnx")
    slots = {slot.name: slot for slot in registry.slots(found.space)}
    assert [slot.ops for slot in slots.values()][1] == ("conv1x1",)
    assert not registry.float_layers(found.space)
    assert {slot.area for slot in slots.values()} == {"low"}
    stored = onnx.load(tmp_path / "q.onnx").graph
    assert not any(node.op_type in ("MatMul", "Gemm") for node in stored.node)


@pytest.mark.slow
def test_what_was_changed_in_a_file_is_told(tmp_path):
    told = {}
    for form in ("half_inside", "four_images", "opset_8", "branched", "channels_last", "shrinks"):
        onnx.save(FORMS[form](), tmp_path / "m.onnx")
        told[form] = " ".join(onnx_survey.lines(onnx_survey.survey(tmp_path / "m.onnx")))
    assert "half precision" in told["half_inside"]
    assert "4 images at a time" in told["four_images"]
    assert "version 8" in told["opset_8"]
    assert "branches" in told["branched"]
    assert "NHWC" in told["channels_last"]
    assert "border of 8 pixels" in told["shrinks"] and "by 4 pixels" in told["shrinks"]


def test_the_usual_form_stays_as_it_is():
    made = file_forms.usual(model())[0]
    again, notes = file_forms.usual(onnx.ModelProto.FromString(made.SerializeToString()))
    assert again == made and notes == ()
    assert made == model()


def test_a_file_of_one_size_enlarges_photographs_of_every_size(photo, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(FORMS["fixed"](), path)
    model_ = models.resolve(str(path))
    open_file = tmp_path / "open.onnx"
    onnx.save(model(), open_file)
    whole = upscaler.onnx_upscaler(open_file, onnx_survey.survey(path).space.pixels)
    for height, width in ((56, 72), (20, 50), (41, 32), (40, 32)):
        low = photo[:height, :width]
        large = tiling.upscaler(model_.network())(low)
        inner = (slice(16, -16), slice(16, -16)) if min(low.shape[:2]) > 16 else ...
        assert large.shape == (2 * height, 2 * width, 3)
        assert np.abs(large[inner].astype(int) - whole(low)[inner]).max() <= 1
    with pytest.raises(DataError, match="only takes images of 40 rows and 32 columns"):
        tiling.upscaler(model_.network(), tiling.Tiling(0))(photo)


@pytest.mark.parametrize("length", [64, 65, 100, 127, 128, 500])
def test_equal_spans_cover_an_axis(length):
    spans = tiling.equal_spans(length, 64, 16)
    assert spans[0].start == 0 and spans[-1].stop == length
    assert all(one.stop == other.start for one, other in pairwise(spans))
    for span in spans:
        assert 0 <= span.first <= span.start < span.stop <= span.last <= length
        assert span.last - span.first == 64
        assert span.start == 0 or span.start - span.first >= 16
        assert span.stop == length or span.last - span.stop >= 16


TIMED = ("half_at_both_ends", "bytes", "channels_last", "one_open_channel")

# Files that are something else

PAGES = {
    "a web page": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "a ZIP archive": b"PK\x03\x04" + bytes(60),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(60),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_file_that_is_something_else_is_named(kind, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(PAGES[kind])
    for read in (onnx_metadata.exported_here, file_reader.complete):
        with pytest.raises(DataError, match=f"m.onnx is {kind}.*no ONNX file"):
            read(path)


def test_images_in_blocks_of_four_that_depend_on_it_are_refused_at_once(tmp_path):
    tensors = {**weights(), "s": np.array([4, 3, 37, 50], np.int64)}
    graph = [helper.make_node("Reshape", ["x", "s"], ["r"]), *nodes("r")]
    onnx.save(model(graph, tensors, (4, 3, 37, 50)), tmp_path / "m.onnx")
    with pytest.raises(DataError, match="cannot run"):
        onnx_survey.survey(tmp_path / "m.onnx")


@pytest.mark.parametrize("form", some(TIMED, ("one_open_channel",)))
def test_a_form_is_timed_before_and_after(form, tmp_path):
    path, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(FORMS[form](), path)
    quantized(path, target)
    compared = [models.resolve(str(f)) for f in (path, target)]
    setting = latency.Setting((30, 40), rounds=1)
    result = follow(latency.measure(compared, setting), SILENT)
    assert [row.float_times is None for row in result.rows] == [True, False]


def test_gradients_pass_through_the_roundings_of_a_file(tmp_path):
    onnx.save(FORMS["bytes"](), tmp_path / "m.onnx")
    space = onnx_survey.survey(tmp_path / "m.onnx").space
    net = network.build(space, onnx_survey.genotype(space), None)
    net(torch.rand(1, 3, 12, 14)).square().sum().backward()
    assert all(conv.weight.grad.abs().sum() > 0 for conv in network.convolutions(net).values())


def test_what_a_file_in_half_precision_counts_is_said(tmp_path):
    for name, file in (("half", half(True)), ("whole", model())):
        onnx.save(file, tmp_path / f"{name}.onnx")
    what = [models.resolve(str(tmp_path / f"{name}.onnx")).what for name in ("half", "whole")]
    assert what[0].endswith("half.onnx in half precision, counted in float32")
    assert what[1].endswith("whole.onnx")
