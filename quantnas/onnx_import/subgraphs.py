"""Parts of an ONNX graph: what some tensors need, what is constant, and the values of constants."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .onnx_session import open_session


def needed(
    nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that lead to the tensors `outputs`, in their order, and all names that they need.

    The names are those of the outputs and of everything that these nodes read.
    """
    names, kept = {*outputs}, list[onnx.NodeProto]()
    for node in reversed(nodes):
        if names.intersection(node.output):
            names.update(inputs(node))
            kept.append(node)
    return kept[::-1], names


def inputs(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, those inside of its own graphs (If, Loop) included."""
    inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return {*node.input, *(name for g in inner for n in g.node for name in inputs(n))}


def parted(
    nodes: Iterable[onnx.NodeProto], stored: Collection[str]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that depend on stored tensors alone, and the others; both in their order."""
    known, constant, others = {"", *stored}, list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in nodes:
        is_constant = known.issuperset(node.input)
        known.update(node.output if is_constant else ())
        (constant if is_constant else others).append(node)
    return constant, others


def constants(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Name -> value, of tensors that are stored in the model or follow from what is stored.

    The latter are computed by ONNX Runtime, as the nodes are written. Raises what it raises.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted = dict.fromkeys(names)
    found = {n: np.array(numpy_helper.to_array(stored[n])) for n in wanted if n in stored}
    computed = [name for name in wanted if name not in stored]
    if not computed:
        return found
    nodes, read = needed(model.graph.node, computed)
    outputs = [onnx.ValueInfoProto(name=name) for name in computed]
    tensors = [tensor for name, tensor in stored.items() if name in read]
    part = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, tensors),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    session = open_session(
        part.SerializeToString(), threads=1, optimise=False, log_severity_level=4
    )
    values = session.run(computed, {})
    return found | dict(zip(computed, map(np.asarray, values), strict=True))
