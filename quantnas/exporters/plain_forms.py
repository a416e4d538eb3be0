"""The plain form of a file that `convolution_forms` has changed, with layers as they are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quantnas.onnx_import import subgraphs

from .convolution_forms import end_of, groups_of, is_quantized
from .graph_index import Wiring, wired
from .model_editor import ModelEditor, changed
from .onnx_graph import PAIR

Kernel = NDArray[np.integer]
DENSE = ["Cast", "Reshape", "Mul", "Cast", "Reshape"]
"""Operators that make a dense kernel of one with groups, the last one first."""


@dataclass(frozen=True)
class Expansion:
    """The small kernel that a convolution's large one is made of."""

    kernel: str
    """Name of the small kernel."""
    groups: int
    outputs: int = 0
    """Number of output channels that the layer has not."""
    inputs: int = 0
    """Number of input channels that the layer has not."""


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the convolutions of its layers; outputs of convolutions keep names."""
    wiring = wired(model)
    expansions = _expansions(model, wiring)
    return _Writer(ModelEditor(model), wiring, expansions).written() if expansions else model


def problems(model: onnx.ModelProto, plain_model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """(layer, problem) for each large kernel that holds other integers than the small one."""
    wiring, small_wiring = wired(model), wired(plain_model)
    expansions = _expansions(model, wiring)
    large = {out: wiring.makers[wiring.makers[out].input[1]].input[0] for out in expansions}
    values = subgraphs.constants(model, [*large.values(), *(e.kernel for e in expansions.values())])
    for out, expansion in expansions.items():
        kernel, found = values[expansion.kernel], values[large[out]]
        if not np.array_equal(found, _expanded(kernel, expansion)):
            yield small_wiring.makers[out].name, "has a large kernel that is not made of its own"


def _expanded(kernel: Kernel, expansion: Expansion) -> Kernel:
    """The large kernel that a small one stands for."""
    groups, (c_out, c_in, *sides) = expansion.groups, kernel.shape
    rows = c_out // groups
    large = np.zeros((c_out + expansion.outputs, c_in * groups + expansion.inputs, *sides), int)
    for g in range(groups):
        own = slice(g * rows, (g + 1) * rows)
        large[own, g * c_in : (g + 1) * c_in] = kernel[own]
    return large


def _expansions(model: onnx.ModelProto, wiring: Wiring) -> dict[str, Expansion]:
    """Output of a convolution -> its expansion, for those whose kernel is made of a smaller one."""
    found = {}
    for node in model.graph.node:
        if not is_quantized(wiring, node):
            continue
        weights = wiring.makers[node.input[1]]
        try:
            expansion = _expansion(wiring, node, str(weights.input[0]))
        except (KeyError, ValueError):
            continue  # the nodes are another program's
        if expansion.kernel != weights.input[0]:
            found[str(node.output[0])] = expansion
    return found


def _expansion(wiring: Wiring, conv: onnx.NodeProto, kernel: str) -> Expansion:
    outputs = inputs = 0
    groups = groups_of(conv)
    chain = _chain(wiring, kernel)
    if chain[:1] == ["Pad"]:
        small, pads, *_ = wiring.makers[kernel].input
        outputs, inputs = numpy_helper.to_array(wiring.tensors[pads])[4:6].tolist()
        kernel, chain = str(small), chain[1:]
    if chain[:5] == DENSE:
        product = _back(wiring, kernel, 2)
        groups = wiring.tensors[product.input[1]].dims[0]
        kernel = str(_back(wiring, kernel, 4).input[0])
    return Expansion(kernel, groups, outputs, inputs)


def _chain(wiring: Wiring, name: str) -> list[str]:
    """Operators that lead to a tensor by their first inputs, the last one first."""
    kinds = []
    while (maker := wiring.makers.get(name)) is not None:
        kinds.append(maker.op_type)
        name = maker.input[0] if maker.input else ""
    return kinds


def _back(wiring: Wiring, name: str, steps: int) -> onnx.NodeProto:
    """The node so many steps before the one that makes a tensor, by first inputs."""
    node = wiring.makers[name]
    for _ in range(steps):
        node = wiring.makers[node.input[0]]
    return node


class _Writer:
    """A model under construction, with the plain form of convolutions."""

    def __init__(
        self, editor: ModelEditor, wiring: Wiring, expansions: dict[str, Expansion]
    ) -> None:
        self.editor, self.wiring, self.expansions = editor, wiring, expansions
        self.renamed: dict[str, str] = {}
        """Tensor with more channels -> the one that has those of its layer."""
        for output, expansion in expansions.items():
            conv = wiring.makers[output]
            if expansion.outputs:
                self._find_cut(end_of(wiring, conv))
            if expansion.inputs:
                self._find_fill(wiring.makers[conv.input[0]].input[0])

    def _find_cut(self, wide: str) -> None:
        for reader in self.wiring.readers.get(wide, []):
            if reader.op_type == "Slice":
                self.renamed[wide] = reader.output[0]

    def _find_fill(self, wide: str) -> None:
        fill = self.wiring.makers.get(wide)
        if fill is not None and fill.op_type == "Pad":
            self.renamed[wide] = fill.input[0]

    def written(self) -> onnx.ModelProto:
        """The new model."""
        left_out = {(new, old) for old, new in self.renamed.items()} | {*self.renamed.items()}
        for node in self.editor.model.graph.node:
            if node.op_type in ("Slice", "Pad") and (node.input[0], node.output[0]) in left_out:
                continue
            names = [[self.renamed.get(n, n) for n in part] for part in (node.input, node.output)]
            node, expansion = changed(node, *names), self.expansions.get(node.output[0])
            if expansion is not None:
                self._restore(node, expansion)
            self.editor.nodes.append(node)
        return self.editor.edited()

    def _restore(self, conv: onnx.NodeProto, expansion: Expansion) -> None:
        """Give a convolution the kernel, the bias and the groups of its layer."""
        weights, *bias = (self.wiring.makers[name] for name in conv.input[1:])
        more = expansion.outputs
        levels = [expansion.kernel, *(self._narrowed(name, more) for name in weights.input[1:])]
        inputs = [conv.input[0], self.editor.add(PAIR[1], levels, axis=0)]
        for node in bias:
            units = [self._narrowed(name, more) for name in node.input]
            inputs.append(self.editor.add(PAIR[1], units, axis=0))
        groups = {"group": expansion.groups} if expansion.groups > 1 else {"group": None}
        conv.CopyFrom(changed(conv, inputs, **groups))

    def _narrowed(self, name: str, more: int) -> str:
        """A constant with a value per output channel, without the last ones."""
        tensor, maker = self.wiring.tensors.get(name), self.wiring.makers.get(name)
        if not more or (tensor is not None and not tensor.dims):
            return name
        if maker is None:
            values = numpy_helper.to_array(self.wiring.tensors[name])
            return self.editor.constant(values[:-more], values.dtype)
        if maker.op_type == "Pad":
            return str(maker.input[0])
        attributes = {a.name: helper.get_attribute_value(a) for a in maker.attribute}
        inputs = [self._narrowed(name, more) for name in maker.input]
        return self.editor.add(maker.op_type, inputs, **attributes)
