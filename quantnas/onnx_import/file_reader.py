"""Reads a third-party ONNX file and refuses at once what cannot become a torch graph.

A file is data: nothing in it is executed here, except that ONNX Runtime computes constant tensors.
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

from quantnas.errors import DataError, UsageError, missing

from . import file_limits, subgraphs
from .onnx_session import open_session

LARGEST = 2**31 - 1
"""Largest file, external data included, in bytes: a protobuf message cannot be larger."""
OPSETS = (9, 25)
"""Oldest and newest opset that is read."""
STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
CONTROL = ("If", "Loop", "Scan", "SequenceMap")
"""Operators that contain graphs."""
INTEGER = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantize",
    "QLinear",
    "ConvInteger",
    "MatMulInteger",
)
"""Prefixes of the operators of a quantized network."""
SAME = ("Identity", "Dropout")
"""Operators that return their input."""
KINDS = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
"""Element types that an image may have."""
NAMED = 8
"""Largest number of items that an error lists."""


@dataclass(frozen=True)
class Entry:
    """The input of a file."""

    name: str
    dtype: str
    """Element type, float32 or uint8."""
    batch: int | None
    """Number of images to which the input is fixed; None = any number."""
    channels: int
    height: int | None
    """Height to which the input is fixed, pixels; None = any height."""
    width: int | None
    """Width to which the input is fixed, pixels; None = any width."""


@dataclass(frozen=True)
class FileGraph:
    """The graph of a file without constant nodes, identities and nodes that nothing needs."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, NDArray[Any]]
    """Name of a tensor -> its value, for all tensors that do not depend on the image."""
    learned: frozenset[str]
    """Names of the constants that the file stores; the others are computed from them."""
    entry: Entry
    """Input of the file."""
    output: str
    """Name of the output tensor."""
    opset: int


def read(path: Path, operators: Collection[str]) -> FileGraph:
    """Read the graph in a file all of whose operators are in `operators`.

    Raises DataError for a file that is missing, damaged, above 2 GB, quantized already, or whose
    network does not turn one image into one image; UsageError that lists all unknown operators.
    """
    model = complete(path)
    opset = _opset(model, path)
    _require_float(model, path)
    _require_known(model, operators, path)
    stored = {t.name: _array(t, path) for t in model.graph.initializer}
    entry = _entry(model, stored, path)
    nodes, output = _without_identities(model)
    constant, rest = subgraphs.parted(nodes, stored)
    used = {name for node in rest for name in node.input}
    constants = stored | _constant_values(model, constant, used, path)
    return FileGraph(tuple(rest), constants, frozenset(stored), entry, output, opset)


