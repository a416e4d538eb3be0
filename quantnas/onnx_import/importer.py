"""A foreign ONNX file as a torch graph whose convolutions are ordinary modules.

Every operator is translated by one function (`op_table.TABLE`). What depends on the image's
size stays arithmetic in the graph, so it takes images of every size that the file takes.
"""

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import fx

from quantnas.errors import DataError, UsageError

from . import file_reader
from .file_reader import Entry, FileGraph
from .graph_builder import MADE, NODE, TENSOR, Build, FileNode
from .graph_cleanup import tidy
from .op_table import TABLE
from .probing import probe

APART = 16
"""Times that the second example of an image is larger than the first."""


@dataclass(frozen=True)
class OnnxImport:
    """A network from elsewhere."""

    network: fx.GraphModule
    """(N, C, H, W) -> (N, C', scale*H, scale*W), evaluating"""
    scale: int
    entry: Entry
    """The input of the file."""
    channels: int
    """Of the output."""
    names: dict[str, str]
    """Layer of the network -> node of the file."""
    tensors: dict[str, str]
    """Tensor of the file -> node of the graph that gives it, in the order of the graph."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths at which the file has been tried: two or, where it is fixed, one."""
    opset: int


def load(path: Path) -> OnnxImport:
    """The network in an ONNX file of version 9 to 25.

    Raises UsageError for what cannot be translated, all of it; DataError for a file that is
    missing, damaged, too large, quantized already, or does not enlarge images.
    """
    source = file_reader.read(path, TABLE)
    found = probe(file_reader.session(path, path), source.entry, path)
    network = _opened(source, found.sizes, path)
    nodes = list(network.graph.nodes)
    names = {str(n.target): n.meta[NODE] for n in nodes if n.op == "call_module"}
    tensors = {n.meta[TENSOR]: n.name for n in nodes if n.meta.get(TENSOR)}
    return OnnxImport(
        network, found.scale, source.entry, found.channels, names, tensors, found.sizes,
        source.opset,
    )  # fmt: skip


def _opened(source: FileGraph, tried: Sequence[tuple[int, int]], path: Path) -> fx.GraphModule:
    """For several images and for all sizes, even where the file states one image or one size: most
    networks would take more. Where what it does depends on what it states, as the file says.
    """
    entry, count = source.entry, source.entry.batch or 1
    height, width = (side * APART for side in tried[-1])  # so far that no inner side is the same
    large, stated = (height, width), (entry.height or height, entry.width or width)
    for second in dict.fromkeys((large, stated)):
        with suppress(UsageError):
            network = graph_of(source, (tried[0], second), path)
            if _follows(network, entry, (tried[0], second)):
                return network
    return graph_of(source, (tried[0], stated), path, (count, count))


def _follows(network: fx.GraphModule, entry: Entry, sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether each of several images becomes a larger one, by the same factor at both sizes."""
    shapes, factors = copy.deepcopy(network).to("meta"), set()
    for x, (height, width) in zip(_examples(entry, sizes, (2, 3)), sizes, strict=True):
        with torch.device("meta"), torch.no_grad():
            count, _, tall, wide = shapes(x).shape
        factors |= {tall / height, wide / width, 1 if count == len(x) else 0}
    return len(factors - {1}) == 1 and 0 not in factors


def graph_of(
    source: FileGraph,
    sizes: Sequence[tuple[int, int]],
    path: Path,
    images: tuple[int, int] = (2, 3),
) -> fx.GraphModule:
    """The translated graph.

    sizes: two heights and widths, for which shapes alone are computed; images: how many there are
    each time.

    Raises UsageError for what cannot be translated, all of it.
    """
    b = Build(source.learned)
    values: dict[str, Any] = {"": None, **source.constants}
    values[source.entry.name] = b.placeholder("lr", _examples(source.entry, sizes, images))
    problems = _translate(b, source, values)
    if problems:
        raise file_reader.unsupported(path, problems)
    output = values.get(source.output)
    if not isinstance(output, fx.Node):
        raise DataError(
            f"What {path} gives does not depend on the image.", "Check that it is the right file."
        )
    b.graph.output(output)
    tidy(b)
    return fx.GraphModule(b.root, b.graph).eval()


def _translate(b: Build, source: FileGraph, values: dict[str, Any]) -> list[str]:
    """Put what every node gives into `values`; what cannot be translated, in words."""
    problems = []
    for node in source.nodes:
        step = _step(node, source.opset)
        if not all(name in values for name in node.input):
            continue  # it comes behind a problem
        b.at = step.name
        try:
            given = TABLE[step.kind](b, step, *(values[name] for name in node.input))
        except UsageError as error:
            problems.append(f"{step.kind} ({step.name}: {error.cause})")
            continue
        except Exception as error:  # of torch, for attributes that it does not take
            problems.append(f"{step.kind} ({step.name}: {file_reader.line(error)})")
            continue
        given = given if isinstance(given, tuple) else (given,)
        for name, value in zip(node.output, given, strict=False):
            values[name] = value
            if isinstance(value, fx.Node):
                value.meta.setdefault(TENSOR, name)
                value.meta.setdefault(MADE, name)
    return problems


def _step(node: onnx.NodeProto, opset: int) -> FileNode:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    names = tuple(node.input), tuple(node.output)
    return FileNode(node.op_type, file_reader.title(node), *names, attributes, opset)


def _examples(
    entry: Entry, sizes: Sequence[tuple[int, int]], images: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the input, at both sizes."""
    kind = torch.uint8 if entry.dtype == "uint8" else torch.float32
    first, second = (
        torch.empty((count, entry.channels, *size), dtype=kind, device="meta")
        for count, size in zip(images, sizes, strict=True)
    )
    return first, second
