"""Brings third-party models into the one form that is imported.

Files differ in ways that change no network: half precision, old operator sets, weights among the
inputs, a stated number of images, branches that never run, an output without a shape. Such a model
is rewritten here, before anything reads its graph, so that all later code knows a single form.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from . import subgraphs

OLDEST = 9
"""Oldest opset that is imported; older models are converted to it where onnx can."""
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""Element types of half precision."""
HALF = "it is in half precision: it is read, and written, in float32"
"""Note for users about a file in half precision."""
TYPE_ATTRIBUTES = ("to", "dtype", "stash_type")
"""Attributes of nodes whose value is an element type."""

RESIZE = 11
"""First opset in which Resize states how positions are computed."""
RESIZE_BEFORE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
"""How Resize and Upsample compute positions in the opsets before."""

Form = tuple[onnx.ModelProto, str | None]
"""A model, and a note for users if it was rewritten in a way that they can notice."""


def usual(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Rewrite a model, possibly in place -> the model in the usual form, and notes for users.

    What cannot be rewritten stays as it is. Raises the exceptions of onnx for damaged tensors, and
    those of ONNX Runtime for conditions that it cannot compute; they have no common class.
    """
    notes = []
    for change in (
        _without_stored_inputs,
        _in_single_precision,
        _of_known_opset,
        _without_constant_branches,
        _with_shapes,
        _for_one_image,
    ):
        model, note = change(model)
        notes += [note] if note else []
    return model, tuple(notes)


def opset_of(model: onnx.ModelProto) -> int | None:
    """The version of ONNX's own operators in a model; None when the model states none."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return versions[0] if versions else None


def _without_stored_inputs(model: onnx.ModelProto) -> Form:
    """List no stored tensor among the inputs, as the format allows from version 4 on."""
    stored = {tensor.name for tensor in model.graph.initializer}
    for position in reversed(range(len(model.graph.input))):
        if model.graph.input[position].name in stored:
            del model.graph.input[position]
    model.ir_version = max(model.ir_version, 4)
    return model, None


def _in_single_precision(model: onnx.ModelProto) -> Form:
    """Turn half precision into float32, at both ends too."""
    if not _widen(model.graph):
        return model, None
    return model, HALF


def _widen(graph: onnx.GraphProto) -> bool:
    """Turn all of a graph, and graphs inside of it, into float32; whether anything was in half."""
    halves = [tensor for tensor in _tensors(graph) if tensor.data_type in HALVES]
    for tensor in halves:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    found = bool(halves)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type, found = TensorProto.FLOAT, True
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.type == onnx.AttributeProto.GRAPH:
            found |= _widen(attribute.g)
        elif attribute.name in TYPE_ATTRIBUTES and attribute.i in HALVES:
            attribute.i, found = TensorProto.FLOAT, True
    return found


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The stored tensors of a graph, and those in attributes of its nodes."""
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t


def _of_known_opset(model: onnx.ModelProto) -> Form:
    """Convert a model that is older than `OLDEST`; one that onnx cannot convert stays old."""
    opset = opset_of(model)
    if opset is None or opset >= OLDEST:
        return model, None
    try:
        later = converted(model, OLDEST)
    except Exception:  # the converter of ONNX has no exception class of its own
        return model, None
    return later, f"its operators have version {opset}: they were converted to {OLDEST}"


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy of a model whose operators have a later version.

    Raises the exceptions of onnx's converter, which have no common class. The converter forgets
    that positions were `asymmetric` before opset 11, which is stated here.
    """
    later = version_converter.convert_version(model, opset)
    if (opset_of(model) or 0) < RESIZE <= opset:
        for node in (n for n in later.graph.node if n.op_type == "Resize"):
            stated = {a.name for a in node.attribute}
            for name, value in RESIZE_BEFORE.items():
                if name not in stated:
                    node.attribute.append(helper.make_attribute(name, value))
    return later


# Branches


def _without_constant_branches(model: onnx.ModelProto) -> Form:
    """Replace every If whose condition is constant by the nodes of the branch that runs."""
    graph, count = model.graph, 0
    while (node := _decided(graph)) is not None:
        (condition,) = subgraphs.constants(model, [node.input[0]]).values()
        branches = {a.name: a.g for a in node.attribute}
        branch = branches["then_branch" if np.all(condition) else "else_branch"]
        nodes, count = list(graph.node), count + 1
        position = nodes.index(node)
        spliced = [*nodes[:position], *_branch_nodes(graph, node, branch), *nodes[position + 1 :]]
        copies = [_copy(each) for each in spliced]
        del graph.node[:]
        graph.node.extend(copies)
    return model, None if count == 0 else "branches that never run are left out"


def _decided(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """The first If whose condition does not depend on the image."""
    if not any(node.op_type == "If" for node in graph.node):
        return None
    stored = {tensor.name for tensor in graph.initializer}
    constant, _ = subgraphs.parted(graph.node, stored)
    known = stored.union(*(node.output for node in constant))
    return next((n for n in graph.node if n.op_type == "If" and n.input[0] in known), None)


def _branch_nodes(
    graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """The nodes of a branch, which give the outputs of its If; stores its tensors in the graph."""
    made = [name for each in branch.node for name in each.output]
    names = {name: f"{node.output[0]}/{name}" for name in (*made, *_stored(branch)) if name}
    copies = []
    for output, given in zip(branch.output, node.output, strict=True):
        if output.name in made and names[output.name] not in node.output:
            names[output.name] = given
        else:
            copies.append(helper.make_node("Identity", [output.name], [given]))
    for tensor in branch.initializer:
        graph.initializer.append(tensor)
        graph.initializer[-1].name = names[tensor.name]
    nodes = [_copy(each) for each in (*branch.node, *copies)]
    for each in nodes:
        _rename(each, names)
    return nodes


def _stored(graph: onnx.GraphProto) -> list[str]:
    return [tensor.name for tensor in graph.initializer]


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Give the tensors of a node other names, also in graphs inside of it."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for each in attribute.g.node:
            _rename(each, names)
        for output in attribute.g.output:
            output.name = names.get(output.name, output.name)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


# Ends


def _with_shapes(model: onnx.ModelProto) -> Form:
    """State type and shape of an end that lacks them: as far as known, an image of any size."""
    for value in model.graph.input:
        _open(value)
    if all(o.type.tensor_type.HasField("shape") for o in model.graph.output):
        return model, None
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    for output, full in zip(model.graph.output, inferred, strict=True):
        output.CopyFrom(full)
        _open(output)
    return model, None


def _open(value: onnx.ValueInfoProto) -> None:
    """Give an end without a type that of float32, and one without a shape four open sides."""
    kind = value.type.tensor_type
    kind.elem_type = kind.elem_type or TensorProto.FLOAT
    if not kind.HasField("shape"):
        for _ in range(4):
            kind.shape.dim.add()


def _for_one_image(model: onnx.ModelProto) -> Form:
    """Open a model that states several images at a time, to one image."""
    sides = [value.type.tensor_type.shape.dim for value in model.graph.input]
    count = max((int(dims[0].dim_value) for dims in sides if len(dims) == 4), default=0)
    if count < 2:
        return model, None
    for dims in sides:
        dims[0].dim_value = 1
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim[:1]:
            dim.Clear()
    del model.graph.value_info[:]
    return model, f"it takes {count} images at a time: it is read, and written, for one"
