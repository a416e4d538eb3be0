"""A third-party network in an ONNX file as a macro-architecture: its convolutions are the edges.

Everything else in the file stays as it was imported. Tensors between convolutions lie on grids of 8
bits or are in float, as the layer factory says, and a convolution rounds what it reads in float. So
an imported network is a search space with one architecture. Its weights come with it.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quantnas.config.search_space import FloatLayer, Pixels, SearchSpace, Slot
from quantnas.errors import UsageError
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.layer_factory import LayerFactory
from quantnas.nn.quantizers import ActQuantizer, FloatTensor, round_ste
from quantnas.nn.tracing import CALL, RELUS, only_grid
from quantnas.onnx_import import (
    carried_tensors,
    file_reader,
    importer,
    layer_analysis,
    layer_roles,
    pixel_conversion,
)
from quantnas.onnx_import.graph_builder import LEARNED, MADE, RANK, TENSOR

MARGIN = 8
"""Least number of levels below 0 on a grid of 8 bits, unless nothing can be negative there."""
KEPT = 4
"""Number of imported files that are kept in memory."""
SOURCE = "source.onnx"
"""Name of the copy of an imported file in a run folder."""


class ImportedNetwork(nn.Module):
    """An imported network between conversions of its input and output images.

    x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W), which may leave [0, 1] a little. RGB in
    [0, 1] is converted to the file's range, channel order and size, and its output back.
    """

    kinds = ()
    smallest = 1

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.pixels, self.scale = space.pixels, space.scale
        self.inner = copy.deepcopy(read(space.source).network)
        positive = layer_roles.positive(self.inner)
        slots, edges = imported_slots(space), dict[str, Any]()
        self.grids = _add_grids(self.inner, [slot.name for slot in slots], factory, space.pixels)
        for slot in slots:
            node = _node(self.inner, slot.name)
            source = _source(self.inner, node, factory, space.pixels, positive)
            edge = edges[slot.name] = factory.edge(slot, source)
            _inherit(edge, self.inner.get_submodule(slot.name))
            if self.grids and not _is_behind_layer(self.inner, node):
                _of_one_step(edge, carried_tensors.ceiling(node.args[0]))  # type: ignore[arg-type]
            _leave_margin(edge)
            self.inner.add_module(slot.name, edge)
            if slot.up > 1:
                _set_inset(edge, slot)
                _shuffled(self.inner, node, slot.up)
        for slot in slots:
            if slot.kernel:
                _tie(edges[slot.kernel], edges[slot.name])
        _let_gradients_through(self.inner)
        self.inner.recompile()

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(pixel_conversion.taken(x, self.pixels))
        return pixel_conversion.given(out, x, self.pixels, self.scale)

    def double(self) -> "ImportedNetwork":
        """Convert to float64, including the casts to float32 that the file states."""
        super().double()
        for node in self.inner.graph.nodes:
            args, kwargs = node.args, node.kwargs
            node.args = fx.node.map_aggregate(args, _wider)
            node.kwargs = fx.node.map_aggregate(kwargs, _wider)
        self.inner.recompile()
        return self


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def kept(space: SearchSpace, folder: Path) -> SearchSpace:
    """Copy the file of a space, with all its data, into a run folder -> the space with that copy.

    The `source` of the space returned is the name of the copy inside the folder.
    """
    onnx.save(file_reader.complete(Path(space.source)), folder / SOURCE)
    return replace(space, source=SOURCE)


def read(source: str) -> importer.OnnxImport:
    """Import the network in an ONNX file; a file that has not changed is imported only once.

    Raises as `importer.load`.
    """
    path = Path(source)
    stat = path.stat() if path.is_file() else None
    return _read(path, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(KEPT)
def _read(path: Path, version: tuple[int, int] | None) -> importer.OnnxImport:
    return importer.load(path)


def imported_slots(space: SearchSpace) -> tuple[Slot, ...]:
    """Slots of every convolution that can be rounded, in the order in which they run.

    Raises UsageError when the file has none, or enlarges by another scale than the space states.
    """
    imported = read(space.source)
    if imported.scale != space.scale:
        raise UsageError(
            f"The network enlarges x{imported.scale}, but x{space.scale} is asked for.",
            "Leave the scale out.",
        )
    slots = _analysed(space.source, space.pixels)[0]
    if not slots:
        raise UsageError(
            "The network has no convolution over two dimensions, so there is nothing to quantize.",
            "Give another network.",
        )
    return slots


def carried(space: SearchSpace) -> tuple[str, ...]:
    """Names of the tensors of the file that can be carried in 8 bits between its convolutions."""
    layers = [slot.name for slot in imported_slots(space)]
    return tuple(t.name for t in carried_tensors.carried(read(space.source).network, layers))


def carried_costs(space: SearchSpace) -> dict[str, float]:
    """Tensor of the file that can be carried in 8 bits -> its cost in float, in milliseconds."""
    layers = [slot.name for slot in imported_slots(space)]
    return layer_analysis.carried_costs(read(space.source), space.pixels, layers)


def float_layers(space: SearchSpace) -> tuple[FloatLayer, ...]:
    """Layers that stay in float and have a cost: matrices, products, normalisation."""
    return _analysed(space.source, space.pixels)[1]


Analysis = tuple[tuple[Slot, ...], tuple[FloatLayer, ...]]
_ANALYSED: dict[tuple[int, Pixels], tuple[importer.OnnxImport, Analysis]] = {}


def _analysed(source: str, pixels: Pixels) -> Analysis:
    imported = read(source)
    key = id(imported), pixels
    if key not in _ANALYSED:
        _ANALYSED[key] = imported, layer_analysis.parts(imported, pixels)
    return _ANALYSED[key][1]


@dataclass(frozen=True)
class Place:
    """Position of a layer in its ONNX file, by the names of tensors."""

    node_output: str
    """Output of the convolution's own node."""
    output: str
    """Output of the layer, behind all nodes that were folded into it."""
    rank: int | None
    """Dimensions of both, where channels come last and the node is a product with a matrix."""


