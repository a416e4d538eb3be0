"""How far a network looks: what a part of a photograph must have around it to be enlarged alone.

Read from the ONNX file or from the traced network, operation by operation. The attention of RFDN is
the hard part: it pools on a grid of six pixels and stretches what it pooled over the whole image,
by a factor that depends on the image's size. So a part must begin on that grid, and be stretched as
the whole would be: here that becomes two matrices, inputs of a network for parts.
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
"""Pixels that an attention counts for. It looks 41 pixels far, but next to nothing comes from the
outer ones: with 10 for each of four attentions, parts of the released RFDN equal the whole within
1 of 255. In a quantized one a value rounded the other way may change much: there only its full
reach (183 pixels) makes neighbouring parts equal, and with 12 they differ by up to 4 at 8 bits."""
GRID = 6
"""Pixels between two values that the attention pools."""
SMALLEST = 15
"""Pixels of a side of which the attention can pool one value."""


@dataclass(frozen=True)
class Reach:
    """What a pixel of the large image depends on."""

    pixels: int
    """Low-resolution pixels on each side."""
    attention: bool = False
    """Whether it pools and stretches as RFDN does."""
    whole: bool = False
    """Whether figures of the whole image play a part, as in the attention of IMDN."""


@dataclass(frozen=True)
class _Operation:
    """One operation of a network."""

    inputs: tuple[str, ...]
    output: str
    kernel: int = 1
    stride: float = 1.0
    """Below 1 where the image becomes larger."""
    attention: bool = False
    whole: bool = False


def of_file(path: Path) -> Reach:
    """The reach of an exported file."""
    graph = onnx.load(path).graph
    return _walk(graph.input[0].name, map(_file_step, graph.node))


def of_network(network: nn.Module) -> Reach:
    """The reach of a network (N, 3, H, W) -> (N, 3, scale*H, scale*W)."""
    nodes = Tracer().trace(network).nodes
    (first,) = (node.name for node in nodes if node.op == "placeholder")
    return _walk(first, (_traced_step(network, node) for node in nodes))


def _walk(first: str, steps: Iterable[_Operation]) -> Reach:
    """Every value has a reach and a spacing, both in pixels of the input.

    What is pooled and not yet stretched again counts as `ATTENTION`, not by its kernels.
    """
    found = {first: (0.0, 1.0)}
    attention = whole = False
    for step in steps:
        read = [found[name] for name in step.inputs if name in found]
        if not read:
            continue
        reach, spacing = max(r for r, _ in read), min(s for _, s in read)
        if step.attention:
            found[step.output] = reach + ATTENTION, 1.0
        elif spacing * step.stride > 1:
            found[step.output] = reach, spacing * step.stride
        else:
            wider = (step.kernel - 1) / 2 * spacing
            found[step.output] = reach + wider, spacing * step.stride
        attention, whole = attention or step.attention, whole or step.whole
    return Reach(math.ceil(max(reach for reach, _ in found.values())), attention, whole)


def _file_step(node: onnx.NodeProto) -> _Operation:
    has = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    pads = has.get("pads", [0])
    kernel = max(1 + 2 * max(pads), *has.get("kernel_shape", [1]))  # padded, so sizes are kept
    stride = float(max(has.get("strides", [1])))
    if node.op_type == "DepthToSpace":
        stride = 1 / has["blocksize"]
    if node.op_type == "Resize" and not _stretches(node):
        kernel = 3  # by a whole factor: what follows lies denser, but loses nothing by counting so
    whole = node.op_type in ("GlobalAveragePool", "ReduceMean")
    inputs, output = tuple(node.input), node.output[0]
    return _Operation(inputs, output, kernel, stride, _stretches(node), whole)


def _stretches(node: onnx.NodeProto) -> bool:
    """Whether it is a resizing to the size of something, as in the attention."""
    return node.op_type == "Resize" and len(node.input) == 4


def _traced_step(network: nn.Module, node: fx.Node) -> _Operation:
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
    """Matrix (size, pooled) of what the attention's stretching does to a part of one axis.

    full: pixels of the whole image along it; the part begins at `origin`, a multiple of `GRID`.
    Bilinear, with the positions that the whole image has.
    """
    count, cells = pooled(full), pooled(size)
    at = (np.arange(origin, origin + size) + 0.5) * count / full - 0.5
    at = np.clip(np.clip(at, 0, count - 1) - origin / GRID, 0, cells - 1)
    distance = np.abs(at[:, None] - np.arange(cells))
    return np.maximum(0, 1 - distance).astype(np.float32)


def stretch(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (N, C, h, w), rows (H, h), columns (w, W) -> (N, C, H, W)"""
    return rows @ x @ columns


def network_for_parts(network: nn.Module) -> nn.Module:
    """The network with two more inputs, `rows` and `columns`, that stretch in its attention."""
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
    """The same of an exported file, as the bytes of an ONNX file."""
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