def complete(path: Path) -> onnx.ModelProto:
    """Read a model with its external data, and with its functions inlined.

    Raises DataError as `read` does for a file that is missing, damaged or too large.
    """
    if not path.is_file():
        raise missing(path)
    _require_size(path.stat().st_size, path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises several kinds
        raise _damaged(path, error) from error
    if not model.graph.node:
        raise _damaged(path, "it holds no operators")
    if not all(isinstance(name, str) for name in _names(model)):
        raise _damaged(path, "it has names that are no UTF-8")
    locations = [external_data_helper.ExternalDataInfo(t) for t in _external_tensors(model)]
    absent = sorted({p.location for p in locations if not (path.parent / p.location).is_file()})
    if absent:
        raise DataError(
            f"{path} keeps its weights in other files, of which {_listed(absent)} is missing.",
            "Put all files of the network into one folder.",
        )
    files = {path.parent / p.location for p in locations}
    _require_size(path.stat().st_size + sum(file.stat().st_size for file in files), path)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # several libraries raise here, also for paths outside the folder
        raise _damaged(path, error) from error
    if not model.functions:
        return model
    file_limits.require_few_nodes(model, path)
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner has no common class of errors
        raise _damaged(path, error) from error


def _names(model: onnx.ModelProto) -> Iterable[str]:
    """All names in a graph; protobuf gives bytes for those that are no UTF-8."""
    graph = model.graph
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    values = (*graph.initializer, *graph.input, *graph.output, *graph.value_info)
    yield from (value.name for value in values)


def _external_tensors(model: onnx.ModelProto) -> Iterable[TensorProto]:
    """The tensors of a model whose content lies in other files."""
    inner = (t for node in model.graph.node for a in node.attribute for t in (a.t, *a.tensors))
    tensors = (*model.graph.initializer, *inner)
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
    """The message of another library's error as a single line without its full stop."""
    return " ".join(str(reason).split()).rstrip(".")[:300]


def _listed(texts: Collection[str]) -> str:
    """The first texts in a list with commas, and how many more there are."""
    shown = list(texts)[:NAMED]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(shown) + more


# Files that are refused


def _opset(model: onnx.ModelProto, path: Path) -> int:
    """The opset of a model. Raises DataError for one that is not read."""
    opsets = [o.version for o in model.opset_import if o.domain in STANDARD]
    if not opsets or not OPSETS[0] <= opsets[0] <= OPSETS[1]:
        raise DataError(
            f"{path} has operators of version {opsets[0] if opsets else 'unknown'}; versions "
            f"{OPSETS[0]} to {OPSETS[1]} are read.",
            "Export it with another opset, or convert it with onnx.version_converter.",
        )
    return opsets[0]


def _require_float(model: onnx.ModelProto, path: Path) -> None:
    kinds = sorted({n.op_type for n in model.graph.node if n.op_type.startswith(INTEGER)})
    if kinds:
        raise DataError(
            f"{path} is quantized already: it holds {_listed(kinds)}.",
            "Give the network as it was before, in float.",
        )


def _require_known(model: onnx.ModelProto, operators: Collection[str], path: Path) -> None:
    unknown: dict[str, list[str]] = {}
    for node in model.graph.node:
        kind = node.op_type
        if node.domain not in STANDARD:
            kind = f"{node.domain}.{kind}"
        elif kind in operators or kind in (*SAME, "Constant"):
            continue
        unknown.setdefault(kind, []).append(title(node))
    if unknown:
        raise unsupported(path, [f"{kind} ({_listed(names)})" for kind, names in unknown.items()])


def unsupported(path: Path, what: Collection[str]) -> UsageError:
    """The error for operators that cannot be imported; `what` describes each of them."""
    return UsageError(
        f"{path} has operators that cannot be imported: {'; '.join(what)}.",
        "Export the network without them; graphs inside (If, Loop) vanish with fixed settings.",
    )


def title(node: onnx.NodeProto) -> str:
    """Name of a node or, if it has none, of its first output."""
    return node.name or node.output[0]


def _entry(model: onnx.ModelProto, stored: Collection[str], path: Path) -> Entry:
    """The input of a model. Raises DataError unless it is one image and there is one output."""
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
            f"{path} does not turn an image into an image: its input has the shape {shape}.",
            "It must take (images, channels, height, width) with 1 or 3 channels.",
        )
    if kind.elem_type not in KINDS:
        known = kind.elem_type in TensorProto.DataType.values()
        stated = TensorProto.DataType.Name(kind.elem_type).lower() if known else "an unknown type"
        raise DataError(
            f"{path} takes images as {stated}.",
            "Export it in float32.",
        )
    batch, channels, height, width = sides
    assert channels is not None
    return Entry(entries[0].name, KINDS[kind.elem_type], batch, channels, height, width)


# Nodes that are left out


def _without_identities(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], str]:
    """The nodes that the output needs, without identities, and the name of the output."""
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


def _constant_values(
    model: onnx.ModelProto, constant: list[onnx.NodeProto], read: Collection[str], path: Path
) -> dict[str, NDArray[Any]]:
    """Name -> value of those tensors in `read` that constant nodes compute."""
    names = [name for node in constant for name in node.output if name and name in read]
    try:
        return subgraphs.constants(model, names)
    except DataError as error:  # too large
        raise DataError(f"{path}: {error.cause}", error.remedy) from error
    except Exception as error:  # ONNX Runtime has no common class of errors
        raise _not_loaded(path, error) from error


def _array(tensor: TensorProto, path: Path) -> NDArray[Any]:
    try:
        return np.array(numpy_helper.to_array(tensor))
    except Exception as error:  # several libraries raise here
        raise _damaged(path, f"tensor '{tensor.name}': {error}") from error


def session(model: Path | bytes, path: Path) -> ort.InferenceSession:
    """Open a model in ONNX Runtime without optimisation; `path` names it in the error.

    Raises DataError when ONNX Runtime does not load it.
    """
    try:
        return open_session(model, optimise=False, log_severity_level=4)
    except Exception as error:  # ONNX Runtime has no common class of errors
        raise _not_loaded(path, error) from error


def _not_loaded(path: Path, error: Exception) -> DataError:
    return DataError(
        f"ONNX Runtime {ort.__version__} does not load {path}: {line(error)}.",
        "Check that the file is complete, or update ONNX Runtime.",
    )
