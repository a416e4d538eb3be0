"""A frozen network as an integer ONNX graph, in QuantizeLinear/DequantizeLinear form.

The wiring is traced with torch.fx, where convolutions and grids are leaves; each other operation
has one line in TRANSLATE. Every tensor between convolutions is carried in uint8. The rules
behind the forms, found by trying what ONNX Runtime fuses, are in docs/decisions/0003.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from . import __version__, onnx_weights
from .conv import QuantConv2d
from .cost import Cost
from .errors import DataError
from .quantizer import ActQuantizer

METADATA_KEY = "quantnas"


@dataclass
class Graph:
    """An ONNX graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; its output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any) -> str:
        """Store a constant once; its name. A Python number becomes a rank-0 tensor."""
        self.tensors.setdefault(name, numpy_helper.from_array(np.asarray(value, dtype), name))
        return name


@dataclass(frozen=True)
class Value:
    """A tensor of the traced network: its name in the graph, and the grid that it lies on."""

    name: str
    grid: ActQuantizer | None


class Tracer(fx.Tracer):
    """Convolutions and grids are what the exporter knows; it looks into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantConv2d | ActQuantizer)


def quantized(graph: Graph, x: str, name: str, grid: ActQuantizer) -> str:
    """x -> uint8 -> float on the grid; below 8 bits the integers are clipped in uint8."""
    step = graph.constant(f"{name}.step", grid.step.item(), np.float32)
    zero = graph.constant(f"{name}.zero", grid.zero_point, np.uint8)
    q = graph.add("QuantizeLinear", [x, step, zero], f"{name}.q")
    if grid.bits < 8:
        low = graph.constant("clip.low", 0, np.uint8)
        high = graph.constant(f"clip.high{grid.bits}", 2**grid.bits - 1, np.uint8)
        q = graph.add("Clip", [q, low, high], f"{name}.clipped")
    return graph.add("DequantizeLinear", [q, step, zero], name)


def convolution(graph: Graph, x: Value, conv: QuantConv2d, name: str) -> Value:
    """A convolution with packed weights and an int32 bias on the accumulator's grid."""
    source = x.name
    if conv.input_quantizer is not None:
        source = quantized(graph, source, f"{name}.in", conv.input_quantizer)
    weights, bias_step = conv.weight_quantizer, conv.bias_step().detach().numpy()
    q, zero = (t.numpy() for t in weights.integers(conv.weight))
    step = weights.step.detach().numpy()
    nodes, tensors, kernel = onnx_weights.dequantized(name, q, zero, step, weights.bits)
    graph.nodes += nodes
    graph.tensors |= {t.name: t for t in tensors}
    assert conv.bias is not None
    units = np.round(conv.bias.detach().numpy() / bias_step)
    int32 = graph.constant(f"{name}.b", units, np.int32)
    none = graph.constant(f"{name}.bnone", np.zeros(len(units)), np.int32)
    scale = graph.constant(f"{name}.bstep", bias_step, np.float32)
    bias = graph.add("DequantizeLinear", [int32, scale, none], f"{name}.bias", axis=0)
    pad = conv.kernel_size[0] // 2
    graph.add(
        "Conv",
        [source, kernel, bias],
        f"{name}.out",
        kernel_shape=list(conv.kernel_size),
        pads=[pad] * 4,
        group=conv.groups,
    )
    return Value(f"{name}.out", None)


def _relu(graph: Graph, name: str, x: Value, inplace: bool = False) -> Value:
    return Value(graph.add("Relu", [x.name], name), None)


def _add(graph: Graph, name: str, a: Value, b: Value) -> Value:
    return Value(graph.add("Add", [a.name, b.name], name), None)


def _cat(graph: Graph, name: str, parts: list[Value], dim: int) -> Value:
    return Value(graph.add("Concat", [p.name for p in parts], name, axis=dim), None)


