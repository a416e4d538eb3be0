"""Parts of an ONNX graph: the nodes that some tensors need, constant nodes and their values."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .onnx_session import open_session, run_limited


def needed(
    nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes, in order, that the tensors `outputs` depend on, and all names that they need.

    The names are those of the outputs and of all inputs of these nodes.
    """
    names, kept = {*outputs}, list[onnx.NodeProto]()
    for node in reversed(nodes):
        if names.intersection(node.output):
            names.update(inputs(node))
            kept.append(node)
    return kept[::-1], names


def inputs(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors that a node reads, also from graphs inside of it (If, Loop)."""
    inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    names = {*node.input}
    for graph in inner:
        read = {name for n in graph.node for name in inputs(n)} | {v.name for v in graph.output}
        own = {t.name for t in (*graph.initializer, *graph.input)}
        names |= read - own.union(*(n.output for n in graph.node))
    return names


def parted(
    nodes: Iterable[onnx.NodeProto], stored: Collection[str]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that depend only on the tensors `stored`, and all other nodes; both in order."""
    constant_names, constant, others = {"", *stored}, list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in nodes:
        is_constant = constant_names.issuperset(inputs(node))
        constant_names.update(node.output if is_constant else ())
        (constant if is_constant else others).append(node)
    return constant, others


def constants(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Name -> value of the constant tensors `names` of a model.

    ONNX Runtime computes those that the model does not store. Raises DataError where these would
    take too much memory, else the exceptions of ONNX Runtime, which have no common class.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    unique = dict.fromkeys(names)
    arrays = {n: np.array(numpy_helper.to_array(stored[n])) for n in unique if n in stored}
    computed = [name for name in unique if name not in stored]
    if not computed:
        return arrays
    nodes, read = needed(model.graph.node, computed)
    outputs = [onnx.ValueInfoProto(name=name) for name in computed]
    tensors = [tensor for name, tensor in stored.items() if name in read]
    part = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, tensors),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    session = open_session(
        part.SerializeToString(), threads=1, optimise=False, limited=True, log_severity_level=4
    )
    values = run_limited(session, computed)
    return arrays | dict(zip(computed, map(np.asarray, values), strict=True))