def places(network: ImportedNetwork) -> dict[str, Place]:
    """Name of each imported layer -> its position in the file."""
    layers = [n for n in network.inner.graph.nodes if n.op == CALL and n.meta.get(MADE)]
    return {str(n.target): Place(n.meta[MADE], n.meta[TENSOR], n.meta.get(RANK)) for n in layers}


def grids(network: ImportedNetwork) -> dict[str, ActQuantizer]:
    """Tensor of the file -> the grid that it lies on, moved tensors included."""
    graph = network.inner.graph
    tensors = {n: n.meta[TENSOR] for n in graph.nodes if n.meta.get(TENSOR) and RANK not in n.meta}
    found = dict(network.grids)
    for node, name in tensors.items():
        grid = grid_of(network.inner, node) if carried_tensors.is_move(node) else None
        if grid is not None:
            found.setdefault(name, grid)
    return found


def readers(network: ImportedNetwork) -> dict[str, ActQuantizer]:
    """Name of each convolution -> the only grid that reads its output, perhaps behind a ReLU."""
    return {conv.name: grid for conv, _, grid in _read_by_grids(network)}


def absorbed(network: ImportedNetwork) -> set[str]:
    """Tensors of the file that a ReLU or a Clip makes, which the grid behind it does by itself."""
    nodes = network.inner.graph.nodes
    ends = {last.name for _, last, _ in _read_by_grids(network) if last.op != CALL}
    return {n.meta[TENSOR] for n in nodes if n.name in ends and n.meta.get(TENSOR)}


