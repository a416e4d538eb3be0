"""The network in an ONNX file as a macro-architecture: its convolutions are edges.

Everything else of the file stays as it was imported, in float, and every convolution rounds what
it reads. So a network from elsewhere is a space with nothing to choose. Its weights come with it.
"""

import copy
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
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.layer_factory import LayerFactory
from quantnas.nn.quantizers import ActQuantizer
from quantnas.nn.tracing import CALL
from quantnas.onnx_import import file_reader, importer, layer_analysis, pixel_conversion
from quantnas.onnx_import.graph_builder import MADE, TENSOR

KEPT = 4
"""Files that are kept in memory."""
SOURCE = "source.onnx"
"""Copy of a file in the folder of a run."""


class ImportedNetwork(nn.Module):
    """x (N, 3, H, W) in [0, 1] -> (N, 3, scale*H, scale*W) in [0, 1], nearly.

    Images become what the file takes, and what it gives becomes an image again.
    """

    kinds = ()
    smallest = 1

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.pixels, self.scale = space.pixels, space.scale
        self.inner = copy.deepcopy(read(space.source).network)
        positive = layer_analysis.positive(self.inner)
        for slot in imported_slots(space):
            node = _node(self.inner, slot.name)
            source = _source(self.inner, node, factory, space.pixels, positive)
            edge = factory.edge(slot, source)
            _inherit(edge, self.inner.get_submodule(slot.name))
            self.inner.add_module(slot.name, edge)
            if slot.up > 1:
                _shuffled(node, slot.up)
        self.inner.recompile()

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(pixel_conversion.taken(x, self.pixels))
        return pixel_conversion.given(out, x, self.pixels, self.scale)

    def double(self) -> "ImportedNetwork":
        """In float64, also where the file names the type."""
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
    """The space with a copy of its file in that folder, with all data, and named as it is there."""
    onnx.save(file_reader.complete(Path(space.source)), folder / SOURCE)
    return replace(space, source=SOURCE)


def read(source: str) -> importer.OnnxImport:
    """The network in a file; a file that has not changed is imported once.

    Raises as `importer.load`.
    """
    path = Path(source)
    seen = path.stat() if path.is_file() else None
    return _read(path, seen and (seen.st_mtime_ns, seen.st_size))


@lru_cache(KEPT)
def _read(path: Path, version: tuple[int, int] | None) -> importer.OnnxImport:
    return importer.load(path)


def imported_slots(space: SearchSpace) -> tuple[Slot, ...]:
    """Every convolution that can be rounded, in the order in which they run.

    Raises UsageError where there is none, and for another scale than the file's.
    """
    found = read(space.source)
    if found.scale != space.scale:
        raise UsageError(
            f"The network enlarges x{found.scale}, but x{space.scale} is asked for.",
            "Leave the scale out.",
        )
    slots = _analysed(space.source, space.pixels)[0]
    if not slots:
        raise UsageError(
            "The network has no convolution over two dimensions.", "There is nothing to quantize."
        )
    return slots


def beside(space: SearchSpace) -> tuple[FloatLayer, ...]:
    """What it computes in float besides: matrices, products, normalisation."""
    return _analysed(space.source, space.pixels)[1]


Parts = tuple[tuple[Slot, ...], tuple[FloatLayer, ...]]
_SEEN: dict[tuple[int, Pixels], tuple[importer.OnnxImport, Parts]] = {}


def _analysed(source: str, pixels: Pixels) -> Parts:
    found = read(source)
    key = id(found), pixels
    if key not in _SEEN:
        _SEEN[key] = found, layer_analysis.parts(found, pixels)
    return _SEEN[key][1]


@dataclass(frozen=True)
class Place:
    """Where a layer is in the file: names of tensors."""

    made: str
    """What the node itself gives."""
    gives: str
    """What the layer gives, with everything that is folded into it."""


def places(network: ImportedNetwork) -> dict[str, Place]:
    """Layer -> its place."""
    layers = [n for n in network.inner.graph.nodes if n.op == CALL and n.meta.get(MADE)]
    return {str(n.target): Place(n.meta[MADE], n.meta[TENSOR]) for n in layers}


def _node(network: fx.GraphModule, name: str) -> fx.Node:
    found: fx.Node = next(n for n in network.graph.nodes if n.op == CALL and n.target == name)
    return found


def _source(
    network: fx.GraphModule,
    node: fx.Node,
    factory: LayerFactory,
    pixels: Pixels,
    positive: set[fx.Node],
) -> ActQuantizer:
    """The grid of what a convolution reads: that of pixels, or none but its own."""
    x: Any = node.args[0]
    if x.op != "placeholder":
        return factory.free(signed=x not in positive)
    grid = factory.tensor(step=pixels.input_peak / pixel_conversion.WHITE)
    name = f"{node.target}_pixels"
    network.add_module(name, grid)
    with network.graph.inserting_before(node):
        node.args = (network.graph.call_module(name, (x,)),)
    return grid


@torch.no_grad()
def _inherit(edge: nn.Module, layer: nn.Module) -> None:
    """The weights of the file, in the order of ours."""
    weight: Any = layer.weight
    for conv in (m for m in edge.modules() if isinstance(m, Conv2d)):
        conv.weight.copy_(weight.transpose(0, 1) if conv.up > 1 else weight)
        conv.bias.copy_(layer.bias)  # type: ignore[union-attr, arg-type]


def _shuffled(node: fx.Node, side: int) -> None:
    """A transposed convolution gives its pixels as channels."""
    with node.graph.inserting_after(node):
        shuffle = node.graph.call_function(F.pixel_shuffle, (node, side))
    node.replace_all_uses_with(shuffle, lambda user: user is not shuffle)
