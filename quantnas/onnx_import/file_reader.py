"""Reads a foreign ONNX file, and refuses at once what cannot become a torch graph.

Nothing in a file is executed here but what ONNX Runtime computes of constants: a file is data.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, inliner, numpy_helper

from quantnas.errors import DataError, UsageError

from . import subgraphs
from .onnx_session import open_session

LARGEST = 2**31 - 1
"""Bytes of a file with its external data: more does not fit in one message of protobuf."""
OPSETS = (9, 25)
"""The oldest and the newest version of the operators that is read."""
STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
CONTROL = ("If", "Loop", "Scan", "SequenceMap")
"""Operators with graphs inside."""
INTEGER = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantize",
    "QLinear",
    "ConvInteger",
    "MatMulInteger",
)
"""Beginnings of the operators of a quantized network."""
SAME = ("Identity", "Dropout")
"""Operators that give what they are given."""
KINDS = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
"""Types that an image may have."""
NAMED = 8
"""Nodes of a kind that an error names at most."""


@dataclass(frozen=True)
class Entry:
    """The input of a file."""

    name: str
    dtype: str
    """float32 or uint8"""
    batch: int | None
    """Images at a time; None = open, here and below."""
    channels: int
    height: int | None
    width: int | None


@dataclass(frozen=True)
class FileGraph:
    """The graph of a file, without what is constant, gives back its input, or is not needed."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, NDArray[Any]]
    learned: frozenset[str]
    """Constants that are stored as such; the others are computed of them."""
    entry: Entry
    output: str
    opset: int


def read(path: Path, known: Collection[str]) -> FileGraph:
    """The graph in a file whose operators are all `known`.

    Raises DataError for a file that is missing, damaged, above 2 GB, quantized already, or not of
    one image to one image; UsageError for operators that are not known, all of them at once.
    """
    model = complete(path)
    opset = _opset(model, path)
    _require_float(model, path)
    _require_known(model, known, path)
    stored = {t.name: _array(t, path) for t in model.graph.initializer}
    entry = _entry(model, stored, path)
    nodes, output = _shortened(model)
    constant, rest = subgraphs.parted(nodes, stored)
    read = {name for node in rest for name in node.input}
    constants = stored | _computed(model, constant, read, path)
    return FileGraph(tuple(rest), constants, frozenset(stored), entry, output, opset)


