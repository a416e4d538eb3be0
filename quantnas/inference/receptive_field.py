"""The receptive field of a network, and how its attention is computed on a part of an image.

A part of a photograph can be enlarged alone when it is cut with as much around it as the receptive
field covers, which is read from the ONNX file or the traced network, operation by operation. The
attention of RFDN is the difficult case: it pools on a grid of six pixels and stretches the pooled
values over the whole image, by a factor that depends on the image's size. So a part must begin on
that grid, and its pooled values must be stretched as in the whole image: two matrices do that,
which are additional inputs of a network for parts.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from quantnas.architectures.imdn import contrast
from quantnas.architectures.rfdn import resize_like
from quantnas.config.search_space import pooled
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.image_layers import enlarge
from quantnas.nn.tracing import Tracer

ATTENTION = 12
"""Pixels that an attention adds to the receptive field. Its true one is 41 pixels, but the outer
ones contribute next to nothing: with 10 for each of four attentions, parts of the released RFDN
equal the whole within 1 of 255. In a quantized network, a value that is rounded the other way may
change much: there only the full receptive field (183 pixels) makes neighbouring parts equal, and
with 12 they differ by up to 4 at 8 bits."""
GRID = 6
"""Distance of two values that the attention pools, pixels."""
SMALLEST = 15
"""Least length of a side from which the attention can pool one value, pixels."""


@dataclass(frozen=True)
class ReceptiveField:
    """The part of a low-resolution image that a pixel of the large image depends on."""

    pixels: int
    """Low-resolution pixels on each side."""
    attention: bool = False
    """Whether the network pools and stretches as the attention of RFDN does."""
    whole: bool = False
    """Whether statistics of the whole image matter, as in the attention of IMDN."""


@dataclass(frozen=True)
class _Operation:
    """One operation of a network, by the names of the values that it reads and gives."""

    inputs: tuple[str, ...]
    output: str
    kernel: int = 1
    stride: float = 1.0
    """Below 1 when the operation enlarges."""
    attention: bool = False
    """Whether it stretches pooled values over the image."""
    whole: bool = False
    """Whether it averages over the whole image."""


def of_file(path: Path) -> ReceptiveField:
    """The receptive field of an exported ONNX file."""
    graph = onnx.load(path).graph
    return _walk(graph.input[0].name, map(_operation_of_node, graph.node))


def of_network(network: nn.Module) -> ReceptiveField:
    """The receptive field of a network (N, 3, H, W) -> (N, 3, scale*H, scale*W)."""
    nodes = Tracer().trace(network).nodes
    (first,) = (node.name for node in nodes if node.op == "placeholder")
    return _walk(first, (_operation_of_trace(network, node) for node in nodes))


def _walk(first: str, operations: Iterable[_Operation]) -> ReceptiveField:
    """Follow the operations from the input `first` and add up their kernels.

    Every value has a radius and a spacing, both in pixels of the input. Values that are pooled and
    not yet stretched again count as `ATTENTION`, not by their kernels.
    """
    values = {first: (0.0, 1.0)}
    attention = whole = False
    for operation in operations:
        inputs = [values[name] for name in operation.inputs if name in values]
        if not inputs:
            continue
        radius, spacing = max(r for r, _ in inputs), min(s for _, s in inputs)
        if operation.attention:
            values[operation.output] = radius + ATTENTION, 1.0
        elif spacing * operation.stride > 1:
            values[operation.output] = radius, spacing * operation.stride
        else:
            wider = (operation.kernel - 1) / 2 * spacing
            values[operation.output] = radius + wider, spacing * operation.stride
        attention, whole = attention or operation.attention, whole or operation.whole
    return ReceptiveField(math.ceil(max(r for r, _ in values.values())), attention, whole)


def _operation_of_node(node: onnx.NodeProto) -> _Operation:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    pads = attributes.get("pads", [0])
    kernel = max(1 + 2 * max(pads), *attributes.get("kernel_shape", [1]))  # padding keeps the size
    stride = float(max(attributes.get("strides", [1])))
    if node.op_type == "DepthToSpace":
        stride = 1 / attributes["blocksize"]
    if node.op_type == "Resize" and not _stretches(node):
        kernel = 3  # a whole factor; its stride stays 1, which never counts too few pixels
    whole = node.op_type in ("GlobalAveragePool", "ReduceMean")
    inputs, output = tuple(node.input), node.output[0]
    return _Operation(inputs, output, kernel, stride, _stretches(node), whole)


def _stretches(node: onnx.NodeProto) -> bool:
    """Return whether a node resizes to the size of another tensor, as the attention does."""
    return node.op_type == "Resize" and len(node.input) == 4


def _operation_of_trace(network: nn.Module, node: fx.Node) -> _Operation:
    kernel, stride, function = 1, 1.0, node.target
    args: Any = node.args
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        if isinstance(module, Conv2d):
            kernel, stride = max(module.dense(module.weight).shape[-2:]), module.stride[0]
    elif function is torch.max_pool2d:
        kernel, stride = args[1:3]
    elif function is F.pixel_shuffle:
        stride = 1 / args[1]
    elif function is enlarge:
        kernel = 3
    inputs = tuple(n.name for n in node.all_input_nodes)
    is_stretch, whole = function is resize_like, function is contrast
    return _Operation(inputs, node.name, kernel, stride, is_stretch, whole)


# Parts


def stretching(full: int, origin: int, size: int) -> NDArray[np.float32]:
    """Matrix (size, pooled size) by which the attention stretches a part along one axis.

    full: length of the whole image along this axis, pixels; origin: where the part begins, a
    multiple of `GRID`; size: length of the part. The matrix interpolates bilinearly, at the
    positions that the whole image has.
    """
    count, cells = pooled(full), pooled(size)
    position = (np.arange(origin, origin + size) + 0.5) * count / full - 0.5
    position = np.clip(np.clip(position, 0, count - 1) - origin / GRID, 0, cells - 1)
    distance = np.abs(position[:, None] - np.arange(cells))
    return np.maximum(0, 1 - distance).astype(np.float32)


def stretch(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Stretch x (N, C, h, w) by the matrices rows (H, h) and columns (w, W) -> (N, C, H, W)."""
    return rows @ x @ columns


def network_for_parts(network: nn.Module) -> nn.Module:
    """Give a network two more inputs, the matrices `rows` and `columns` of its attention.

    The result takes (x, rows, columns), see `stretch`, and enlarges a part of an image.
    """
    graph = Tracer().trace(network)
    (first,) = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(first):
        columns = graph.placeholder("columns")
        rows = graph.placeholder("rows")
    for node in graph.nodes:
        if node.target is resize_like:
            node.target, node.args = stretch, (node.args[0], rows, columns)
    return fx.GraphModule(network, graph).eval()


def file_for_parts(path: Path) -> bytes:
    """Give an exported file the inputs of `network_for_parts` -> the bytes of the new ONNX file."""
    model = onnx.load(path)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(new for node in nodes for new in _parted(node))
    for name in ("rows", "columns"):
        side = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])
        model.graph.input.append(side)
    content: bytes = model.SerializeToString()
    return content


def _parted(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    if not _stretches(node):
        yield node
        return
    tall = f"{node.output[0]}.tall"
    yield helper.make_node("MatMul", ["rows", node.input[0]], [tall])
    yield helper.make_node("MatMul", [tall, "columns"], [node.output[0]])
