"""A network from elsewhere, rounded, as an ONNX file: its own file with other convolutions in it.

Every node of the original stays as it was; only those that give what a rounded convolution gives
are replaced, by the integer form of `onnx_layers`. So whatever else the file does, it does still,
for images of all sizes that it took. Its names, its input and its output stay too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper, version_converter

from quantnas.architectures import imported_onnx
from quantnas.architectures.cost import Cost
from quantnas.architectures.network import convolutions
from quantnas.config.run_config import ExportConfig
from quantnas.config.search_space import SearchSpace
from quantnas.errors import UsageError
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import FloatTensor
from quantnas.onnx_import import file_reader, subgraphs

from . import onnx_metadata
from .onnx_graph import CONVOLUTIONS, OnnxGraph, compact
from .onnx_layers import OnnxValue, convolution, quantized
from .packed_weights import STORAGE

FILE = "file:"
"""In front of the names of the original, while there are others beside them."""
LAYERS = (*CONVOLUTIONS, "ConvTranspose")
OLDEST = STORAGE[8].opset
"""The version of the operators that integer convolutions need at least."""


@dataclass(frozen=True)
class Written:
    """What became of a file."""

    opset: int
    compat: bool
    """Whether weights lie in bytes and tables."""
    note: str | None = None


@torch.no_grad()
def to_onnx(
    network: imported_onnx.ImportedNetwork,
    cost: Cost,
    space: SearchSpace,
    path: Path,
    form: ExportConfig,
) -> Written:
    """Write a frozen network to `path`, whole or not at all; ONNX's own checker has passed it.

    Where the operators of the file cannot be brought to the version that packed weights need, they
    are stored in bytes, as `form.compat` does. Raises UsageError for a form that only networks of
    this project have, and where not even that is possible.
    """
    if form.uint8_io or form.sides or form.format != "onnx":
        raise UsageError(
            "A network from elsewhere keeps the input and the output of its file.",
            "Leave `export.format`, `export.uint8_io` and `export.size` out.",
        )
    convs = {c.name: c for c in convolutions(network).values() if isinstance(c, QuantConv2d)}
    model, compat = _raised(space.source, [c.precision.weights for c in convs.values()], form)
    _replace(model, network, convs, compat)
    onnx_metadata.write(model, cost, space.scale, path, space.pixels)
    note = "weights are stored in bytes: the operators of the file cannot be brought to a version "
    note += "with packed types"
    told = note if compat and not form.compat else None
    return Written(_opset(model), compat, told)


def _opset(model: onnx.ModelProto) -> int:
    return next(o.version for o in model.opset_import if o.domain in file_reader.STANDARD)


def _raised(source: str, bits: Iterable[int], form: ExportConfig) -> tuple[onnx.ModelProto, bool]:
    """The original, at a version of the operators that has what is needed; whether in bytes."""
    model = file_reader.complete(Path(source))
    stores = [STORAGE[8 if form.compat else b] for b in bits]
    wanted = max(store.opset for store in stores)
    reasons = []
    for compat, opset in ((form.compat, wanted), (True, OLDEST)):
        try:
            found = _converted(model, opset)
        except Exception as error:  # of the converter, which has no class for it
            reasons.append(file_reader.line(error))
            continue
        needed = max(s.ir_version for s in STORAGE.values() if s.opset <= opset)
        found.ir_version = max(found.ir_version, needed)
        return found, compat
    raise UsageError(
        f"The operators of {source} cannot be brought to version {OLDEST}: {reasons[-1]}.",
        f"Export the network with opset {OLDEST} or later.",
    )


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """With operators of that version at least."""
    if _opset(model) >= opset:
        return _same(model)
    found = version_converter.convert_version(model, opset)
    names = {name for node in found.graph.node for name in node.output}
    lost = {name for node in model.graph.node for name in node.output} - names
    if any(node.output[0] in lost for node in model.graph.node if node.op_type in LAYERS):
        raise ValueError("the converter renames tensors")
    onnx.checker.check_model(found)
    return found


# Nodes


def _replace(
    model: onnx.ModelProto,
    network: imported_onnx.ImportedNetwork,
    convs: Mapping[str, QuantConv2d],
    compat: bool,
) -> None:
    """Put integer convolutions where those of the network are, in place."""
    nodes, places = list(model.graph.node), imported_onnx.places(network)
    makers = {name: node for node in nodes for name in node.output}
    at = {node.output[0]: k for k, node in enumerate(nodes)}
    order = sorted(convs, key=lambda name: at[places[name].gives])
    graph, parts = OnnxGraph(), {}
    for name in order:  # constants that several share must come before all of them
        before = len(graph.nodes)
        _written(graph, makers[places[name].made], places[name].gives, convs[name], compat)
        parts[places[name].gives] = (before, len(graph.nodes))
    taken = {*makers, *(name for node in nodes for name in node.input)}
    outside = {name for name in _names(graph) if name.startswith(FILE)}
    graph = compact(graph, outside, taken | {t.name for t in model.graph.initializer})
    for node in graph.nodes:
        node.input[:] = [name.removeprefix(FILE) for name in node.input]
        node.output[:] = [name.removeprefix(FILE) for name in node.output]
    floats = {place.made: name for name, place in places.items() if name not in convs}
    new: list[onnx.NodeProto] = []
    for node in nodes:
        if node.op_type in CONVOLUTIONS:
            node.name = floats.get(node.output[0], "")
        part = parts.get(node.output[0])
        new += [node] if part is None else graph.nodes[slice(*part)]
    _keep_used(model, new, list(graph.tensors.values()))


def _names(graph: OnnxGraph) -> set[str]:
    return {name for node in graph.nodes for name in (*node.input, *node.output)}


def _written(
    graph: OnnxGraph, node: onnx.NodeProto, gives: str, conv: QuantConv2d, compat: bool
) -> None:
    """The integer form of a convolution that reads what `node` of the file does."""
    x = OnnxValue(f"{FILE}{node.input[0]}", None)
    if not isinstance(conv.source, FloatTensor):
        x = quantized(graph, x.name, f"{conv.name}.pixels", conv.source)
    form = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    convolution(graph, x, conv, {}, compat, form if conv.up == 1 else None)
    if conv.up > 1:
        made = graph.nodes[-1].output[0]
        graph.add("DepthToSpace", [made], "", blocksize=conv.up, mode="CRD")
    graph.nodes[-1].output[0] = f"{FILE}{gives}"


def _keep_used(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]
) -> None:
    """Leave out what does not reach the output any more."""
    graph = model.graph
    kept, names = subgraphs.needed(nodes, [value.name for value in graph.output])
    tensors = [t for t in (*graph.initializer, *tensors) if t.name in names]
    stored = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name in names or v.name not in stored]
    known: list[Any] = []  # shapes that the converter has found would be a large part of the file
    for field, values in (
        (graph.node, kept),
        (graph.initializer, tensors),
        (graph.input, inputs),
        (graph.value_info, known),
    ):
        copies = [_same(value) for value in values]
        del field[:]
        field.extend(copies)


def _same(value: Any) -> Any:
    found = type(value)()
    found.CopyFrom(value)
    return found
