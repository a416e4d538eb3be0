"""Export of a rounded third-party network: its own ONNX file with integer convolutions in it.

The nodes of rounded convolutions are replaced by the integer forms of `onnx_layers`, and grids are
put behind the tensors that are carried in 8 bits. Every other node of the original file stays, or
has a faster form (`node_forms`), and so do its input and its output: the new file takes images of
the same sizes and does everything else as before.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from quantnas.architectures import imported_onnx
from quantnas.architectures.cost import Cost
from quantnas.architectures.network import convolutions
from quantnas.config.run_config import ExportConfig
from quantnas.config.search_space import SearchSpace
from quantnas.errors import UsageError
from quantnas.nn.convolutions import QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, FloatTensor
from quantnas.onnx_import import file_forms, file_reader, subgraphs
from quantnas.onnx_import.channel_order import CHANNELS_LAST, CHANNELS_SECOND, Step

from . import convolution_forms, node_forms, onnx_metadata
from .onnx_graph import CONVOLUTIONS, OnnxGraph, compact
from .onnx_layers import OnnxValue, Readers, convolution, quantized
from .packed_weights import STORAGE

FILE = "file:"
"""Prefix of names of the original file, while the new nodes have names of their own."""
LAYERS = (*CONVOLUTIONS, "ConvTranspose", "MatMul", "Gemm")
"""Operators of the layers that may be rounded."""
OLDEST = STORAGE[8].opset
"""The oldest opset that has integer convolutions."""


@dataclass(frozen=True)
class WrittenFile:
    """Form of a file that was written."""

    opset: int
    compat: bool
    """Whether weights are stored in bytes with tables, not in packed types."""
    note: str | None = None
    """A remark for users, if there is one."""


@torch.no_grad()
def to_onnx(
    network: imported_onnx.ImportedNetwork,
    cost: Cost,
    space: SearchSpace,
    path: Path,
    form: ExportConfig,
) -> WrittenFile:
    """Write a frozen imported network to `path`, completely or not at all, after ONNX's checker.

    When the file's operators cannot be converted to the opset that packed weights need, weights
    are stored in bytes, as `form.compat` does. Raises UsageError when `form` asks for another
    input, output or format, and when the operators cannot be converted for bytes either.
    """
    if form.uint8_io or form.sides or form.format != "onnx":
        raise UsageError(
            "An imported network keeps the input and the output of its file.",
            "Leave `export.format`, `export.uint8_io` and `export.size` out.",
        )
    convs = {c.name: c for c in convolutions(network).values() if isinstance(c, QuantConv2d)}
    model, compat = _with_opset(space.source, [c.precision.weights for c in convs.values()], form)
    _write_learned(model, network)
    _replace(model, network, convs, compat)
    if not form.plain:
        model = convolution_forms.fast(model)
    onnx_metadata.write(model, cost, space.scale, path, space.pixels)
    note = None
    if compat and not form.compat:
        note = (
            "weights are stored in bytes: the operators of the file cannot be brought to a version "
            "with packed types"
        )
    return WrittenFile(_opset(model), compat, note)


def _opset(model: onnx.ModelProto) -> int:
    opset = file_forms.opset_of(model)
    assert opset is not None  # it was read
    return opset


def _with_opset(
    source: str, bits: Iterable[int], form: ExportConfig
) -> tuple[onnx.ModelProto, bool]:
    """Read the original at an opset that can store these weight bits; whether in bytes."""
    model = file_reader.complete(Path(source))
    stores = [STORAGE[8 if form.compat else b] for b in bits]
    packed = max(store.opset for store in stores)
    reasons = []
    for compat, opset in ((form.compat, packed), (True, OLDEST)):
        try:
            converted = _converted(model, opset)
        except Exception as error:  # the converter of ONNX has no exception class of its own
            reasons.append(file_reader.line(error))
            continue
        ir_version = max(s.ir_version for s in STORAGE.values() if s.opset <= opset)
        converted.ir_version = max(converted.ir_version, ir_version)
        return converted, compat
    raise UsageError(
        f"The operators of {source} cannot be brought to version {OLDEST}: {reasons[-1]}.",
        f"Export the network with opset {OLDEST} or later.",
    )


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy of the model, converted to that opset unless it has a later one."""
    if _opset(model) >= opset:
        return _copy(model)
    converted = file_forms.converted(model, opset)
    names = {name for node in converted.graph.node for name in node.output}
    lost = {name for node in model.graph.node for name in node.output} - names
    if any(node.output[0] in lost for node in model.graph.node if node.op_type in LAYERS):
        raise ValueError("the converter renames tensors")
    onnx.checker.check_model(converted)
    return converted


