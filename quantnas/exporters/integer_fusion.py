"""Why ONNX Runtime leaves a convolution in float: read from the graph that it was given.

It runs one in integers when DequantizeLinear stands before its input and its weights, and a
QuantizeLinear behind it (docs/decisions/0003); a ConvInteger is in integers by itself.
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
"""What ONNX Runtime runs a convolution as, if not in float."""
SUFFIX = re.compile(r"_token_\d+$")
"""What it puts behind the name of a node that it has changed."""
BYTES = (TensorProto.UINT8, TensorProto.INT8)


def in_float(model: onnx.ModelProto, optimised: onnx.ModelProto) -> dict[str, str]:
    """Layer that is not run in integers -> why; `optimised` is what ONNX Runtime made of `model`.

    A layer is known by the name of its node, which ONNX Runtime keeps.
    """
    wiring = wired(model)
    done = {SUFFIX.sub("", n.name) for n in optimised.graph.node if n.op_type in INTEGER}
    left = {name: conv for name, conv in wiring.convolutions.items() if name not in done}
    unknown = "nothing in the graph tells why"
    return {name: "; ".join(reasons(wiring, conv)) or unknown for name, conv in left.items()}


def reasons(wiring: Wiring, conv: onnx.NodeProto) -> Iterator[str]:
    """What keeps a convolution from running in integers."""
    for what, name in zip(("input", "weights", "bias"), conv.input, strict=False):
        maker = wiring.makers.get(name)
        if maker is None or maker.op_type != PAIR[1]:
            yield f"no DequantizeLinear before its {what}, but {_beginning(wiring, name)}"
        elif what != "bias":
            yield from _integers(wiring, what, maker)
    yield from _behind(wiring, conv)


def _beginning(wiring: Wiring, name: str) -> str:
    if name in wiring.makers:
        return wiring.makers[name].op_type
    return f"stored {_type(wiring.tensors[name])}" if name in wiring.tensors else name


def _integers(wiring: Wiring, what: str, dequantize: onnx.NodeProto) -> Iterator[str]:
    """Of what a DequantizeLinear turns into float."""
    if any(a.name == "block_size" and a.i for a in dequantize.attribute):
        yield f"its {what} have a step for every block"
    named = (wiring.tensors.get(name) for name in (dequantize.input[0], *dequantize.input[2:]))
    integers = next((t for t in named if t is not None), None)  # or a zero point of their type
    allowed = BYTES[:1] if what == "input" else BYTES
    if integers is not None and integers.data_type not in allowed:
        yield f"a DequantizeLinear directly on its {what} in {_type(integers)}"


def _behind(wiring: Wiring, conv: onnx.NodeProto) -> Iterator[str]:
    """Of what reads the output of a convolution."""
    reader = _only(wiring, conv)
    between = reader if reader is not None and reader.op_type in ("Relu", "Clip") else None
    grid = _only(wiring, between) if between is not None else reader
    if reader is None:
        yield "what it gives is not read by one QuantizeLinear alone"
    elif grid is None or grid.op_type != PAIR[0]:
        yield f"what it gives is read by {reader.op_type}, not by a QuantizeLinear"
    elif between is not None and not (between.op_type == "Relu" and _at_zero(wiring, grid)):
        yield f"{between.op_type} between it and its QuantizeLinear"
    elif np.ndim(_stored(wiring, grid, 1)):
        yield "the QuantizeLinear behind it has a step for every channel"


def _only(wiring: Wiring, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The one that reads what a node gives; None where there are more or none."""
    readers = wiring.readers.get(node.output[0], [])
    return readers[0] if len(readers) == 1 else None


def _at_zero(wiring: Wiring, quantize: onnx.NodeProto) -> bool:
    return not _stored(wiring, quantize, 2).any()


def _stored(wiring: Wiring, node: onnx.NodeProto, at: int) -> NDArray[Any]:
    """An input of a node; 0 where it is left out or made by a node."""
    tensor = wiring.tensors.get([*node.input, "", ""][at])
    return np.zeros(()) if tensor is None else numpy_helper.to_array(tensor)


def _type(tensor: onnx.TensorProto) -> str:
    return str(TensorProto.DataType.Name(tensor.data_type)).lower()
