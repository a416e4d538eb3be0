"""Check that an imported network computes what ONNX Runtime computes from its file."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import fx

from quantnas.data import bicubic, image_files
from quantnas.errors import DataError
from quantnas.nn import tracing

from . import file_reader
from .importer import OnnxImport
from .onnx_session import feed, run_image

LIMIT = 1e-4
"""Largest difference that is accepted, as a share of the range of the output."""

TIES = 1e-3
"""Largest share of the values of a rounded image that may be rounded the other way."""
LEVELS = 256
"""Largest number of different values of an image that is taken for a rounded one."""
NEAR = 0.01
"""Distance from a multiple of the step below which a value of a rounded image counts as one."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Parity:
    """Result of the comparison between an imported network and its file."""

    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the compared images."""
    largest: float
    """Largest difference, as a share of the range of the output."""


def check(imported: OnnxImport, path: Path) -> Parity:
    """Compare an imported network with its file, run without optimisation by ONNX Runtime.

    They are compared on noise at two sizes, or at the one that the file is fixed to. Noise can make
    a trained network chaotic, so that two correct programs differ; where they do, a photograph is
    tried. Raises DataError, which names the first node that differs, when these outputs differ too,
    by more than 1e-4 of their range, or contain NaN or infinity.
    """
    session = file_reader.session(file_reader.complete(path).SerializeToString(), path)
    largest = 0.0
    for number, size in enumerate(imported.sizes):
        for draw in (_noise, _photograph):
            image = draw(imported, size, number)
            difference = _difference_on(imported, session, image)
            if difference <= LIMIT:
                break
        else:
            raise _differs(imported, path, image, difference)
        largest = max(largest, difference)
    return Parity(imported.sizes, largest)


def _difference_on(imported: OnnxImport, session: ort.InferenceSession, image: Array) -> float:
    """Difference of the outputs for one input; infinity where torch cannot compute it."""
    expected = run_image(session, image, imported.entry.layout)
    try:
        with torch.no_grad():
            actual = imported.network(torch.from_numpy(image)).numpy()
    except RuntimeError:  # _differs names the node
        return float("inf")
    return _difference(actual, expected)


def _noise(imported: OnnxImport, size: tuple[int, int], seed: int) -> Array:
    """An image of noise, in which every pixel influences the output."""
    entry, rng = imported.entry, np.random.default_rng(seed)
    shape = (entry.batch or 1, entry.channels, *size)
    if entry.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32)


def _photograph(imported: OnnxImport, size: tuple[int, int], number: int) -> Array:
    """A bundled photograph, resized to `size`, as an input of the network; white is 1 or 255."""
    entry, files = imported.entry, image_files.bundled().held_out
    photograph = image_files.read(files[number % len(files)])
    small = bicubic.resize(photograph, *size, antialias=True).transpose(2, 0, 1)
    image = np.resize(small, (entry.batch or 1, entry.channels, *size))
    return image if entry.dtype == "uint8" else image / np.float32(255)


def _difference(actual: Array, expected: Array) -> float:
    """Largest difference, as a share of the range of `expected`; infinity for different shapes.

    In an image that was rounded, one step is no difference: two sums that differ in their last bit
    may be rounded apart.
    """
    if actual.shape != expected.shape:
        return float("inf")
    one, other = actual.astype(np.float64), expected.astype(np.float64)
    extent = float(np.ptp(other)) if other.size else 0.0
    apart = np.abs(one - other)
    unit = _unit(other)
    if unit is not None and np.mean(apart > unit / 2) <= TIES:
        apart = np.maximum(apart - unit, 0.0)
    return float(apart.max(initial=0.0)) / max(extent, 1e-6)


def _unit(values: Array) -> float | None:
    """The step of a rounded image, all of whose values are multiples of it; None for others."""
    levels = np.unique(values)
    if not 2 < len(levels) <= LEVELS or not np.isfinite(levels).all():
        return None
    unit = float(np.diff(levels).min())
    multiples = levels / unit
    return unit if np.abs(multiples - np.round(multiples)).max() < NEAR else None


def _differs(imported: OnnxImport, path: Path, image: Array, difference: float) -> DataError:
    """The error that names the first node whose output differs."""
    named = "at its end"
    expected = _intermediates(imported, path, image)
    actual = _computed(imported.network, torch.from_numpy(image))
    makers = {name: n for n in file_reader.complete(path).graph.node for name in n.output}
    for name, node in imported.tensors.items():
        if name not in expected or name not in makers:
            continue
        value = actual.get(node)
        if value is None or not _difference(value, expected[name]) <= LIMIT:
            maker = makers[name]
            named = f"first at {maker.op_type} '{file_reader.title(maker)}'"
            break
    return DataError(
        f"The network imported from {path} differs from ONNX Runtime by {difference:.1e} of its "
        f"range, {named}.",
        "Export the network with another opset or in another form, and please report it.",
    )


def _intermediates(imported: OnnxImport, path: Path, image: Array) -> Mapping[str, Array]:
    """Tensor of the file -> the value that ONNX Runtime computes."""
    model = file_reader.complete(path)
    names = {name for node in model.graph.node for name in node.output} & {*imported.tensors}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    session = file_reader.session(model.SerializeToString(), path)
    values = session.run(None, feed(session, image, imported.entry.layout))
    return dict(zip(sorted(names), values, strict=True))


def _computed(network: fx.GraphModule, image: torch.Tensor) -> dict[str, Array]:
    """Node -> the value that torch computes, up to the first node that fails."""
    values: dict[str, Array] = {}

    def see(node: fx.Node, value: torch.Tensor) -> None:
        values[node.name] = value.numpy()

    with suppress(RuntimeError):
        tracing.watch(network, image, see)
    return values
