"""What an exported ONNX file says about itself, and how the file is written and read."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import onnx
from onnx import helper

from quantnas import __version__
from quantnas.architectures.cost import REFERENCE, Cost, Layer, learned, total
from quantnas.config import files
from quantnas.config.files import plain
from quantnas.config.search_space import Pixels, outputs
from quantnas.errors import DataError
from quantnas.nn.operations import Shape

METADATA_KEY = "quantnas"


def write(
    model: onnx.ModelProto, cost: Cost, scale: int, path: Path, pixels: Pixels | None = None
) -> None:
    """Write a model with its layers, bits and what it takes for an image, whole or not at all.

    Other metadata that it has are kept. Raises what ONNX's own checker does.
    """
    kept = {p.key: p.value for p in model.metadata_props}
    helper.set_model_props(model, {**kept, METADATA_KEY: _told(cost, scale, pixels)})
    onnx.checker.check_model(model, full_check=True)
    files.write_bytes(path, model.SerializeToString())


def full_metadata(cost: Cost, scale: int) -> str:
    """Version, scale and the whole cost as JSON, for the formats that keep them unabridged."""
    facts = {"version": __version__, "scale": scale, "cost": asdict(cost)}
    return json.dumps(facts, separators=(",", ":"))


def _told(totals: Cost, scale: int, pixels: Pixels | None = None) -> str:
    """Version, scale and layers as short JSON; the rest of the cost follows from the layers."""
    rows = [
        f"{r.name} {r.op} {'x'.join(map(str, r.shape))} {r.weight_bits} {r.act_bits} {r.area}"
        for r in totals.layers
    ]
    facts: dict[str, Any] = {"version": __version__, "scale": scale, "layers": ",".join(rows)}
    if pixels is not None:
        facts["pixels"] = plain(pixels)
    return json.dumps(facts, separators=(",", ":"))


def _untold(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `_told` was made of, the cost in full."""
    rows, scale = [], int(facts["scale"])
    for text in facts["layers"].split(","):
        name, op, sides, weights, inputs, place = text.split()
        shape, area = cast(Shape, tuple(map(int, sides.split("x")))), place
        n = math.prod(shape)
        macs = n * outputs(area, *REFERENCE, scale)
        bits = int(weights), int(inputs)
        rows.append(Layer(name, op, shape, *bits, area, macs, learned(op, shape)))
    found: dict[str, Any] = plain(total(rows, scale))
    told = {"version": facts["version"], "scale": scale, "cost": found}
    return told | {"pixels": facts["pixels"]} if "pixels" in facts else told


def exported_here(path: Path) -> bool:
    """Whether `write` has written the file. Raises DataError when it is no ONNX file."""
    return _metadata(path) is not None


def read_metadata(path: Path) -> dict[str, Any]:
    """What `to_onnx` wrote about the file: version, scale and cost; of a network from elsewhere
    also `pixels`, a `search_space.Pixels` as a mapping.

    Raises DataError when it is no ONNX file, or none of this project.
    """
    text = _metadata(path)
    if text is None:
        raise DataError(
            f"{path} was not exported by quantnas: it has no '{METADATA_KEY}' metadata.",
            "Give a file that `quantnas export` wrote.",
        )
    facts: dict[str, Any] = json.loads(text)
    return _untold(facts) if "layers" in facts else facts


def _metadata(path: Path) -> str | None:
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Check the path.") from error
    except Exception as error:
        raise DataError(f"{path} is not a complete ONNX file.", "Export it again.") from error
    if not model.graph.node:
        raise DataError(f"{path} is empty: it holds no network.", "Export it again.")
    return {p.key: p.value for p in model.metadata_props}.get(METADATA_KEY)