def _read_by_grids(
    network: ImportedNetwork,
) -> Iterator[tuple[QuantConv2d, fx.Node, ActQuantizer]]:
    """Convolutions that one grid alone reads, with the last node before the grid."""
    modules = {n: _called(network.inner, n) for n in network.inner.graph.nodes if n.op == CALL}
    for node, conv in modules.items():
        limit = next(iter(node.users), node)
        last = limit if len(node.users) == 1 and carried_tensors.is_limit(limit) else node
        grid = only_grid(list(last.users), modules)
        if not isinstance(conv, QuantConv2d) or grid is None:
            continue
        is_cut = carried_tensors.ceiling(last) is not None and grid.ceiling is None
        if last is node or not (grid.zero_point or is_cut):
            yield conv, last, grid


def _called(network: fx.GraphModule, node: fx.Node) -> nn.Module:
    """The module that a node calls; for an edge, its convolution."""
    return convolution_of(network, node) or network.get_submodule(str(node.target))


def convolution_of(network: fx.GraphModule, node: fx.Node) -> Conv2d | None:
    """The convolution of the edge that a node calls; None for any other node."""
    if node.op != CALL:
        return None
    module = network.get_submodule(str(node.target))
    return next((m for m in module.modules() if isinstance(m, Conv2d)), None)


def learned(network: ImportedNetwork) -> dict[str, Tensor]:
    """Name of a tensor in the file -> the parameter that was made from it and may have learned.

    The parameters of layers that can be rounded are not among them. All other parameters stay as
    they are in the file.
    """
    names: dict[str, str] = network.inner.meta[LEARNED]
    return {tensor: network.inner.get_parameter(name) for name, tensor in names.items()}


def _node(network: fx.GraphModule, name: str) -> fx.Node:
    node: fx.Node = next(n for n in network.graph.nodes if n.op == CALL and n.target == name)
    return node


def _add_grids(
    network: fx.GraphModule, layers: Sequence[str], factory: LayerFactory, pixels: Pixels
) -> dict[str, ActQuantizer]:
    """Put a grid behind every tensor that the factory carries in 8 bits; file's name -> grid."""
    grids = {}
    for tensor in carried_tensors.carried(network, layers):
        step = pixels.output_peak / pixel_conversion.WHITE if tensor.pixels else None
        grid = factory.carried(tensor.name, tensor.signed and not tensor.pixels, step)
        if isinstance(grid, FloatTensor):
            continue
        grids[tensor.name], grid.ceiling = grid, tensor.ceiling
        name = _unused_name(network, f"{tensor.node.name}_grid")
        network.add_module(name, grid)
        with network.graph.inserting_after(tensor.node):
            node = network.graph.call_module(name, (tensor.node,))
        tensor.node.replace_all_uses_with(node, lambda user, own=node: user is not own)  # type: ignore[misc]
        _leave_margin(grid)
    return grids


def _unused_name(network: nn.Module, name: str) -> str:
    while hasattr(network, name):
        name = f"{name}_"
    return name


def grid_of(network: fx.GraphModule, node: fx.Node) -> ActQuantizer | None:
    """The grid that a tensor lies on, perhaps moved; None for a tensor in float."""
    while carried_tensors.is_move(node):
        node = node.all_input_nodes[0]
    module = network.get_submodule(str(node.target)) if node.op == CALL else None
    return module if isinstance(module, ActQuantizer) else None


