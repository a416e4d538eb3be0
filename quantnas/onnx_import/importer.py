"""Import of a third-party ONNX file as a torch graph whose convolutions are ordinary modules.

Every operator is translated by one function (`op_table.TABLE`). Numbers that depend on the image's
size stay arithmetic in the graph, so it takes every size that the file takes.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import fx

from quantnas.errors import DataError, UsageError

from . import file_reader
from .file_reader import FileGraph
from .graph_builder import LEARNED, MADE, NODE, RANK, TENSOR, Build, FileNode
from .graph_cleanup import tidy
from .image_entry import Entry
from .op_table import TABLE
from .probing import Probe, probe

APART = 16
"""Factor between the sides of the two example images for which shapes are computed."""


@dataclass(frozen=True)
class OnnxImport:
    """An imported network."""

    network: fx.GraphModule
    """The network, in evaluation mode: (N, C, H, W) -> (N, C', scale*H - lost, scale*W - lost)."""
    scale: int
    entry: Entry
    """Input of the file."""
    channels: int
    """Channels of the output."""
    names: dict[str, str]
    """Layer of the network -> node of the file."""
    tensors: dict[str, str]
    """Tensor of the file -> node of the graph that computes it, in the order of the graph."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) at which the file has run: two sizes, or one if it is fixed to it."""
    opset: int
    lost: int = 0
    """Pixels of the output that are lacking along each side, both ends together."""
    only: tuple[int, int] | None = None
    """(height, width) of the only image that the network takes, pixels; None for any."""
    notes: tuple[str, ...] = ()
    """Remarks for users about what was changed in the file."""

    @property
    def border(self) -> int:
        """Pixels by which an image is extended at each end of a side, for a whole output."""
        return -(-self.lost // (2 * self.scale))


def load(path: Path) -> OnnxImport:
    """Import the network in an ONNX file of opset 9 to 25.

    Raises UsageError that lists all nodes that cannot be translated; DataError for a file that is
    missing, damaged, too large, quantized already, or does not enlarge images.
    """
    source = file_reader.read(path, TABLE)
    session = file_reader.session(source.model.SerializeToString(), path)
    probed = probe(session, (source.entry, *source.other_entries), path)
    source = replace(source, entry=probed.entry)
    network, only = _build_open(source, probed, path)
    nodes = list(network.graph.nodes)
    names = {str(n.target): n.meta[NODE] for n in nodes if n.op == "call_module"}
    tensors = {n.meta[TENSOR]: n.name for n in nodes if n.meta.get(TENSOR) and RANK not in n.meta}
    return OnnxImport(
        network, probed.scale, source.entry, probed.channels, names, tensors, probed.sizes,
        source.opset, probed.lost, only, source.notes,
    )  # fmt: skip


def _build_open(
    source: FileGraph, probed: Probe, path: Path
) -> tuple[fx.GraphModule, tuple[int, int] | None]:
    """Build the network for any number of images and any size, even if the file states one.

    Most networks can take more than their file states. Where the computation depends on the stated
    numbers, the network is built for them alone, and the only size is returned with it.
    """
    entry, count, tried = source.entry, source.entry.batch or 1, probed.sizes
    height, width = (side * APART for side in tried[-1])  # so large that all inner sides differ
    large, stated = (height, width), (entry.height or height, entry.width or width)
    only = stated if stated == (entry.height, entry.width) else None
    for second in dict.fromkeys((large, stated)):
        with suppress(UsageError):
            network = graph_of(source, (tried[0], second), path)
            if _follows(network, probed, (tried[0], second)):
                return network, None if second == large else only
    return graph_of(source, (tried[0], stated), path, (count, count)), only


def _follows(network: fx.GraphModule, probed: Probe, sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether the network enlarges each of several images at both sizes as the file does."""
    shapes = copy.deepcopy(network).to("meta")
    for x, size in zip(_examples(probed.entry, sizes, (2, 3)), sizes, strict=True):
        with torch.device("meta"), torch.no_grad():
            count, _, *sides = shapes(x).shape
        if [count, *sides] != [len(x), *(probed.scale * side - probed.lost for side in size)]:
            return False
    return True


def graph_of(
    source: FileGraph,
    sizes: Sequence[tuple[int, int]],
    path: Path,
    images: tuple[int, int] = (2, 3),
) -> fx.GraphModule:
    """Translate the graph of a file into a network, in evaluation mode.

    sizes: two example sizes (height, width), for which shapes alone are computed. images: numbers
    of images in the two examples.

    Raises UsageError that lists all nodes that cannot be translated, and DataError when the output
    does not depend on the image.
    """
    b = Build(source.learned)
    values: dict[str, Any] = {"": None, **source.constants}
    image = b.placeholder("lr", _examples(source.entry, sizes, images))
    last = source.entry.layout == "NHWC"
    values[source.entry.name] = b.call(torch.permute, image, (0, 2, 3, 1)) if last else image
    problems = _translate(b, source, values)
    if problems:
        raise file_reader.unsupported(path, problems)
    output = values.get(source.output)
    if not isinstance(output, fx.Node):
        raise DataError(
            f"The output of {path} does not depend on the image.",
            "Check that it is the right file.",
        )
    b.graph.output(b.call(torch.permute, output, (0, 3, 1, 2)) if last else output)
    tidy(b)
    network = fx.GraphModule(b.root, b.graph).eval()
    network.meta[LEARNED] = _learned(b, source, network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in network.meta[LEARNED])
    return network


def _learned(b: Build, source: FileGraph, network: fx.GraphModule) -> dict[str, str]:
    """Name of a parameter that may learn -> the tensor of the file that holds it.

    Nothing else in the file may read that tensor, for else it could not be written back.
    """
    folded = (n for n in source.model.graph.node if {*n.output} <= source.constants.keys())
    reads = Counter(name for node in (*source.nodes, *folded) for name in node.input)
    uses = Counter(b.parameters.values())
    return {
        parameter: name
        for parameter, name in b.parameters.items()
        if hasattr(network, parameter) and uses[name] == 1 and reads[name] == b.reads[name]
    }


def _translate(b: Build, source: FileGraph, values: dict[str, Any]) -> list[str]:
    """Translate all nodes and put their outputs into `values`.

    Returns a text for every node that cannot be translated.
    """
    problems = []
    for node in source.nodes:
        step = _step(node, source.opset)
        if not all(name in values for name in node.input):
            continue  # an earlier node that it depends on could not be translated
        b.at = step.name
        try:
            result = TABLE[step.kind](b, step, *(values[name] for name in node.input))
        except UsageError as error:
            problems.append(f"{step.kind} ({step.name}: {error.cause})")
            continue
        except Exception as error:  # torch raises several kinds for attributes it does not take
            problems.append(f"{step.kind} ({step.name}: {file_reader.line(error)})")
            continue
        outputs = result if isinstance(result, tuple) else (result,)
        for name, value in zip(node.output, outputs, strict=False):
            values[name] = value
            if isinstance(value, fx.Node):
                value.meta.setdefault(TENSOR, name)
                value.meta.setdefault(MADE, name)
    return problems


def _step(node: onnx.NodeProto, opset: int) -> FileNode:
    """A node of the file in the form that translations read."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    names = tuple(node.input), tuple(node.output)
    return FileNode(node.op_type, file_reader.title(node), *names, attributes, opset)


def _examples(
    entry: Entry, sizes: Sequence[tuple[int, int]], images: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples of the input for both sizes, on the meta device."""
    kind = torch.uint8 if entry.dtype == "uint8" else torch.float32
    first, second = (
        torch.empty((count, entry.channels, *size), dtype=kind, device="meta")
        for count, size in zip(images, sizes, strict=True)
    )
    return first, second
