"""Checks that the architectures that people bring are imported, and quantized as predicted.

Every row of `ROWS` is a small random network with the operations of one architecture, written by
both exporters of torch, for images of any size and for one size.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import quantnas
from quantnas.data import image_files
from quantnas.nn.tracing import Tracer
from quantnas.onnx_import import importer, parity
from tests.onnx_import.attention_networks import Craft, Ditn, Hat, OmniSr, SwinIr
from tests.onnx_import.convolutional_networks import (
    Compact,
    Cugan,
    Esrgan,
    Plksr,
    Rcan,
    Safmn,
    Seemore,
    Span,
    Upconv7,
    Xlsr,
)

SIZE = (32, 40)
"""Height and width of the traced image, to which files of a fixed size are fixed."""
OPEN, FIXED = "open", "fixed"


@dataclasses.dataclass(frozen=True)
class Row:
    """One architecture in the table."""

    make: Callable[[], nn.Module]
    scale: int = 2
    sizes: tuple[str, ...] = (OPEN, FIXED)
    """The forms in which torch can write it by tracing."""
    captured: bool = True
    """Whether torch.export can write it for any size."""


ROWS = {
    "rcan": Row(Rcan),
    "safmn": Row(Safmn),
    "safmn_adaptive": Row(lambda: Safmn(adaptive=True), sizes=(FIXED,)),
    "span": Row(Span),
    "plksr": Row(Plksr),
    "realplksr_dysample": Row(lambda: Plksr(sampler=True), captured=False),
    "compact": Row(Compact),
    "upconv7": Row(lambda: Upconv7(padded=False)),
    "upconv7_padded": Row(lambda: Upconv7(padded=True)),
    "realcugan": Row(Cugan),
    "xlsr": Row(Xlsr, scale=3),
    "esrgan_x2": Row(Esrgan),
    "seemore": Row(Seemore),
    "seemore_topk": Row(lambda: Seemore(chosen=True)),
    "swinir_stored": Row(lambda: SwinIr("stored"), sizes=(FIXED,)),
    "swinir_assigned": Row(lambda: SwinIr("assigned")),
    "swinir_compared": Row(lambda: SwinIr("compared")),
    "omnisr": Row(OmniSr),
    "omnisr_einsum": Row(lambda: OmniSr(einsum=True)),
    "craft": Row(Craft),
    "ditn": Row(Ditn),
    "hat": Row(Hat),
}


STORED = {
    path.stem.removesuffix(f"-{OPEN}"): path
    for path in sorted((Path(__file__).parents[1] / "cases" / "onnx_import").glob("*-open.onnx"))
}
"""Row -> a file of it that torch.export wrote for any size, without names and documentation."""


def each_file() -> list:
    """Parameters (name, form) of all files.

    One of every row is quick, unless there is a stored file of it.
    """
    return [
        pytest.param(name, form, id=f"{name}-{form}", marks=[*marks(name, row, form)])
        for name, row in ROWS.items()
        for form in row.sizes
    ]


def marks(name: str, row: Row, form: str) -> Iterator[pytest.MarkDecorator]:
    if form != row.sizes[0] or name in STORED:
        yield pytest.mark.slow


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ROWS[name].make().eval()


def written(net: nn.Module, path: Path, form: str, dynamo: bool = False, opset: int = 17) -> Path:
    """Export a network by tracing, or by torch.export (`dynamo`)."""
    image = torch.rand(1, 3, *SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            side = torch.export.Dim.DYNAMIC
            shapes = ({2: side, 3: side},) if form == OPEN else None
            torch.onnx.export(
                net, (image,), path, dynamo=True, dynamic_shapes=shapes, verbose=False,
                external_data=False,
            )  # fmt: skip
            return path
        axes = {0: "n", 2: "h", 3: "w"}
        torch.onnx.export(
            net, (image,), path, dynamo=False, opset_version=opset, input_names=["x"],
            output_names=["y"], dynamic_axes={"x": axes, "y": axes} if form == OPEN else {},
        )  # fmt: skip
    return path


def require_imported(net: nn.Module, path: Path, form: str, scale: int) -> importer.OnnxImport:
    """The import of a file, which equals ONNX Runtime and, at a size of its own, the network."""
    found = importer.load(path)
    assert found.scale == scale and (found.entry.height is None) == (form == OPEN)
    assert parity.check(found, path).largest < 1e-5
    low = torch.rand(1, 3, *((52, 60) if form == OPEN else SIZE))
    with torch.no_grad():
        torch.testing.assert_close(found.network(low), net(low), rtol=1e-3, atol=1e-4)
        again = torch.fx.GraphModule(found.network, Tracer().trace(found.network))
        assert torch.equal(again(low), found.network(low))
    return found


@pytest.mark.parametrize(("name", "form"), each_file())
def test_a_traced_network_is_imported(name, form, tmp_path):
    net = network(name)
    require_imported(net, written(net, tmp_path / "m.onnx", form), form, ROWS[name].scale)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), each_file())
def test_a_network_that_torch_export_wrote_is_imported(name, form, tmp_path):
    pytest.importorskip("onnxscript")
    if form == OPEN and not ROWS[name].captured:
        pytest.skip("torch.export cannot write it for any size")
    net = network(name)
    path = written(net, tmp_path / "m.onnx", form, dynamo=True)
    require_imported(net, path, form, ROWS[name].scale)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_file_of_torch_export_is_imported(name):
    found = importer.load(STORED[name])
    assert parity.check(found, STORED[name]).largest < 1e-5
    assert (found.scale, found.entry.height) == (ROWS[name].scale, None)


# A network of TensorFlow


def tensorflow_fsrcnn(path: Path, last: bool) -> Path:
    """FSRCNN (arXiv 1608.00367) as converters of TensorFlow write it.

    Images have their channels last between all layers; last: also at both ends of the file.
    """
    rng, tensors, nodes = np.random.default_rng(0), {}, []

    def add(kind: str, *inputs: str, **settings) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"t{len(nodes)}"], **settings))
        return f"t{len(nodes) - 1}"

    def stored(value, kind=np.float32) -> str:
        tensors[f"c{len(tensors)}"] = np.asarray(value, kind)
        return f"c{len(tensors) - 1}"

    def normal(*shape: int) -> str:
        return stored(rng.normal(0, 0.5 / np.sqrt(np.prod(shape[1:])), shape))

    def layer(x: str, c_in: int, c_out: int, side: int) -> str:
        """Conv, BiasAdd and PRelu on images with their channels last."""
        y = add("Transpose", x, perm=[0, 3, 1, 2])
        y = add("Conv", y, normal(c_out, c_in, side, side), auto_pad="SAME_LOWER")
        y = add("Add", add("Transpose", y, perm=[0, 2, 3, 1]), normal(c_out))
        return add("PRelu", y, stored(rng.uniform(0, 0.3, (1, 1, c_out))))

    x = "x" if last else add("Transpose", "x", perm=[0, 2, 3, 1])
    y = x
    for c_in, c_out, side in ((3, 12, 5), (12, 6, 1), (6, 6, 3), (6, 12, 1)):
        y = layer(y, c_in, c_out, side)
    y = add("Transpose", y, perm=[0, 3, 1, 2])
    y = add("ConvTranspose", y, normal(12, 3, 9, 9), strides=[2, 2])  # 2 * side + 7 pixels
    y = add("Transpose", y, perm=[0, 2, 3, 1])
    shape = add("Cast", add("Shape", x), to=TensorProto.INT32)
    sides = [
        add("Mul", add("Slice", shape, *(stored([n], np.int64) for n in (k, k + 1, 0))),
            stored([2], np.int32))
        for k in (1, 2)
    ]  # fmt: skip
    end = add("Add", add("Concat", *sides, axis=0), stored([3, 3], np.int32))
    y = add("Slice", y, stored([3, 3], np.int32), end, stored([1, 2], np.int32))
    y = y if last else add("Transpose", y, perm=[0, 3, 1, 2])
    nodes[-1].output[0] = "y"
    ends = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["n", "h", "w", 3] if last else ["n", 3, "h", "w"]
        )
        for name in ("x", "y")
    ]
    arrays = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "tf", ends[:1], ends[1:], arrays)
    opset = helper.make_opsetid("", 13)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.mark.parametrize("last", [False, True])
def test_a_network_of_tensorflow_is_imported(last, tmp_path):
    path = tensorflow_fsrcnn(tmp_path / "m.onnx", last)
    found = importer.load(path)
    assert found.scale == 2 and parity.check(found, path).largest < 1e-5


# Quantization to 8 bits


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder with the folders `learn` and `held` of small photographs."""
    root = tmp_path_factory.mktemp("photos")
    shipped = image_files.bundled()
    for kind, files in (("learn", shipped.train[:4]), ("held", shipped.held_out[:2])):
        for i, file in enumerate(files):
            image_files.write(root / kind / f"{i}.png", image_files.read(file)[60:156, 60:180])
    return root


def quantized(path: Path, photos: Path, folder: Path) -> dict:
    """The results of the step `quantize` of a file at 8 bits, without retraining."""
    run = quantnas.quantize(
        path,
        bits=8,
        config={"data": str(photos / "learn"), "eval_data": str(photos / "held"), "device": "cpu"},
        settings={"quantize.train": "none", "quantize.crops": 8, "quantize.patch": 32},
        output=folder,
    )
    return run.result("quantize")


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_8_bits_lose_no_more_than_predicted(name, photos, tmp_path):
    """The prediction is of plain rounding with independent errors, so least squares do better.

    It is an upper bound, not an estimate within a fraction of a dB: over these networks the result
    was 0.1 to 6.1 dB closer to the float network than predicted.
    """
    path = written(network(name), tmp_path / f"{name}.onnx", ROWS[name].sizes[0])
    told = quantized(path, photos, tmp_path)
    predicted, reached = told["psnr_to_float_predicted"], told["psnr_to_float"]
    assert predicted - 0.05 <= reached <= predicted + 10
