"""A LiteRT (TFLite) graph under construction, and its serialisation as a flatbuffer.

Tensors are (N, H, W, C). The classes of the schema come with the runtime, the extra
`quantnas[litert]`.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantnas.errors import UsageError

Array = NDArray[Any]
IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Alignment that runtimes which map the file expect of every constant, bytes."""

KINDS: dict[str, tuple[str | None, int]] = {
    "ADD": ("AddOptions", 2),
    "CONCATENATION": ("ConcatenationOptions", 2),
    "CONV_2D": ("Conv2DOptions", 3),
    "DEPTH_TO_SPACE": ("DepthToSpaceOptions", 1),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", 3),
    "DEQUANTIZE": (None, 2),
    "GATHER": ("GatherOptions", 2),
    "LOGISTIC": (None, 1),
    "MAX_POOL_2D": ("Pool2DOptions", 2),
    "MAXIMUM": (None, 2),
    "MIRROR_PAD": ("MirrorPadOptions", 1),
    "MUL": ("MulOptions", 2),
    "QUANTIZE": (None, 2),
    "RELU": (None, 2),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", 3),
    "TILE": (None, 1),
}
"""Operator -> (its table of options or None, the version of the operator that takes int8)."""


@dataclass(frozen=True)
class Levels:
    """The grid of a stored tensor: an integer q stands for (q - zero) * step."""

    steps: Sequence[float] | Array
    """One step, or one for every channel."""
    zero: int = 0
    axis: int = 0
    """Axis of the channels that have steps of their own."""


@dataclass
class TFLiteGraph:
    """A graph under construction; tensors are known by their number."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=lambda: [b""])
    """Contents of constants; the first is empty and belongs to all computed tensors."""
    operators: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    """Kinds of operators in the graph, each once."""

    def tensor(self, shape: Sequence[int], kind: str, levels: Levels | None = None) -> int:
        """Add a tensor of a type of the schema, such as "INT8" -> its number."""
        s = schema()
        tensor = s.TensorT(shape=list(shape), type=getattr(s.TensorType, kind), hasRank=True)
        tensor.name = f"t{len(self.tensors)}"
        if levels is not None:
            steps = np.asarray(levels.steps, np.float32)
            zeros = np.full(len(steps), levels.zero, np.int64)
            tensor.quantization = s.QuantizationParametersT(
                scale=steps, zeroPoint=zeros, quantizedDimension=levels.axis
            )
        self.tensors.append(tensor)
        self.shapes.append(tuple(shape))
        return len(self.tensors) - 1

    def constant(self, value: Any, dtype: Any, levels: Levels | None = None) -> int:
        """Add a constant of an integer or float type of numpy -> its number."""
        array = np.ascontiguousarray(value, dtype)
        number = self.tensor(array.shape, array.dtype.name.upper(), levels)
        data = array.tobytes()
        if data not in self.buffers:
            self.buffers.append(data)
        self.tensors[number].buffer = self.buffers.index(data)
        return number

    def add(self, kind: str, inputs: Sequence[int], output: int, **options: Any) -> int:
        """Append an operator -> the number of its output."""
        s = schema()
        if kind not in self.kinds:
            self.kinds.append(kind)
        operator = s.OperatorT(opcodeIndex=self.kinds.index(kind))
        operator.inputs, operator.outputs = list(inputs), [output]
        table = KINDS[kind][0]
        if table is not None:
            operator.builtinOptionsType = getattr(s.BuiltinOptions, table)
            operator.builtinOptions = getattr(s, f"{table}T")(**options)
        self.operators.append(operator)
        return output

    def serialised(self, low: int, high: int, metadata: tuple[str, bytes]) -> bytes:
        """Serialise the graph, with its input `low` named "lr" and its output `high` named "sr".

        metadata: (name, content) of a buffer that runtimes ignore.
        """
        s, name = schema(), metadata[0]
        self.tensors[low].name, self.tensors[high].name = "lr", "sr"
        self.tensors[low].shapeSignature = [1, -1, -1, 3]
        buffers = [*map(_Stored, [*self.buffers, metadata[1]])]
        ends = [s.TensorMapT("lr", low)], [s.TensorMapT("sr", high)]
        model = s.ModelT(
            version=SCHEMA_VERSION,
            operatorCodes=[_code(kind) for kind in self.kinds],
            subgraphs=[s.SubGraphT(self.tensors, [low], [high], self.operators, "quantnas")],
            description="quantnas",
            buffers=buffers,
            metadata=[s.MetadataT(name, len(buffers) - 1)],
            signatureDefs=[s.SignatureDefT(*ends, "serving_default")],
        )
        builder = importlib.import_module("flatbuffers").Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())


@dataclass(frozen=True)
class _Stored:
    """A buffer of the file, aligned, which the class of the schema does not do."""

    data: bytes

    def Pack(self, builder: Any) -> int:
        s, vector = schema(), None
        if self.data:
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.Head() : builder.Head() + len(self.data)] = self.data
            vector = builder.EndVector()
        s.BufferStart(builder)
        if vector is not None:
            s.BufferAddData(builder, vector)
        return int(s.BufferEnd(builder))


def _code(kind: str) -> Any:
    s = schema()
    code = getattr(s.BuiltinOperator, kind)
    return s.OperatorCodeT(deprecatedBuiltinCode=code, version=KINDS[kind][1], builtinCode=code)


def schema() -> Any:
    """The classes of the TFLite schema. Raises UsageError when the runtime is not installed."""
    return runtime("schema_py_generated")


def runtime(module: str) -> Any:
    """Import a module of the runtime. Raises UsageError when the runtime is not installed."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise UsageError(
            "TFLite files need LiteRT, which is not installed.",
            "Install it with: pip install 'quantnas[litert]', or use the ONNX file.",
        )
    return importlib.import_module(f"ai_edge_litert.{module}")
