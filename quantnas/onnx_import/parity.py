"""Does an imported network compute what ONNX Runtime computes of the file that it was made of?"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import fx

from quantnas.errors import DataError
from quantnas.nn import tracing

from . import file_reader
from .importer import OnnxImport

LIMIT = 1e-4
"""Of the range of the output, that the largest difference may be."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Parity:
    """What was compared."""

    sizes: tuple[tuple[int, int], ...]
    """Heights and widths of the images."""
    largest: float
    """Difference, as a part of the range of the output."""


def check(imported: OnnxImport, path: Path) -> Parity:
    """Compare with the file, run as it is written, at two sizes or at the one that it is fixed to.

    Raises DataError when they differ by more than 1e-4 of the output's range, and names the first
    node that does; also when either gives what are no finite numbers.
    """
    run = file_reader.session(path, path)
    largest = 0.0
    for seed, size in enumerate(imported.sizes):
        image = _image(imported, size, seed)
        (wanted,) = run.run(None, {imported.entry.name: image})
        try:
            with torch.no_grad():
                found = imported.network(torch.from_numpy(image)).numpy()
            difference = _difference(found, np.asarray(wanted))
        except RuntimeError:  # torch cannot run it: the node is named below
            difference = float("inf")
        if not difference <= LIMIT:
            raise _differs(imported, path, image, difference)
        largest = max(largest, difference)
    return Parity(imported.sizes, largest)


def _image(imported: OnnxImport, size: tuple[int, int], seed: int) -> Array:
    """Noise: every pixel counts."""
    entry, rng = imported.entry, np.random.default_rng(seed)
    shape = (entry.batch or 1, entry.channels, *size)
    if entry.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32)


def _difference(found: Array, wanted: Array) -> float:
    """The largest one, as a part of the range; infinite for other shapes."""
    if found.shape != wanted.shape:
        return float("inf")
    one, other = found.astype(np.float64), wanted.astype(np.float64)
    extent = float(np.ptp(other)) if other.size else 0.0
    most = float(np.abs(one - other).max(initial=0.0))
    return most / max(extent, 1e-6)


def _differs(imported: OnnxImport, path: Path, image: Array, difference: float) -> DataError:
    """The error that names the first node whose result differs."""
    named = "at its end"
    wanted = _intermediates(imported, path, image)
    found = _computed(imported.network, torch.from_numpy(image))
    makers = {name: node for node in onnx.load(path).graph.node for name in node.output}
    for name, node in imported.tensors.items():
        if name not in wanted or name not in makers:
            continue
        value = found.get(node)
        if value is None or not _difference(value, wanted[name]) <= LIMIT:
            maker = makers[name]
            named = f"first at {maker.op_type} '{file_reader.title(maker)}'"
            break
    return DataError(
        f"The network imported from {path} differs from ONNX Runtime by {difference:.1e} of its "
        f"range, {named}.",
        "Export the network with another opset or in another form, and please report it.",
    )


def _intermediates(imported: OnnxImport, path: Path, image: Array) -> Mapping[str, Array]:
    """Tensor of the file -> what ONNX Runtime gives there."""
    model = onnx.load(path)
    names = {name for node in model.graph.node for name in node.output} & {*imported.tensors}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    run = file_reader.session(model.SerializeToString(), path)
    return dict(zip(sorted(names), run.run(None, {imported.entry.name: image}), strict=True))


def _computed(network: fx.GraphModule, image: torch.Tensor) -> dict[str, Array]:
    """Node -> what it gives, up to the first that cannot be computed."""
    found: dict[str, Array] = {}

    def see(node: fx.Node, value: torch.Tensor) -> None:
        found[node.name] = value.numpy()

    with suppress(RuntimeError):
        tracing.watch(network, image, see)
    return found