# Nodes


def _replace(
    model: onnx.ModelProto,
    network: imported_onnx.ImportedNetwork,
    convs: Mapping[str, QuantConv2d],
    compat: bool,
) -> None:
    """Replace the rounded convolutions of the model by integer ones, in place; add its grids."""
    nodes, places = list(model.graph.node), imported_onnx.places(network)
    makers = {name: node for node in nodes for name in node.output}
    carried = imported_onnx.grids(network)
    layers = {places[name].output: name for name in convs}
    floats = {place.node_output: name for name, place in places.items() if name not in convs}
    known = node_forms.facts(model)
    writer = _Writer(
        OnnxGraph(),
        places,
        carried,
        imported_onnx.readers(network),
        imported_onnx.absorbed(network),
        known,
        compat,
    )
    for node in nodes:  # in the order of the file: shared constants come before all readers
        layer = next((layers[name] for name in node.output if name in layers), None)
        if node.op_type in CONVOLUTIONS:
            node.name = floats.get(node.output[0], "")
        if layer is not None:
            writer.add_convolution(makers[places[layer].node_output], convs[layer])
        else:
            writer.keep(node)
    taken = {*makers, *(name for node in nodes for name in node.input)}
    outside = {f"{FILE}{name}" for name in (_outer_names(model) if carried else taken)}
    graph = compact(writer.graph, outside, taken | {t.name for t in model.graph.initializer})
    for node in graph.nodes:
        node.input[:] = [name.removeprefix(FILE) for name in node.input]
        node.output[:] = [name.removeprefix(FILE) for name in node.output]
    _keep_used(model, graph.nodes, list(graph.tensors.values()))


def _outer_names(model: onnx.ModelProto) -> set[str]:
    """Names that must stay: inputs, outputs, stored tensors, and what graphs inside nodes read."""
    graph = model.graph
    inside = {name for node in graph.node for name in subgraphs.inputs(node) - {*node.input}}
    return inside.union(
        *({v.name for v in vs} for vs in (graph.input, graph.output, graph.initializer))
    )


