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

from . import file_forms, file_kinds, file_limits, subgraphs
from .image_entry import Entry, entries
from .onnx_session import open_session

LARGEST = 2**31 - 1
"""Largest file, external data included, in bytes: a protobuf message cannot be larger."""
OPSETS = (file_forms.OLDEST, 25)
"""Oldest and newest opset that is read; older files are converted where onnx can."""
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
NAMED = 8
"""Largest number of items that an error lists."""


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
    model: onnx.ModelProto
    """The whole model, in the form that is imported."""
    other_entries: tuple[Entry, ...] = ()
    """What the input may be instead, where the file leaves channels or layout open."""
    notes: tuple[str, ...] = ()
    """Remarks for users about what was changed in the file."""


def read(path: Path, operators: Collection[str]) -> FileGraph:
    """Read the graph in a file all of whose operators are in `operators`.

    Raises DataError for a file that is missing, damaged, above 2 GB, quantized already, or whose
    network does not turn one image into one image; UsageError that lists all unknown operators.
    """
    model, notes = _usual(path)
    opset = _opset(model, path)
    stored = {t.name: _array(t, path) for t in model.graph.initializer}
    entry, *others = entries(model, path)
    _, open_nodes = subgraphs.parted(model.graph.node, stored)
    _require_float(open_nodes, path)
    _require_known(open_nodes, operators, path)
    nodes, output = _without_identities(model)
    constant, rest = subgraphs.parted(nodes, stored)
    used = {name for node in rest for name in node.input}
    constants = stored | _constant_values(model, constant, used, path)
    learned = frozenset(stored)
    return FileGraph(
        tuple(rest), constants, learned, entry, output, opset, model, tuple(others), notes
    )


def complete(path: Path) -> onnx.ModelProto:
    """Read a model with its external data, in the form that is imported (`file_forms`).

    Raises DataError as `read` does for a file that is missing, damaged or too large.
    """
    return _usual(path)[0]


def _usual(path: Path) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A model as of `complete`, and notes for users about what was changed."""
    model = _with_all_data(path)
    try:
        return file_forms.usual(model)
    except Exception as error:  # several libraries raise here
        raise damaged(path, error) from error


def _with_all_data(path: Path) -> onnx.ModelProto:
    """Read a model with its external data, and with its functions inlined."""
    if not path.is_file():
        raise missing(path)
    _require_size(path.stat().st_size, path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises several kinds
        raise damaged(path, error) from error
    if not model.graph.node:
        raise damaged(path, "it holds no operators")
    if not all(isinstance(name, str) for name in _names(model)):
        raise damaged(path, "it has names that are no UTF-8")
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
        raise damaged(path, error) from error
    if not model.functions:
        return model
    file_limits.require_few_nodes(model, path)
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner has no common class of errors
        raise damaged(path, error) from error


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


def damaged(path: Path, reason: object) -> DataError:
    """The error for a file that cannot be read as ONNX; it says what the file is, if it can.

    reason: the error of another library, or words.
    """
    kind = file_kinds.other_kind(path)
    if kind is not None:
        return DataError(f"{path} is {kind[0]}, no ONNX file.", kind[1])
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
    opset = file_forms.opset_of(model)
    if opset is None or not OPSETS[0] <= opset <= OPSETS[1]:
        raise DataError(
            f"{path} has operators of version {opset or 'unknown'}; versions {OPSETS[0]} to "
            f"{OPSETS[1]} are read, and older ones that onnx can convert.",
            "Export it with another opset.",
        )
    return opset


def _require_float(nodes: Collection[onnx.NodeProto], path: Path) -> None:
    kinds = sorted({n.op_type for n in nodes if n.op_type.startswith(INTEGER)})
    if kinds:
        raise DataError(
            f"{path} is quantized already: it holds {_listed(kinds)}.",
            "Give the network as it was before, in float.",
        )


def _require_known(
    nodes: Collection[onnx.NodeProto], operators: Collection[str], path: Path
) -> None:
    unknown: dict[str, list[str]] = {}
    for node in nodes:
        kind = node.op_type
        if node.domain not in STANDARD:
            kind = f"{node.domain}.{kind}"
        elif kind in operators or kind in SAME:
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
        raise damaged(path, f"tensor '{tensor.name}': {error}") from error


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
