"""Convolutions in the form that ONNX Runtime runs quickest, with the same integers.

A convolution of some groups becomes one with a dense kernel that holds zeros, and a convolution may
read and make more channels than its layer has: kernels of zeros fill its outputs up, and are cut
off behind its QuantizeLinear or read with zero weights by the next convolution. The file stores the
small kernel; constant nodes make the large one of it, which ONNX Runtime folds when it loads the
file. `plain_forms` undoes it for whatever reads the layers of a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantnas.onnx_import import subgraphs

from . import convolution_times
from .convolution_times import Costs, Shape
from .graph_index import Wiring, wired
from .model_editor import ModelEditor, changed
from .onnx_graph import PAIR

BY_VALUE = ("Cast", "Mul")
"""Operators that make a constant value by value."""
OLDEST = 13
"""First opset that has all operators of these forms."""


@dataclass(frozen=True)
class Rewrite:
    """Another form of a convolution."""

    shape: Shape
    form: Shape
    sides: tuple[int, ...]
    """Height and width of the kernel."""
    source: str
    """The integers that the convolution reads, with the channels of `form`."""
    end: str
    """The integers that it makes, behind its QuantizeLinear and the Clips there."""


def fast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose integer convolutions have their quickest form; the values are the same.

    Only convolutions between DequantizeLinear and QuantizeLinear are changed, those that ONNX
    Runtime runs as QLinearConv.
    """
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    wiring = wired(model)
    rewrites = _rewrites(model, wiring) if opset >= OLDEST else {}
    if not rewrites:
        return model
    return _Writer(ModelEditor(model), wiring, rewrites).written()


def _rewrites(model: onnx.ModelProto, wiring: Wiring) -> dict[str, Rewrite]:
    """Output of a convolution -> its new form, for those that have another one."""
    convs = [node for node in model.graph.node if is_quantized(wiring, node)]
    constant, _ = subgraphs.parted(model.graph.node, wiring.tensors)
    known = {*wiring.tensors}.union(*(node.output for node in constant))
    kernels = {c.output[0]: _maker(wiring, c, 1).input[0] for c in convs}
    kernels = {output: name for output, name in kernels.items() if name in known}
    values = subgraphs.constants(model, kernels.values()) if kernels else {}
    found: dict[str, Rewrite] = {}
    wide: dict[str, int] = {}
    outputs = {value.name for value in model.graph.output}

    def inner(name: str) -> bool:
        return name not in outputs and _read_by_convolutions(wiring, name)

    for conv in convs:
        kernel = values.get(kernels.get(conv.output[0], ""))
        if kernel is None or kernel.ndim != 4:
            continue
        shape, sides = _shape(kernel, conv), kernel.shape[2:]
        source, end = _maker(wiring, conv, 0).input[0], end_of(wiring, conv)
        costs = Costs(
            convolution_times.FILL_IMAGE if _is_image(model, source) else convolution_times.FILL,
            0 if inner(end) else convolution_times.CUT,
            wide.get(source),
            convolution_times.CUT if source in wide and inner(source) else 0,
        )
        form = convolution_times.best(shape, costs)
        if form != shape:
            found[conv.output[0]] = Rewrite(shape, form, sides, source, end)
        if form.c_out > shape.c_out:
            wide[end] = form.c_out
    return found


