"""Survey of a third-party network in an ONNX file, before anything is done with it.

The network is imported, compared with ONNX Runtime, and run on photographs to find out its pixel
conventions. The result is a search space with one architecture (`imported_onnx`), which everything
else handles like the other spaces.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from quantnas.config.genotype import Genotype, choice_of
from quantnas.config.run_config import PixelsConfig
from quantnas.config.search_space import Pixels, Precision, Scale, SearchSpace
from quantnas.errors import UsageError
from quantnas.onnx_import import layer_analysis, parity, pixel_conventions
from quantnas.onnx_import.importer import OnnxImport
from quantnas.onnx_import.parity import Parity
from quantnas.onnx_import.pixel_conventions import Conventions

from . import cost, imported_onnx, registry

NO_SETTINGS = PixelsConfig()


@dataclass(frozen=True)
class Survey:
    """Results of a survey."""

    space: SearchSpace
    parity: Parity
    """Comparison of the imported network with ONNX Runtime."""
    conventions: Conventions
    """Pixel conventions that the survey found by itself."""
    opset: int
    overridden: tuple[str, ...]
    """Names of the pixel conventions that settings state, instead of what was found."""
    notes: tuple[str, ...] = ()
    """Remarks about what is unusual in the file."""


def survey(path: Path, settings: PixelsConfig = NO_SETTINGS) -> Survey:
    """Survey the network in an ONNX file; `settings` override the pixel conventions found.

    Raises as `importer.load` and `parity.check`; UsageError for a scale other than 2, 3 and 4,
    DataError for a network that takes only one image at a time.
    """
    imported = imported_onnx.read(str(path))
    if imported.scale not in get_args(Scale):
        raise UsageError(
            f"{path} enlarges x{imported.scale}; x2, x3 and x4 are supported.",
            "Give another network.",
        )
    layer_analysis.require_several(imported)
    compared = parity.check(imported, path)
    conventions = pixel_conventions.conventions(imported)
    pixels, overridden = _pixels(conventions, settings, imported)
    name = re.sub(r"[^\w.-]+", "-", path.stem) or "network"
    scale = cast(Scale, imported.scale)
    space = SearchSpace(name, "onnx", scale, 0, 0, {}, source=str(path.resolve()), pixels=pixels)
    registry.slots(space)
    notes = (*imported.notes, *_notes(imported))
    return Survey(space, compared, conventions, imported.opset, overridden, notes)


def _notes(imported: OnnxImport) -> Iterator[str]:
    """Remarks about ends of a network that are unusual."""
    if imported.entry.layout == "NHWC":
        yield "its channels come last (NHWC), at both ends"
    if imported.only:
        height, width = imported.only
        yield f"it computes images of {width}x{height} pixels alone: others are cut or extended"
    if imported.lost:
        yield (
            f"its output lacks a border of {imported.lost / 2:g} pixels at each side: images are "
            f"extended by {imported.border} pixels, by repeating their edges"
        )


def _pixels(
    conventions: Conventions, settings: PixelsConfig, imported: OnnxImport
) -> tuple[Pixels, tuple[str, ...]]:
    """The pixel conventions found, replaced by the settings that are not None; names of those."""
    bytes_in = imported.entry.dtype == "uint8"
    pixels = Pixels(
        1 if conventions.input_peak == 1 else 255,
        1 if conventions.output_peak == 1 else 255,
        "Y" if conventions.channels == 1 else "BGR" if conventions.order == "BGR" else "RGB",
        conventions.multiple or 1,
        conventions.smallest or 1,
        bytes_in,
        imported.entry.layout,
        imported.border,
        imported.only,
    )
    values = {name: getattr(settings, name) for name in settings.__annotations__}
    overrides = {name: value for name, value in values.items() if value is not None}
    if pixels.order == "Y" and overrides.get("order", "Y") != "Y":
        raise UsageError("The network takes one channel, brightness.", "Leave `order` out.")
    return replace(pixels, **overrides), tuple(overrides)


def genotype(space: SearchSpace) -> Genotype:
    """The only architecture of an imported network's search space."""
    slots = registry.slots(space)
    return Genotype(space.name, {slot.name: choice_of(slot, 0, 0) for slot in slots})


def float_cost(space: SearchSpace) -> cost.Cost:
    """Cost of an imported network in float, as it is in its file."""
    bits = {slot.name: Precision(32, 32) for slot in registry.slots(space)}
    return cost.network_cost(space, genotype(space), bits)


def lines(result: Survey) -> Iterator[str]:
    """Lines of text that tell a user the results of a survey."""
    space, p, how = result.space, result.space.pixels, result.conventions.how
    sizes = " and ".join(f"{width}x{height}" for height, width in result.parity.sizes)
    slots, float_layers = registry.slots(space), registry.float_layers(space)
    rest = f", {len(float_layers)} other layers that stay in float" if float_layers else ""
    yield f"{space.source}: opset {result.opset}, x{space.scale}, {len(slots)} convolutions{rest}"
    yield (
        f"the imported network equals ONNX Runtime at {sizes} pixels: at most "
        f"{result.parity.largest:.1e} of the range apart"
    )
    yield from (f"note: {note}" for note in result.notes)
    yield (
        f"it takes {p.order}, {_range(p.input_peak, p.bytes_in)}, and gives "
        f"0..{p.output_peak} ({_why(result, 'input_peak')})"
    )
    if p.order != "Y":
        yield f"order of colours: {p.order} ({_why(result, 'order')})"
    if result.conventions.multiple is None:
        yield f"sizes: {how['multiple']}"
    else:
        every = "any size" if p.multiple == 1 else f"multiples of {p.multiple}"
        least = f", at least {p.smallest} pixels" if p.smallest > 1 else ""
        yield f"sizes: {every}{least} ({how['multiple']})"
    if any(why.startswith("assumed") for why in how.values()):
        yield "note: what is assumed can be set: --set pixels.input_peak=255, output_peak, order"


def _range(peak: int, bytes_in: bool) -> str:
    return "uint8" if bytes_in else f"0..{peak}"


def _why(result: Survey, name: str) -> str:
    return "as given" if name in result.overridden else result.conventions.how[name]
