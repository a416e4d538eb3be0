"""Reasons why ONNX Runtime leaves a convolution in float, read from the exported graph.

ONNX Runtime runs a convolution in integers when a DequantizeLinear precedes its input and its
weights and a QuantizeLinear follows it (docs/decisions/0003). A ConvInteger always does.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from .graph_index import Wiring, wired
from .onnx_graph import PAIR

INTEGER = ("QLinearConv", "ConvInteger")
"""Operators of the convolutions that ONNX Runtime runs in integers."""
STEPS = ("Add", "Cast", "Mul")
"""Operators that make float numbers of the sums of a ConvInteger, one after the other."""
SUFFIX = re.compile(r"_token_\d+$")
"""Suffix that ONNX Runtime adds to the name of a node that it has changed."""
BYTES = (TensorProto.UINT8, TensorProto.INT8)
"""Element types of weights that ONNX Runtime can run in integers; inputs need the first."""


def in_float(model: onnx.ModelProto, optimised: onnx.ModelProto) -> dict[str, str]:
    """Name of each layer that ONNX Runtime does not run in integers -> the reasons in words.

    optimised: the graph that ONNX Runtime runs for `model`. Layers are identified by the names of
    their nodes, which ONNX Runtime keeps.
    """
    wiring = wired(model)
    integer = {SUFFIX.sub("", n.name) for n in optimised.graph.node if n.op_type in INTEGER}
    left = {name: conv for name, conv in wiring.convolutions.items() if name not in integer}
    unknown = "nothing in the graph tells why"
    return {name: "; ".join(reasons(wiring, conv)) or unknown for name, conv in left.items()}


def unfused(model: onnx.ModelProto, optimised: onnx.ModelProto) -> dict[str, str]:
    """Name of each layer that runs as a ConvInteger, which is slower -> the reason in words."""
    wiring = wired(model)
    slow = {SUFFIX.sub("", n.name) for n in optimised.graph.node if n.op_type == "ConvInteger"}
    found = {name: conv for name, conv in wiring.convolutions.items() if name in slow}
    return {
        name: f"its output is in float, for {_next(wiring, conv)}" for name, conv in found.items()
    }


def _next(wiring: Wiring, conv: onnx.NodeProto) -> str:
    """What reads the sums of a ConvInteger, once they are converted to float."""
    name = conv.output[0]
    for _ in STEPS:
        (step,) = wiring.readers[name]
        name = step.output[0]
    kinds = sorted({node.op_type for node in wiring.readers.get(name, [])})
    return " and ".join(kinds) or "the output of the file"


def reasons(wiring: Wiring, conv: onnx.NodeProto) -> Iterator[str]:
    """Reasons why a convolution cannot run in integers."""
    for operand, name in zip(("input", "weights", "bias"), conv.input, strict=False):
        maker = wiring.makers.get(name)
        if maker is None or maker.op_type != PAIR[1]:
            yield f"no DequantizeLinear before its {operand}, but {_described(wiring, name)}"
        elif operand != "bias":
            yield from _type_reasons(wiring, operand, maker)
    yield from _output_reasons(wiring, conv)


def _described(wiring: Wiring, name: str) -> str:
    if name in wiring.makers:
        return wiring.makers[name].op_type
    return f"stored {_type(wiring.tensors[name])}" if name in wiring.tensors else name


def _type_reasons(wiring: Wiring, operand: str, dequantize: onnx.NodeProto) -> Iterator[str]:
    """Reasons that lie in the integers which a DequantizeLinear reads."""
    if any(a.name == "block_size" and a.i for a in dequantize.attribute):
        yield f"its {operand} have a step for every block"
    stored = (wiring.tensors.get(name) for name in (dequantize.input[0], *dequantize.input[2:]))
    integers = next((t for t in stored if t is not None), None)  # the zero point has the same type
    allowed = BYTES[:1] if operand == "input" else BYTES
    if integers is not None and integers.data_type not in allowed:
        yield f"a DequantizeLinear directly on its {operand} in {_type(integers)}"


def _output_reasons(wiring: Wiring, conv: onnx.NodeProto) -> Iterator[str]:
    """Reasons that lie in the nodes which read the output of a convolution."""
    reader = _only_reader(wiring, conv)
    between = reader if reader is not None and reader.op_type in ("Relu", "Clip") else None
    grid = _only_reader(wiring, between) if between is not None else reader
    if reader is None:
        yield "its output is not read by one QuantizeLinear alone"
    elif grid is None or grid.op_type != PAIR[0]:
        yield f"its output is read by {reader.op_type}, not by a QuantizeLinear"
    elif between is not None and not (between.op_type == "Relu" and _at_zero(wiring, grid)):
        yield f"{between.op_type} between it and its QuantizeLinear"
    elif np.ndim(_stored(wiring, grid, 1)):
        yield "the QuantizeLinear behind it has a step for every channel"


def _only_reader(wiring: Wiring, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The only node that reads the output of a node; None when there are several or none."""
    readers = wiring.readers.get(node.output[0], [])
    return readers[0] if len(readers) == 1 else None


def _at_zero(wiring: Wiring, quantize: onnx.NodeProto) -> bool:
    return not _stored(wiring, quantize, 2).any()


def _stored(wiring: Wiring, node: onnx.NodeProto, index: int) -> NDArray[Any]:
    """The stored value of a node's input; 0 when the input is omitted or made by a node."""
    tensor = wiring.tensors.get([*node.input, "", ""][index])
    return np.zeros(()) if tensor is None else numpy_helper.to_array(tensor)


def _type(tensor: onnx.TensorProto) -> str:
    return str(TensorProto.DataType.Name(tensor.data_type)).lower()
