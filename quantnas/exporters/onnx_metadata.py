"""The metadata of an exported ONNX file: layers, bit widths and cost, written and read."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, cast, get_args

import onnx
from onnx import helper
from typing_extensions import TypedDict

from quantnas import __version__
from quantnas.architectures.cost import REFERENCE, Cost, Layer, parameter_count, total
from quantnas.config import files, schema
from quantnas.config.files import plain
from quantnas.config.search_space import Bits, Pixels, Scale, outputs
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.nn.operations import Shape
from quantnas.onnx_import import file_reader

METADATA_KEY = "quantnas"
BITS = get_args(Bits)
"""Bit widths that a layer may have."""
MOST = 2**20
"""Largest side of a kernel, and number of its channels, that is believed."""
SHARED = "shared"
"""Word behind a layer whose kernel is that of an earlier one."""


def write(
    model: onnx.ModelProto, cost: Cost, scale: int, path: Path, pixels: Pixels | None = None
) -> None:
    """Write a model with its layers, bit widths and pixel conventions as metadata.

    pixels: pixel conventions of an imported network. Other metadata of the model are kept. The
    file is written completely or not at all. Raises the exceptions of ONNX's own checker.
    """
    kept = {p.key: p.value for p in model.metadata_props}
    helper.set_model_props(model, {**kept, METADATA_KEY: _short_metadata(cost, scale, pixels)})
    onnx.checker.check_model(model, full_check=True)
    files.write_bytes(path, model.SerializeToString())


def full_metadata(cost: Cost, scale: int) -> str:
    """Version, scale and the whole cost as JSON, for the formats that store them unabridged."""
    facts = {"version": __version__, "scale": scale, "cost": asdict(cost)}
    return json.dumps(facts, separators=(",", ":"))


def _short_metadata(totals: Cost, scale: int, pixels: Pixels | None = None) -> str:
    """Version, scale and layers as short JSON; the rest of the cost is computed from the layers."""
    rows = [
        f"{r.name} {r.op} {'x'.join(map(str, r.shape))} {r.weight_bits} {r.act_bits} {r.area}"
        + (f" {SHARED}" if r.parameters < parameter_count(r.op, r.shape) else "")
        for r in totals.layers
    ]
    facts: dict[str, Any] = {"version": __version__, "scale": scale, "layers": ",".join(rows)}
    if pixels is not None:
        facts["pixels"] = plain(pixels)
    return json.dumps(facts, separators=(",", ":"))


@dataclass(frozen=True)
class Metadata:
    """What an exported file says about itself."""

    version: str
    """Version of quantnas that exported it."""
    scale: Scale
    cost: Cost | None
    """The cost; None where a file of an older version does not state it in full."""
    pixels: Pixels | None = None
    """Pixel conventions of an imported network; None for other networks."""


class _Stated(TypedDict):
    """The keys of the metadata; older versions wrote `cost` instead of `layers`."""

    version: NotRequired[str]
    scale: Scale
    layers: NotRequired[str]
    cost: NotRequired[Any]
    pixels: NotRequired[dict[str, Any]]


def _layers(text: str, scale: int) -> Iterator[Layer]:
    """The layers of `_short_metadata`. Raises ValueError or ArithmeticError for another text."""
    for row in text.split(","):
        name, op, sides, weights, inputs, area, *words = row.split()
        first, *others = map(int, sides.split("x"))
        shape = cast(Shape, (first, *others))
        bits = int(weights), int(inputs)
        if (
            len(shape) != 4
            or min(shape) < 1
            or max(shape) > MOST
            or not {*bits} <= {*BITS}
            or words not in ([], [SHARED])
        ):
            raise ValueError(f"there is no layer '{row}'")
        macs = math.prod(shape) * outputs(area, *REFERENCE, scale)
        parameters = 0 if words == [SHARED] else parameter_count(op, shape)
        yield Layer(name, op, shape, *bits, area, macs, parameters)


def _parsed(text: str, path: Path) -> Metadata:
    """The metadata in the text that a file holds. Raises DataError for a damaged text."""
    try:
        facts = files.parse_json(text)
        schema.check(_Stated, facts, f"The metadata of {path}")
        pixels = None
        if "pixels" in facts:
            pixels = schema.parse(Pixels, facts["pixels"], f"The metadata of {path}")
        return Metadata(facts.get("version", ""), facts["scale"], _cost(facts, path), pixels)
    except (QuantnasError, ValueError, ArithmeticError) as error:
        reason = error.cause if isinstance(error, QuantnasError) else str(error)
        raise DataError(
            f"What {path} says about itself cannot be read ({reason.rstrip('.')[:200]}).",
            "It is damaged: export it again.",
        ) from error


def _cost(facts: Mapping[str, Any], path: Path) -> Cost | None:
    if "layers" in facts:
        return total(list(_layers(facts["layers"], facts["scale"])), facts["scale"])
    try:
        cost = schema.parse(Cost, facts["cost"], str(path))
        for layer in cost.layers:
            outputs(layer.area, *REFERENCE, facts["scale"])
        return cost
    except (UsageError, KeyError):
        return None


def exported_here(path: Path) -> bool:
    """Return whether quantnas exported the file. Raises DataError when it is no ONNX file."""
    return _metadata(path) is not None


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of an exported file.

    Raises DataError when it is no ONNX file, when quantnas did not export it, and for damaged
    metadata.
    """
    text = _metadata(path)
    if text is None:
        raise DataError(
            f"{path} was not exported by quantnas: it has no '{METADATA_KEY}' metadata.",
            "Give a file that `quantnas export` wrote.",
        )
    return _parsed(text, path)


def _metadata(path: Path) -> str | None:
    try:
        model = onnx.load(path, load_external_data=False)
        texts = {p.key: p.value for p in model.metadata_props}
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Check the path.") from error
    except Exception as error:
        raise file_reader.damaged(path, error) from error
    if not model.graph.node:
        raise file_reader.damaged(path, "it holds no operators")
    return texts.get(METADATA_KEY)