def _repeat(graph: Graph, name: str, x: Value, count: int, dim: int) -> Value:
    """Every channel `count` times in a row: a Gather, which keeps the grid."""
    index = graph.constant(f"{name}.index", np.repeat(np.arange(3), count), np.int64)
    assert x.grid is not None
    gathered = graph.add("Gather", [x.name, index], f"{name}.gathered", axis=dim)
    return Value(quantized(graph, gathered, name, x.grid), x.grid)


def _shuffle(graph: Graph, name: str, x: Value, scale: int) -> Value:
    """Depth to space; it keeps the grid, and with it the integers."""
    assert x.grid is not None
    moved = graph.add("DepthToSpace", [x.name], f"{name}.moved", blocksize=scale, mode="CRD")
    return Value(quantized(graph, moved, name, x.grid), x.grid)


TRANSLATE: dict[Any, Callable[..., Value]] = {
    torch.relu: _relu,
    F.relu: _relu,
    torch.cat: _cat,
    torch.repeat_interleave: _repeat,
    F.pixel_shuffle: _shuffle,
}
"""Function of the traced network -> (graph, name, *arguments, **keywords) -> Value."""


def translate(network: nn.Module) -> Graph:
    """The network's graph; input "lr", output "sr", float32 in [0, 1], any height and width."""
    traced = Tracer().trace(network)
    graph, values = Graph(), dict[fx.Node, Any]()
    for node in traced.nodes:
        args: Any = fx.node.map_arg(node.args, values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "placeholder":
            values[node] = Value("lr", None)
        elif node.op == "output":
            graph.add("Identity", [args[0].name], "sr")
        elif node.op == "call_module":
            values[node] = _module(graph, network.get_submodule(str(node.target)), node.name, args)
        else:
            function = TRANSLATE.get(node.target) or OPERATORS[node.target.__name__]
            values[node] = function(graph, node.name, *args, **kwargs)
    return _compact(_without_relus(graph))


OPERATORS: dict[str, Callable[..., Value]] = {"add": _add}
"""The same for Python's operators, by name."""


def _module(graph: Graph, module: nn.Module, name: str, args: Any) -> Value:
    if isinstance(module, QuantConv2d):
        return convolution(graph, args[0], module, module.name)
    assert isinstance(module, ActQuantizer)
    return Value(quantized(graph, args[0].name, name, module), module)


def _without_relus(graph: Graph) -> Graph:
    """Leave out a ReLU in front of a grid that starts at 0: the grid clips by itself."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kept = []
    for node in graph.nodes:
        follows = readers.get(node.output[0], [])
        if node.op_type == "Relu" and all(_starts_at_zero(graph, f) for f in follows):
            for reader in follows:
                reader.input[0] = node.input[0]
        else:
            kept.append(node)
    return Graph(kept, graph.tensors)


def _compact(graph: Graph) -> Graph:
    """Equal constants once, and short names for everything between "lr" and "sr".

    At these sizes of network, names would be half the file. A convolution keeps the name of its
    layer.
    """
    unique: dict[bytes, str] = {}
    short: dict[str, str] = {"lr": "lr", "sr": "sr"}
    tensors = {}
    for name, tensor in graph.tensors.items():
        content = onnx.TensorProto()
        content.CopyFrom(tensor)
        content.ClearField("name")
        key = content.SerializeToString()
        if key not in unique:
            unique[key] = content.name = f"c{len(unique)}"
            tensors[content.name] = content
        short[name] = unique[key]
    for node in graph.nodes:
        for name in node.output:
            short.setdefault(name, f"t{len(short)}")
        if node.op_type == "Conv":
            node.name = node.output[0].removesuffix(".out")
        node.input[:] = [short[name] for name in node.input]
        node.output[:] = [short[name] for name in node.output]
    return Graph(graph.nodes, tensors)


def _starts_at_zero(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "QuantizeLinear":
        return False
    return int(numpy_helper.to_array(graph.tensors[node.input[2]])) == 0


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
