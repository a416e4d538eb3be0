"""The input of a third-party file: what images it takes, and what it may take where it is open."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from quantnas.config.search_space import Layout
from quantnas.errors import DataError

KINDS = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
"""Element types that an image may have."""
CHANNELS: dict[Layout, int] = {"NCHW": 1, "NHWC": 3}
"""Layout of an image -> position of the channels."""


@dataclass(frozen=True)
class Entry:
    """The input of a file."""

    name: str
    dtype: str
    """Element type, float32 or uint8."""
    batch: int | None
    """Number of images to which the input is fixed; None = any number."""
    channels: int
    height: int | None
    """Height to which the input is fixed, pixels; None = any height."""
    width: int | None
    """Width to which the input is fixed, pixels; None = any width."""
    layout: Layout = "NCHW"
    """Order of the dimensions, at the output too."""


def entries(model: onnx.ModelProto, path: Path) -> list[Entry]:
    """What the input of a model may be, the likeliest first; only one unless it leaves that open.

    Raises DataError unless it is one image and there is one output.
    """
    inputs = list(model.graph.input)
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise DataError(
            f"{path} has {len(inputs)} inputs and {len(model.graph.output)} outputs, where a "
            "network for images has one of each.",
            "Export it with the image as its only input, and the large image as its only output.",
        )
    kind = inputs[0].type.tensor_type
    sides = [d.dim_value or None for d in kind.shape.dim]  # some exporters write 0 for an open side
    sides = sides if kind.HasField("shape") else [None] * 4
    layouts = [n for n, axis in CHANNELS.items() if len(sides) == 4 and sides[axis] in (1, 3)]
    layouts = layouts or [n for n, axis in CHANNELS.items() if len(sides) == 4 and not sides[axis]]
    if not layouts:
        shape = " x ".join(str(side or "?") for side in sides) or "unknown"
        raise DataError(
            f"{path} does not turn an image into an image: its input has the shape {shape}.",
            "It must take (images, channels, height, width) with 1 or 3 channels, which may also "
            "come last.",
        )
    if kind.elem_type not in KINDS:
        known = kind.elem_type in TensorProto.DataType.values()
        stated = TensorProto.DataType.Name(kind.elem_type).lower() if known else "an unknown type"
        raise DataError(
            f"{path} takes images as {stated}.",
            "Export it in float32.",
        )
    dtype = KINDS[kind.elem_type]
    return [e for layout in layouts for e in _read_as(layout, inputs[0].name, dtype, sides)]


def _read_as(layout: Layout, name: str, dtype: str, sides: Sequence[int | None]) -> Iterator[Entry]:
    """The inputs with that layout and these sides: one, or one for each number of channels."""
    at = CHANNELS[layout]
    batch, *rest = (side for axis, side in enumerate(sides) if axis != at)
    for channels in [sides[at]] if sides[at] else [3, 1]:
        assert channels is not None
        yield Entry(name, dtype, batch, channels, rest[0], rest[1], layout)