@dataclass(frozen=True)
class _Writer:
    """A graph in which the rounded layers of a file and the grids of its tensors are written."""

    graph: OnnxGraph
    places: Mapping[str, imported_onnx.Place]
    carried: Mapping[str, ActQuantizer]
    """Tensor of the file -> the grid that it lies on."""
    readers: Readers
    absorbed: Collection[str]
    """Tensors of the file that a grid computes from the input of their node."""
    known: node_forms.Facts
    compat: bool
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    """Absorbed tensor -> the tensor of the file that stands for it."""

    def keep(self, node: onnx.NodeProto) -> None:
        """Add a node of the file, with grids behind those of its outputs that lie on one."""
        if self.carried and node.op_type == "Constant" and node.attribute[0].name == "value":
            stored = _copy(node.attribute[0].t)
            stored.name = f"{FILE}{node.output[0]}"
            self.graph.tensors[stored.name] = stored
            return
        if node.output[0] in self.absorbed:
            self.sources[node.output[0]] = node.input[0]
            self._round(node.output[0])
            return
        for form in node_forms.faster(node, self.known) if self.carried else [node]:
            copied = _copy(form)
            if self.carried and node.op_type not in CONVOLUTIONS:
                copied.name = ""  # so that many nodes stay small beside weights of few bits
            copied.input[:] = [f"{FILE}{name}" if name else "" for name in form.input]
            copied.output[:] = [self._raw(name) for name in form.output]
            self.graph.nodes.append(copied)
        for name in node.output:
            self._round(name)

    def _raw(self, name: str) -> str:
        """Name of a tensor of the file before it is rounded."""
        if name in self.sources:
            return f"{FILE}{self.sources[name]}"
        return f"{name}.raw" if name in self.carried else f"{FILE}{name}" if name else ""

    def _round(self, name: str) -> None:
        if name in self.carried:
            quantized(self.graph, self._raw(name), f"{FILE}{name}", self.carried[name])

    def add_convolution(self, node: onnx.NodeProto, conv: QuantConv2d) -> None:
        """Add the integer form of a layer that has the same input as `node` of the file."""
        graph, place = self.graph, self.places[conv.name]
        rank, output = place.rank, place.output
        source = node.input[0]
        name = f"{FILE}{source if source in self.carried else self.sources.get(source, source)}"
        x = OnnxValue(_reshaped(graph, name, conv.name, CHANNELS_SECOND, rank), None)
        if not isinstance(conv.source, FloatTensor):
            if self.carried.get(node.input[0]) is conv.source and rank is None:
                x = OnnxValue(name, conv.source)
            else:
                x = quantized(graph, x.name, f"{conv.name}.source", conv.source)
        form = {a.name: helper.get_attribute_value(a) for a in node.attribute if rank is None}
        y = convolution(
            graph, x, conv, self.readers, self.compat, form if conv.up == 1 else None
        ).name
        grid = self.carried.get(output)
        if grid is not None and (conv.up > 1 or rank is not None):
            y = quantized(graph, y, f"{conv.name}.own", grid).name
        if conv.up > 1:
            y = graph.add("DepthToSpace", [y], f"{conv.name}.up", blocksize=conv.up, mode="CRD")
        _reshaped(graph, y, f"{conv.name}.rows", CHANNELS_LAST, rank)
        last = graph.nodes[-1]
        last.output[0] = self._raw(output)
        if last.op_type in CONVOLUTIONS:
            last.name = conv.name
        self._round(output)


def _reshaped(
    graph: OnnxGraph, x: str, name: str, steps: dict[int, tuple[Step, ...]], rank: int | None
) -> str:
    """Append the steps for that rank -> the name of the last output; rank None: of an image."""
    for k, (kind, axes) in enumerate(() if rank is None else steps[rank]):
        output = f"{name}.step{k}"
        if kind == "Transpose":
            x = graph.add(kind, [x], output, perm=axes)
        else:
            stored = graph.constant(f"axes.{'.'.join(map(str, axes))}", axes, np.int64)
            x = graph.add(kind, [x, stored], output)
    return x


def _write_learned(model: onnx.ModelProto, network: imported_onnx.ImportedNetwork) -> None:
    """Write the parameters that may have learned into the tensors that they were read from."""
    values = imported_onnx.learned(network)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            value = values[tensor.name].numpy(force=True).reshape(tensor.dims)
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(kind), tensor.name))


def _keep_used(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]
) -> None:
    """Write these nodes and tensors into the model, without those that no output depends on."""
    graph = model.graph
    used, names = subgraphs.needed(nodes, [value.name for value in graph.output])
    tensors = [t for t in (*graph.initializer, *tensors) if t.name in names]
    stored = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name in names or v.name not in stored]
    no_shapes: list[Any] = []  # shapes from the converter would be a large part of the file
    for field, values in (
        (graph.node, used),
        (graph.initializer, tensors),
        (graph.input, inputs),
        (graph.value_info, no_shapes),
    ):
        copies = [_copy(value) for value in values]
        del field[:]
        field.extend(copies)


def _copy(value: Any) -> Any:
    copied = type(value)()
    copied.CopyFrom(value)
    return copied
