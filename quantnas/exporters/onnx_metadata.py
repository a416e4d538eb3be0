"""The metadata of an exported ONNX file: layers, bit widths and cost, written and read."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import onnx
from onnx import helper

from quantnas import __version__
from quantnas.architectures.cost import REFERENCE, Cost, Layer, parameter_count, total
from quantnas.config import files
from quantnas.config.files import plain
from quantnas.config.search_space import Pixels, outputs
from quantnas.errors import DataError
from quantnas.nn.operations import Shape

METADATA_KEY = "quantnas"
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


def _expanded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Expand the facts of `_short_metadata` to version, scale, the whole cost and pixels."""
    rows, scale = [], int(facts["scale"])
    for text in facts["layers"].split(","):
        name, op, sides, weights, inputs, place, *words = text.split()
        shape, area = cast(Shape, tuple(map(int, sides.split("x")))), place
        macs = math.prod(shape) * outputs(area, *REFERENCE, scale)
        bits = int(weights), int(inputs)
        parameters = 0 if SHARED in words else parameter_count(op, shape)
        rows.append(Layer(name, op, shape, *bits, area, macs, parameters))
    cost: dict[str, Any] = plain(total(rows, scale))
    expanded = {"version": facts["version"], "scale": scale, "cost": cost}
    return expanded | {"pixels": facts["pixels"]} if "pixels" in facts else expanded


def exported_here(path: Path) -> bool:
    """Return whether quantnas exported the file. Raises DataError when it is no ONNX file."""
    return _metadata(path) is not None


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of an exported file: `version`, `scale` and `cost`, as mappings.

    Files of imported networks also have `pixels`, a `search_space.Pixels` as a mapping. Raises
    DataError when it is no ONNX file, or quantnas did not export it.
    """
    text = _metadata(path)
    if text is None:
        raise DataError(
            f"{path} was not exported by quantnas: it has no '{METADATA_KEY}' metadata.",
            "Give a file that `quantnas export` wrote.",
        )
    facts: dict[str, Any] = json.loads(text)
    return _expanded(facts) if "layers" in facts else facts


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
