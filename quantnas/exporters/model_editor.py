"""A changed copy of an ONNX model: nodes are added in order, and equal ones only once."""

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantnas.onnx_import import subgraphs

from .onnx_graph import content, letters


class ModelEditor:
    """The nodes and the stored tensors of a model that is made from another one.

    `model` is the original, which stays as it is. The user appends to `nodes` what the new model
    shall have of it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, list[onnx.NodeProto]()
        self.tensors = list(model.graph.initializer)
        self._known = {content(tensor): tensor.name for tensor in self.tensors}
        taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        taken |= {value.name for value in (*model.graph.input, *model.graph.output)}
        taken |= {tensor.name for tensor in self.tensors}
        self._names = (name for name in map(letters, itertools.count()) if name not in taken)

    def new_name(self) -> str:
        """A short name that no tensor has."""
        return next(self._names)

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node with one output, if there is none that is equal -> the output's name."""
        node = helper.make_node(kind, inputs, [""], **attributes)
        key = node.SerializeToString()
        if key not in self._known:
            self._known[key] = node.output[0] = self.new_name()
            self.nodes.append(node)
        return self._known[key]

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Store a tensor, if there is none that is equal -> its name."""
        tensor = numpy_helper.from_array(np.asarray(values, dtype))
        key = content(tensor)
        if key not in self._known:
            self._known[key] = tensor.name = self.new_name()
            self.tensors.append(tensor)
        return self._known[key]

    def edited(self) -> onnx.ModelProto:
        """The new model, without nodes and tensors that no output depends on, and without shapes.

        Its input and its output are those of the original.
        """
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        graph = made.graph
        nodes, names = subgraphs.needed(self.nodes, [value.name for value in graph.output])
        tensors = [tensor for tensor in self.tensors if tensor.name in names]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensors)
        return made


def changed(
    node: onnx.NodeProto,
    inputs: list[str] | None = None,
    outputs: list[str] | None = None,
    **attributes: Any,
) -> onnx.NodeProto:
    """Copy a node with other inputs, outputs or attributes; those that are None are left out."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.input[:] = node.input if inputs is None else inputs
    copied.output[:] = node.output if outputs is None else outputs
    kept = [a for a in node.attribute if a.name not in attributes]
    del copied.attribute[:]
    copied.attribute.extend(kept)
    new = {name: value for name, value in attributes.items() if value is not None}
    copied.attribute.extend(helper.make_attribute(name, value) for name, value in new.items())
    return copied
