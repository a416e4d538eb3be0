"""A network from elsewhere, looked at before anything is done with it.

It is imported, compared with ONNX Runtime, and tried on photographs; what comes out is a space with
nothing to choose (`imported`), which everything else takes like those of this project.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from quantnas.config import schema
from quantnas.config.genotype import Genotype, choice_of
from quantnas.config.run_config import PixelsConfig
from quantnas.config.search_space import Pixels, Precision, Scale, SearchSpace
from quantnas.errors import UsageError
from quantnas.onnx_import import layer_analysis, parity, pixel_conventions
from quantnas.onnx_import.parity import Parity
from quantnas.onnx_import.pixel_conventions import Conventions

from . import cost, imported_onnx, registry

ASKED = PixelsConfig()


@dataclass(frozen=True)
class Survey:
    """What was found."""

    space: SearchSpace
    parity: Parity
    conventions: Conventions
    opset: int
    told: tuple[str, ...]
    """Settings that were given, not found."""


def survey(path: Path, asked: PixelsConfig = ASKED) -> Survey:
    """Look at the network in an ONNX file.

    Raises as `importer.load` and `parity.check`; UsageError for a magnification that this
    project does not have, DataError for a network that takes one image at a time.
    """
    found = imported_onnx.read(str(path))
    if found.scale not in get_args(Scale):
        raise UsageError(
            f"{path} enlarges x{found.scale}; x2, x3 and x4 are supported.", "Give another network."
        )
    layer_analysis.require_several(found)
    equal = parity.check(found, path)
    seen = pixel_conventions.conventions(found)
    pixels, told = _pixels(seen, asked, found.entry.dtype == "uint8")
    name = re.sub(r"[^\w.-]+", "-", path.stem) or "network"
    scale = cast(Scale, found.scale)
    space = SearchSpace(name, "onnx", scale, 0, 0, {}, source=str(path.resolve()), pixels=pixels)
    registry.slots(space)
    return Survey(space, equal, seen, found.opset, told)


def _pixels(
    seen: Conventions, asked: PixelsConfig, bytes_in: bool
) -> tuple[Pixels, tuple[str, ...]]:
    """What was found or, where that was given, what was asked for."""
    found = Pixels(
        1 if seen.input_peak == 1 else 255,
        1 if seen.output_peak == 1 else 255,
        "Y" if seen.channels == 1 else "BGR" if seen.order == "BGR" else "RGB",
        seen.multiple or 1,
        seen.smallest or 1,
        bytes_in,
    )
    given = {name: v for name in asked.__annotations__ if (v := getattr(asked, name)) is not None}
    if found.order == "Y" and given.get("order", "Y") != "Y":
        raise UsageError("The network takes one channel, brightness.", "Leave `order` out.")
    return replace(found, **given), tuple(given)


def genotype(space: SearchSpace) -> Genotype:
    """The only one there is."""
    slots = registry.slots(space)
    return Genotype(space.name, {slot.name: choice_of(slot, 0, 0) for slot in slots})


def float_cost(space: SearchSpace) -> cost.Cost:
    """What the network costs as it is."""
    bits = {slot.name: Precision(32, 32) for slot in registry.slots(space)}
    return cost.network_cost(space, genotype(space), bits)


def recorded(told: Mapping[str, Any], path: Path) -> Pixels | None:
    """What the metadata of an exported file say of images, if it is a network from elsewhere."""
    return schema.parse(Pixels, told["pixels"], str(path)) if "pixels" in told else None


def lines(found: Survey) -> Iterator[str]:
    """What was found, for people to read."""
    where, p, how = found.space, found.space.pixels, found.conventions.how
    sizes = " and ".join(f"{width}x{height}" for height, width in found.parity.sizes)
    slots, beside = registry.slots(where), registry.beside(where)
    rest = f", {len(beside)} other layers that stay in float" if beside else ""
    yield f"{where.source}: opset {found.opset}, x{where.scale}, {len(slots)} convolutions{rest}"
    yield (
        f"the imported network equals ONNX Runtime at {sizes} pixels: at most "
        f"{found.parity.largest:.1e} of the range apart"
    )
    yield (
        f"it takes {p.order}, {_range(p.input_peak, p.bytes_in)}, and gives "
        f"0..{p.output_peak} ({_why(found, 'input_peak')})"
    )
    if p.order != "Y":
        yield f"order of colours: {p.order} ({_why(found, 'order')})"
    if found.conventions.multiple is None:
        yield f"sizes: {how['multiple']}"
    else:
        yield f"sizes: multiples of {p.multiple}, {p.smallest} pixels at least ({how['multiple']})"
    if any(why.startswith("assumed") for why in how.values()):
        yield "note: what is assumed can be set: --set pixels.input_peak=255, output_peak, order"


def _range(peak: int, bytes_in: bool) -> str:
    return "uint8" if bytes_in else f"0..{peak}"


def _why(found: Survey, name: str) -> str:
    return "as given" if name in found.told else found.conventions.how[name]
