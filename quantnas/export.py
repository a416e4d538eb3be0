"""A frozen network as an integer ONNX graph, in QuantizeLinear/DequantizeLinear form.

The wiring is traced with torch.fx, where convolutions and grids are leaves; each other operation
has one line in TRANSLATE. Every convolution reads uint8; between them, tensors are carried in
uint8 or in float, as the network does. The rules behind the forms, found by trying what ONNX
Runtime fuses, are in docs/decisions/0003.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import fx, nn

from . import __version__, onnx_weights
from .conv import QuantConv2d
from .cost import Cost
from .ends import LUMA, enlarge, luma
from .errors import DataError
from .imdn import contrast
from .onnx_graph import Graph, tidied
from .onnx_layers import Readers, Value, convolution, quantized
from .quantizer import ActQuantizer
from .rfdn import resize_like
from .tracing import Tracer

METADATA_KEY = "quantnas"


def _pointwise(kind: str) -> Callable[..., Value]:
    """An operator on every number by itself; what it gives lies on no grid."""

    def add(graph: Graph, name: str, *values: Value, inplace: bool = False) -> Value:
        return Value(graph.add(kind, [v.name for v in values], name), None)

    return add


def _cat(graph: Graph, name: str, parts: list[Value], dim: int) -> Value:
    return Value(graph.add("Concat", [p.name for p in parts], name, axis=dim), None)


def _repeat(graph: Graph, name: str, x: Value, count: int, dim: int) -> Value:
    """Every colour `count` times in a row."""
    index = graph.constant(f"{name}.index", np.repeat(np.arange(3), count), np.int64)
    return _kept(graph, name, x, "Gather", index, axis=dim)


def _tile(graph: Graph, name: str, x: Value, counts: tuple[int, int, int, int]) -> Value:
    """All three colours `counts[1]` times, one after the other."""
    index = graph.constant(f"{name}.index", np.tile(np.arange(3), counts[1]), np.int64)
    return _kept(graph, name, x, "Gather", index, axis=1)


def _shuffle(graph: Graph, name: str, x: Value, scale: int) -> Value:
    return _kept(graph, name, x, "DepthToSpace", blocksize=scale, mode="CRD")


def _max_pool(graph: Graph, name: str, x: Value, side: int, stride: int) -> Value:
    return _kept(graph, name, x, "MaxPool", kernel_shape=[side] * 2, strides=[stride] * 2)


def _kept(graph: Graph, name: str, x: Value, kind: str, *more: str, **attributes: Any) -> Value:
    """An operator that only moves values: it keeps the grid, and with it the integers."""
    if x.grid is None:
        return Value(graph.add(kind, [x.name, *more], name, **attributes), None)
    moved = graph.add(kind, [x.name, *more], f"{name}.moved", **attributes)
    return quantized(graph, moved, name, x.grid)


def _part(graph: Graph, name: str, x: Value, dim: int, start: int, length: int) -> Value:
    """`length` of the channels, from `start` on."""
    ends = (("start", start), ("end", start + length), ("dim", dim))
    at = [graph.constant(f"{name}.{end}", [n], np.int64) for end, n in ends]
    return _kept(graph, name, x, "Slice", *at)


def _leaky(
    graph: Graph, name: str, x: Value, negative_slope: float, inplace: bool = False
) -> Value:
    return Value(graph.add("LeakyRelu", [x.name], name, alpha=negative_slope), None)


def _contrast(graph: Graph, name: str, x: Value) -> Value:
    """Deviation plus mean over height and width, in float."""
    mean = graph.add("GlobalAveragePool", [x.name], f"{name}.mean")
    centred = graph.add("Sub", [x.name, mean], f"{name}.centred")
    square = graph.add("Mul", [centred, centred], f"{name}.square")
    variance = graph.add("GlobalAveragePool", [square], f"{name}.variance")
    deviation = graph.add("Sqrt", [variance], f"{name}.deviation")
    return Value(graph.add("Add", [deviation, mean], name), None)


def _luma(graph: Graph, name: str, x: Value) -> Value:
    weights = graph.constant("luma.weights", np.reshape(LUMA, (1, 3, 1, 1)), np.float32)
    parts = graph.add("Mul", [x.name, weights], f"{name}.parts")
    axis = graph.constant("axis.colours", [1], np.int64)
    return Value(graph.add("ReduceSum", [parts, axis], name, keepdims=1), None)


def _enlarge(graph: Graph, name: str, x: Value, scale: int) -> Value:
    """Bilinear, by a factor."""
    factors = graph.constant(f"factors{scale}", [1, 1, scale, scale], np.float32)
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return Value(graph.add("Resize", [x.name, "", factors], name, **how), None)


def _resize(graph: Graph, name: str, x: Value, like: Value) -> Value:
    """Bilinear, to the height and width of `like`; they stay open in the file."""
    sides = []
    for source, ends in ((x, (0, 2)), (like, (2, 4))):
        shape = graph.add("Shape", [source.name], f"{name}.shape{ends[0]}")
        at = [graph.constant(f"{name}.at{end}", [end], np.int64) for end in ends]
        sides.append(graph.add("Slice", [shape, *at], f"{name}.sides{ends[0]}"))
    sizes = graph.add("Concat", sides, f"{name}.sizes", axis=0)
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return Value(graph.add("Resize", [x.name, "", "", sizes], name, **how), None)


TRANSLATE: dict[Any, Callable[..., Value]] = {
    torch.relu: _pointwise("Relu"),
    F.relu: _pointwise("Relu"),
    torch.cat: _cat,
    torch.repeat_interleave: _repeat,
    torch.tile: _tile,
    torch.sigmoid: _pointwise("Sigmoid"),
    torch.max_pool2d: _max_pool,
    torch.narrow: _part,
    F.leaky_relu: _leaky,
    contrast: _contrast,
    resize_like: _resize,
    luma: _luma,
    enlarge: _enlarge,
    F.pixel_shuffle: _shuffle,
}
"""Function of the traced network -> (graph, name, *arguments, **keywords) -> Value."""


@torch.no_grad()
def translate(network: nn.Module) -> Graph:
    """The network's graph; input "lr", output "sr", float32 in [0, 1], any height and width."""
    traced = Tracer().trace(network)
    modules = {n: network.get_submodule(str(n.target)) for n in traced.nodes if n.op == CALL}
    readers = _readers(modules)
    graph, values = Graph(), dict[fx.Node, Any]()
    for node in traced.nodes:
        args: Any = fx.node.map_arg(node.args, values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
        module = modules.get(node)
        if node.op == "placeholder":
            values[node] = Value("lr", None)
        elif node.op == "output":
            graph.add("Identity", [args[0].name], "sr")
        elif isinstance(module, QuantConv2d):
            values[node] = convolution(graph, args[0], module, readers)
        elif isinstance(module, ActQuantizer):
            values[node] = quantized(graph, args[0].name, node.name, module)
        else:
            function = TRANSLATE.get(node.target) or OPERATORS[node.target.__name__]
            values[node] = function(graph, node.name, *args, **kwargs)
    return tidied(graph)


OPERATORS: dict[str, Callable[..., Value]] = {"add": _pointwise("Add"), "mul": _pointwise("Mul")}
"""The same for Python's operators, by name."""
CALL = "call_module"
"""A node of a trace that stands for a module."""


def _readers(modules: Mapping[fx.Node, nn.Module]) -> Readers:
    """The grids that read a convolution, directly or behind a ReLU; 0 is then their lower end."""
    found: dict[str, ActQuantizer] = {}
    convs = {node: m for node, m in modules.items() if isinstance(m, QuantConv2d)}
    for node, conv in convs.items():
        users, relu = list(node.users), False
        if len(users) == 1 and users[0].target in (torch.relu, F.relu):
            users, relu = list(users[0].users), True
        module = modules.get(users[0]) if len(users) == 1 else None
        grid = module.input_quantizer if isinstance(module, QuantConv2d) else module
        if isinstance(grid, ActQuantizer) and not (relu and grid.zero_point):
            found[conv.name] = grid
    return found


def to_onnx(network: nn.Module, cost: Cost, scale: int, path: Path) -> None:
    """Write a frozen network (`quantize.freeze`) to `path`, checked by ONNX's own checker.

    Layers, bits and BitOps go into the file's metadata as JSON.
    """
    graph = translate(network)
    stores = [onnx_weights.STORAGE[layer.weight_bits] for layer in cost.layers]
    low = helper.make_tensor_value_info("lr", TensorProto.FLOAT, ["n", 3, "height", "width"])
    high = helper.make_tensor_value_info(
        "sr", TensorProto.FLOAT, ["n", 3, f"{scale}*height", f"{scale}*width"]
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "quantnas", [low], [high], list(graph.tensors.values())),
        opset_imports=[helper.make_opsetid("", max(s.opset for s in stores))],
        ir_version=max(s.ir_version for s in stores),
        producer_name="quantnas",
        producer_version=__version__,
    )
    facts = {"version": __version__, "scale": scale, "cost": asdict(cost)}
    helper.set_model_props(model, {METADATA_KEY: json.dumps(facts, separators=(",", ":"))})
    onnx.checker.check_model(model, full_check=True)
    part = path.with_suffix(".part")
    part.write_bytes(model.SerializeToString())
    part.replace(path)


def read_metadata(path: Path) -> dict[str, Any]:
    """What `to_onnx` wrote about the file: version, scale and cost.

    Raises DataError when it is no ONNX file, or none of this project.
    """
    try:
        model = onnx.load(path)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Check the path.") from error
    except Exception as error:
        raise DataError(f"{path} is not a complete ONNX file.", "Export it again.") from error
    text = {p.key: p.value for p in model.metadata_props}.get(METADATA_KEY)
    if text is None:
        raise DataError(
            f"{path} was not exported by quantnas: it has no '{METADATA_KEY}' metadata.",
            "Give a file that `quantnas export` wrote.",
        )
    facts: dict[str, Any] = json.loads(text)
    return facts


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