def complete(path: Path) -> onnx.ModelProto:
    """The model with its external data, and with its functions written out.

    Raises DataError as `read` does for a file that is missing, damaged or too large.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Check the path.")
    _require_size(path.stat().st_size, path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf
        raise _damaged(path, error) from error
    if not model.graph.node:
        raise _damaged(path, "it holds no operators")
    places = [external_data_helper.ExternalDataInfo(t) for t in _outside(model)]
    lost = sorted({p.location for p in places if not (path.parent / p.location).is_file()})
    if lost:
        raise DataError(
            f"{path} keeps its weights in other files, of which {_some(lost)} is missing.",
            "Put all files of the network into one folder.",
        )
    files = {path.parent / p.location for p in places}
    _require_size(path.stat().st_size + sum(file.stat().st_size for file in files), path)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # of several libraries; places outside the folder are refused here
        raise _damaged(path, error) from error
    return inliner.inline_local_functions(model) if model.functions else model


def _outside(model: onnx.ModelProto) -> Iterable[TensorProto]:
    found = (t for node in model.graph.node for a in node.attribute for t in (a.t, *a.tensors))
    tensors = (*model.graph.initializer, *found)
    return (t for t in tensors if external_data_helper.uses_external_data(t))


def _require_size(count: int, path: Path) -> None:
    if count > LARGEST:
        raise DataError(
            f"{path} holds {count / 2**30:.1f} GB, more than the 2 GB that can be read.",
            "Networks for images have far less; check that it is the right file.",
        )


def _damaged(path: Path, reason: object) -> DataError:
    return DataError(
        f"{path} is damaged or no ONNX file ({line(reason)}).", "Copy or export it again."
    )


def line(reason: object) -> str:
    """A message of another library in one line."""
    return " ".join(str(reason).split()).rstrip(".")[:300]


def _some(texts: Collection[str]) -> str:
    shown = list(texts)[:NAMED]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(shown) + more


# What is refused


def _opset(model: onnx.ModelProto, path: Path) -> int:
    found = [o.version for o in model.opset_import if o.domain in STANDARD]
    if not found or not OPSETS[0] <= found[0] <= OPSETS[1]:
        raise DataError(
            f"{path} has operators of version {found[0] if found else 'unknown'}; versions "
            f"{OPSETS[0]} to {OPSETS[1]} are read.",
            "Export it with another opset, or convert it with onnx.version_converter.",
        )
    return found[0]


def _require_float(model: onnx.ModelProto, path: Path) -> None:
    kinds = sorted({n.op_type for n in model.graph.node if n.op_type.startswith(INTEGER)})
    if kinds:
        raise DataError(
            f"{path} is quantized already: it holds {_some(kinds)}.",
            "Give the network as it was before, in float.",
        )


def _require_known(model: onnx.ModelProto, known: Collection[str], path: Path) -> None:
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        kind = node.op_type
        if node.domain not in STANDARD:
            kind = f"{node.domain}.{kind}"
        elif kind in known or kind in (*SAME, "Constant"):
            continue
        found.setdefault(kind, []).append(title(node))
    if found:
        raise unsupported(path, [f"{kind} ({_some(names)})" for kind, names in found.items()])


def unsupported(path: Path, what: Collection[str]) -> UsageError:
    """The error for operators that cannot be taken over, all of them."""
    return UsageError(
        f"{path} has operators that cannot be imported: {'; '.join(what)}.",
        "Export the network without them; graphs inside (If, Loop) vanish with fixed settings.",
    )


def title(node: onnx.NodeProto) -> str:
    """The name of a node or, if it has none, of what it gives."""
    return node.name or node.output[0]


def _entry(model: onnx.ModelProto, stored: Collection[str], path: Path) -> Entry:
    entries = [value for value in model.graph.input if value.name not in stored]
    if len(entries) != 1 or len(model.graph.output) != 1:
        raise DataError(
            f"{path} has {len(entries)} inputs and {len(model.graph.output)} outputs, where a "
            "network for images has one of each.",
            "Export it with the image as its only input, and the large image as its only output.",
        )
    kind = entries[0].type.tensor_type
    sides = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    sides = [side or None for side in sides]  # some exporters write 0 for an open side
    if len(sides) != 4 or sides[1] not in (1, 3):
        shape = " x ".join(str(side or "?") for side in sides) or "unknown"
        raise DataError(
            f"{path} is no network from image to image: its input has the shape {shape}.",
            "It must take (images, channels, height, width) with 1 or 3 channels.",
        )
    if kind.elem_type not in KINDS:
        raise DataError(
            f"{path} takes images as {TensorProto.DataType.Name(kind.elem_type).lower()}.",
            "Export it in float32.",
        )
    batch, channels, height, width = sides
    assert channels is not None
    return Entry(entries[0].name, KINDS[kind.elem_type], batch, channels, height, width)


# What is left out


def _shortened(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], str]:
    """The nodes that are needed, but for those that give back their input; name of the output."""
    renamed: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type in SAME:
            renamed[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    output = renamed.get(model.graph.output[0].name, model.graph.output[0].name)
    return subgraphs.needed(nodes, [output])[0], output


def _computed(
    model: onnx.ModelProto, constant: list[onnx.NodeProto], read: Collection[str], path: Path
) -> dict[str, NDArray[Any]]:
    """Those of the tensors `read` that constant nodes give."""
    names = [name for node in constant for name in node.output if name and name in read]
    try:
        return subgraphs.constants(model, names)
    except Exception as error:  # ONNX Runtime has no class for them all
        raise _not_loaded(path, error) from error


def _array(tensor: TensorProto, path: Path) -> NDArray[Any]:
    try:
        return np.array(numpy_helper.to_array(tensor))
    except Exception as error:  # of several libraries
        raise _damaged(path, f"tensor '{tensor.name}': {error}") from error


def session(model: Path | bytes, path: Path) -> ort.InferenceSession:
    """A model in ONNX Runtime as it is written. Raises DataError where that does not load it."""
    try:
        return open_session(model, optimise=False, log_severity_level=4)
    except Exception as error:  # ONNX Runtime has no class for them all
        raise _not_loaded(path, error) from error


def _not_loaded(path: Path, error: Exception) -> DataError:
    return DataError(
        f"ONNX Runtime {ort.__version__} does not load {path}: {line(error)}.",
        "Check that the file is complete, or update ONNX Runtime.",
    )