def is_quantized(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution that ONNX Runtime turns into a QLinearConv."""
    if node.op_type != "Conv":
        return False
    makers = [wiring.makers.get(name) for name in node.input if name]
    grid = _grid(wiring, node)
    if grid is None or any(maker is None or maker.op_type != PAIR[1] for maker in makers):
        return False
    zero = wiring.tensors.get([*_maker(wiring, node, 1).input, "", ""][2])
    if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
        return False
    return _has_one_step(wiring, _maker(wiring, node, 0)) and _has_one_step(wiring, grid)


def _grid(wiring: Wiring, conv: onnx.NodeProto) -> onnx.NodeProto | None:
    """The QuantizeLinear that alone reads a convolution, or a ReLU that it makes needless."""
    readers, relu = wiring.readers.get(conv.output[0], []), False
    if [reader.op_type for reader in readers] == ["Relu"]:
        readers, relu = wiring.readers.get(readers[0].output[0], []), True
    if [reader.op_type for reader in readers] != PAIR[:1]:
        return None
    zero = wiring.tensors.get([*readers[0].input, "", ""][2])
    is_needless = zero is not None and not numpy_helper.to_array(zero).any()
    return readers[0] if is_needless or not relu else None


def _has_one_step(wiring: Wiring, node: onnx.NodeProto) -> bool:
    step = wiring.tensors.get(node.input[1])
    return step is not None and not step.dims


def _maker(wiring: Wiring, conv: onnx.NodeProto, index: int) -> onnx.NodeProto:
    return wiring.makers[conv.input[index]]


def _shape(kernel: NDArray[Any], conv: onnx.NodeProto) -> Shape:
    c_out, c_in, *sides = kernel.shape
    groups = groups_of(conv)
    return Shape(c_in * groups, c_out, int(np.prod(sides)), groups)


def groups_of(conv: onnx.NodeProto) -> int:
    return next((a.i for a in conv.attribute if a.name == "group"), 1)


def end_of(wiring: Wiring, conv: onnx.NodeProto) -> str:
    """The last tensor of integers that a convolution makes: that of a QuantizeLinear or a Clip."""
    last = _grid(wiring, conv)
    assert last is not None
    while [n.op_type for n in wiring.readers.get(last.output[0], [])] == ["Clip"]:
        (last,) = wiring.readers[last.output[0]]
    return str(last.output[0])


def _read_by_convolutions(wiring: Wiring, name: str) -> bool:
    """Whether only convolutions that may get another form read these integers."""
    readers = wiring.readers.get(name, [])
    floats = [n for r in readers for n in wiring.readers.get(r.output[0], [])]
    is_pair = all(reader.op_type == PAIR[1] for reader in readers)
    return is_pair and all(is_quantized(wiring, node) and groups_of(node) == 1 for node in floats)


def _is_image(model: onnx.ModelProto, name: str) -> bool:
    """Whether a tensor is computed from the input of the file without a convolution."""
    nodes, _ = subgraphs.needed(model.graph.node, [name])
    return not any("Conv" in node.op_type for node in nodes)


class _Writer:
    """A model under construction, with new forms of convolutions."""

    def __init__(
        self, editor: ModelEditor, wiring: Wiring, rewrites: Mapping[str, Rewrite]
    ) -> None:
        self.editor, self.wiring, self.rewrites = editor, wiring, rewrites
        filled = [r for r in rewrites.values() if r.form.c_out > r.shape.c_out]
        self.wide = {r.end: (r, editor.new_name()) for r in filled}

    def written(self) -> onnx.ModelProto:
        """The new model."""
        for node in self.editor.model.graph.node:
            rewrite = self.rewrites.get(node.output[0])
            if rewrite is not None:
                self._add_convolution(node, rewrite)
            elif node.output[0] in self.wide:
                self._add_cut(node)
            else:
                self.editor.nodes.append(node)
        return self.editor.edited()

    def _add_cut(self, node: onnx.NodeProto) -> None:
        """Append a node whose channels beyond the first ones are cut off."""
        (name,) = node.output
        rewrite, wide = self.wide[name]
        ends = [self.editor.constant([n]) for n in (0, rewrite.shape.c_out, 1)]
        cut = helper.make_node("Slice", [wide, *ends], [name])
        self.editor.nodes += [changed(node, outputs=[wide]), cut]

    def _add_convolution(self, conv: onnx.NodeProto, rewrite: Rewrite) -> None:
        """Append a convolution in its new form, and the constant nodes that it needs."""
        x, weights, *bias = (self.wiring.makers[name] for name in conv.input if name)
        more = rewrite.form.c_out - rewrite.shape.c_out
        kernel = self._kernel(weights.input[0], rewrite)
        levels = [kernel, *(self._widened(name, more) for name in weights.input[1:])]
        inputs = [self._source(x, rewrite), self._dequantized(weights, levels)]
        for node in bias:
            inputs.append(self._dequantized(node, [self._widened(n, more) for n in node.input]))
        groups = {"group": rewrite.form.groups} if rewrite.form.groups > 1 else {"group": None}
        self.editor.nodes.append(changed(conv, inputs, **groups))

    def _dequantized(self, node: onnx.NodeProto, inputs: list[str]) -> str:
        """Append a DequantizeLinear like `node`, if its inputs are other ones -> its output."""
        if inputs == [*node.input]:
            return str(node.output[0])
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return self.editor.add(PAIR[1], inputs, **attributes)

    def _source(self, x: onnx.NodeProto, rewrite: Rewrite) -> str:
        """The input of the convolution with the channels of its form."""
        q, more = rewrite.source, rewrite.form.c_in - rewrite.shape.c_in
        before, wide = self.wide.get(q, (None, ""))
        if more and before is not None and before.form.c_out == rewrite.form.c_in:
            q = wide
        elif more:
            q = self.editor.add("Pad", [q, self.editor.constant([0] * 5 + [more, 0, 0])])
        return self._dequantized(x, [q, *x.input[1:]])

    def _kernel(self, name: str, rewrite: Rewrite) -> str:
        """The kernel (c_out, c_in, height, width) of the form, made of that of the layer."""
        shape, form = rewrite.shape, rewrite.form
        outputs, inputs = form.c_out - shape.c_out, form.c_in - shape.c_in
        if shape.groups > form.groups:
            name = self._dense(name, rewrite)
        if outputs or inputs:
            pads = self.editor.constant([0, 0, 0, 0, outputs, inputs, 0, 0])
            name = self.editor.add("Pad", [name, pads])
        return name

    def _dense(self, name: str, rewrite: Rewrite) -> str:
        """The dense kernel of a kernel (c_out, c_in / groups, height, width) of groups.

        The rows of the kernel are repeated for the inputs of every group, and multiplied by 0 where
        that is not their own. The product is in int32: older operators have none of int8.
        """
        edit, shape = self.editor, rewrite.shape
        rows = edit.constant([shape.groups, shape.c_out // shape.groups, 1, -1])
        wide = edit.add("Cast", [edit.add("Reshape", [name, rows])], to=TensorProto.INT32)
        own = edit.constant(np.eye(shape.groups)[:, None, :, None], np.int32)
        taps = edit.constant([shape.c_out, shape.c_in, *rewrite.sides])
        dense = edit.add("Reshape", [edit.add("Mul", [wide, own]), taps])
        return edit.add("Cast", [dense], to=TensorProto.INT8)

    def _widened(self, name: str, more: int) -> str:
        """A constant with a value per output channel; the last value is that of `more` channels."""
        tensor, maker = self.wiring.tensors.get(name), self.wiring.makers.get(name)
        if not more or (tensor is not None and not tensor.dims):
            return name
        if tensor is not None:
            values = numpy_helper.to_array(tensor)
            return self.editor.constant(np.pad(values, (0, more), "edge"), values.dtype)
        if maker is not None and maker.op_type in BY_VALUE:
            attributes = {a.name: helper.get_attribute_value(a) for a in maker.attribute}
            inputs = [self._widened(name, more) for name in maker.input]
            return self.editor.add(maker.op_type, inputs, **attributes)
        return self.editor.add("Pad", [name, self.editor.constant([0, more])], mode="edge")
