"""How much memory a network needs for each pixel of an image, which decides how large tiles are.

Counted are the tensors that exist at the same time, from the operation that makes one to the last
that reads it. The libraries take more than that: their share was measured (`OVERHEAD`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import helper, shape_inference
from torch import Tensor, fx, nn

from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.config.search_space import Pixels
from quantnas.nn import tracing
from quantnas.onnx_import import pixel_conversion

SIDE = 64
"""Side of the image for which the tensors are counted, pixels."""
OVERHEAD = 2.0
"""Memory that is taken for a tile over that of the tensors counted here."""
BUDGET = 3e8
"""Bytes that a tile may take; the program itself takes more than that."""
COLOURS = 3
"""Channels of an image where the file does not state them."""
FLOAT = 4
"""Bytes of a value where nothing else is known."""


@dataclass(frozen=True)
class Operation:
    """An operation, by the names of the tensors that it reads and makes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def largest_side(bytes_per_pixel: float) -> int:
    """Side of the largest square tile within the budget, its overlap included, in pixels."""
    return max(1, math.isqrt(int(BUDGET / max(1.0, bytes_per_pixel))))


def of_file(path: Path) -> float:
    """Bytes that an ONNX file needs for each low-resolution pixel, estimated from its shapes.

    Tensors whose shapes are not known count as much as the largest of those that are.
    """
    model = onnx.load(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in stored]
    dimensions = images[0].type.tensor_type.shape.dim
    for axis, place in enumerate(dimensions):
        if axis == 0:
            place.dim_value = 1
        elif not place.dim_value:  # open; some files leave the number of channels open as well
            channels = axis == 1 and not dimensions[-1].dim_value
            place.dim_value = COLOURS if channels else SIDE
    sides = [place.dim_value for place in dimensions[1:]]
    pixels = math.prod(sides) / min(sides, default=1)  # the channels are the least of them
    del model.graph.value_info[:], model.graph.output[:]
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # of a damaged file, which is told where it is run
        graph = model.graph
    sizes = {
        value.name: _bytes(value)
        for value in (*graph.value_info, *graph.input)
        if value.name not in stored
    }
    operations = [
        Operation(tuple(n for n in node.input if n not in stored), tuple(node.output))
        for node in graph.node
    ]
    return _peak(operations, {name: size for name, size in sizes.items() if size}) / pixels


def of_network(network: nn.Module) -> float:
    """Bytes that a torch network (N, 3, H, W) needs for each low-resolution pixel."""
    if isinstance(network, ImportedNetwork):  # a graph already, with conversions around it
        return _of_graph(
            network.inner, pixel_conversion.taken(_sample(network.pixels), network.pixels)
        )
    traced = tracing.Tracer().trace(network)
    return _of_graph(fx.GraphModule(network, traced), torch.zeros(1, COLOURS, SIDE, SIDE))


def _sample(pixels: Pixels) -> Tensor:
    """A black image that an imported network takes, (1, 3, H, W)."""
    lost = 2 * pixels.border
    height, width = (SIDE, SIDE) if pixels.only is None else (n - lost for n in pixels.only)
    return torch.zeros(1, COLOURS, height, width)


def _of_graph(graph: fx.GraphModule, image: Tensor) -> float:
    """Bytes that a graph needs for each pixel of an image (1, C, H, W)."""
    sizes: dict[str, int] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        sizes[node.name] = FLOAT * value.numel()

    tracing.watch(graph, image, see)
    operations = [
        Operation(tuple(source.name for source in node.all_input_nodes), (node.name,))
        for node in graph.graph.nodes
        if node.name in sizes and node.op != "get_attr"
    ]
    return _peak(operations, sizes) / (image.shape[2] * image.shape[3])


def _bytes(value: onnx.ValueInfoProto) -> int:
    """Bytes of a tensor; 0 where its shape is not known."""
    kind = value.type.tensor_type
    sides = [d.dim_value for d in kind.shape.dim]
    if not kind.HasField("shape"):
        return 0
    try:
        each = helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    except (KeyError, TypeError, ValueError):
        each = FLOAT
    return math.prod(sides) * int(each)


def _peak(operations: Iterable[Operation], sizes: Mapping[str, int]) -> float:
    """Bytes of the tensors that exist at the same time, at most."""
    steps, unknown = list(operations), max(sizes.values(), default=0)
    last = {name: at for at, step in enumerate(steps) for name in step.inputs}
    alive: dict[str, int] = {}
    most = 0
    for at, step in enumerate(steps):
        alive |= {name: sizes.get(name, unknown) for name in step.outputs if name}
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > at}
    return OVERHEAD * most