def _is_behind_layer(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a convolution alone reads what another made, perhaps with a ReLU."""
    maker: Any = node.args[0]
    if maker.target in RELUS:
        if len(maker.users) != 1:
            return False
        (maker,) = maker.all_input_nodes
    if maker.op != CALL or len(maker.users) != 1:
        return False
    conv = convolution_of(network, maker)
    return conv is not None and conv.up == 1


def _of_one_step(edge: nn.Module, ceiling: float | None) -> None:
    """Let all channels of a convolution's input have one step, for values up to `ceiling`."""
    for module in edge.modules():
        if isinstance(module, ActQuantizer):
            module.octaves, module.ceiling = None, ceiling


def _source(
    network: fx.GraphModule,
    node: fx.Node,
    factory: LayerFactory,
    pixels: Pixels,
    positive: set[fx.Node],
) -> ActQuantizer:
    """Return the grid that a convolution's input lies on.

    The input of the network lies on the grid of pixels, a carried tensor on its own.
    """
    x: Any = node.args[0]
    carrier = grid_of(network, x)
    if carrier is not None:
        return carrier
    if x.op != "placeholder":
        return factory.free(signed=x not in positive)
    grid = factory.tensor(step=pixels.input_peak / pixel_conversion.WHITE)
    name = _unused_name(network, f"{node.target}_pixels")
    network.add_module(name, grid)
    with network.graph.inserting_before(node):
        node.args = (network.graph.call_module(name, (x,)),)
    return grid


@torch.no_grad()
def _inherit(edge: nn.Module, layer: nn.Module) -> None:
    """Copy a file's weights into an edge, transposed kernels with their first two axes swapped."""
    weight: Any = layer.weight
    for conv in (m for m in edge.modules() if isinstance(m, Conv2d)):
        conv.weight.copy_(weight.transpose(0, 1) if conv.up > 1 else weight)
        conv.bias.copy_(layer.bias)  # type: ignore[union-attr, arg-type]


def _leave_margin(edge: nn.Module) -> None:
    """Leave levels below 0 on the grids of 8 bits whose data are not proved to be positive."""
    for grid in edge.modules():
        if isinstance(grid, ActQuantizer) and grid.signed and grid.bits == 8:
            grid.margin = MARGIN


def _tie(first: nn.Module, other: nn.Module) -> None:
    """Let a convolution round the kernel of an earlier one, on the same grid, and not its own.

    Both then read inputs without octaves, which would be multiplied into the kernel.
    """
    (source,), (conv,) = (
        [m for m in edge.modules() if isinstance(m, Conv2d)] for edge in (first, other)
    )
    conv.shares = source.name
    if isinstance(source, QuantConv2d) and isinstance(conv, QuantConv2d):
        conv.weight, conv.weight_quantizer = source.weight, source.weight_quantizer
        for grid in (source.input_quantizer, conv.input_quantizer):
            if grid is not None:
                grid.octaves = None


def _set_inset(edge: nn.Module, slot: Slot) -> None:
    """Let a transposed convolution cut off what that of the file does."""
    for conv in edge.modules():
        if isinstance(conv, Conv2d) and slot.form is not None:
            conv.inset = slot.form.pads[0]


def _shuffled(network: fx.GraphModule, node: fx.Node, side: int) -> None:
    """Put a pixel shuffle behind a node that computes a transposed convolution as channels.

    When the node's output lies on a grid, that comes before.
    """
    (reader,) = node.users if len(node.users) == 1 else (node,)
    node = node if grid_of(network, reader) is None else reader
    with node.graph.inserting_after(node):
        shuffle = node.graph.call_function(F.pixel_shuffle, (node, side))
    node.replace_all_uses_with(shuffle, lambda user: user is not shuffle)


# Roundings of a file, such as those to bytes at its end: training could not see through them


def _floor(x: Tensor) -> Tensor:
    return x + (x.floor() - x).detach()


def _ceil(x: Tensor) -> Tensor:
    return x + (x.ceil() - x).detach()


def _cut_off(x: Tensor) -> Tensor:
    return x + (x.trunc() - x).detach()


ROUNDINGS = {torch.round: round_ste, torch.floor: _floor, torch.ceil: _ceil}
"""Function that rounds -> one with the same values, through which the gradient passes."""


def _let_gradients_through(network: fx.GraphModule) -> None:
    """Replace roundings, and a conversion to bytes at the end, by functions that have gradients."""
    for node in network.graph.nodes:
        if node.op == "call_function" and node.target in ROUNDINGS:
            node.target = ROUNDINGS[node.target]
    last: Any = next(iter(reversed(network.graph.nodes))).args[0]
    if last.op == "call_method" and last.target == "to" and last.args[1] is torch.uint8:
        last.op, last.target, last.args = "call_function", _cut_off, last.args[:1]
