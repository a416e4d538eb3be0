"""`quantnas info`: what a space, genotype, run, checkpoint or file costs."""

import dataclasses
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantnas.config import genotype, search_space, validators
from quantnas.errors import DataError, UsageError

from .. import options
from ..tables import columns

if TYPE_CHECKING:
    from quantnas.architectures.cost import Cost


def info(
    target: Annotated[
        str,
        typer.Argument(
            help="A space (name or YAML), a genotype (JSON), a run folder, a checkpoint "
            "(safetensors) in a run folder, an exported ONNX file, or a bundled model."
        ),
    ],
    space_name: Annotated[
        str | None,
        typer.Option("--space", help="Space of a lone genotype.", show_default="the one it names"),
    ] = None,
    scale: options.Scale = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Low-resolution height x width, as 180x320, of every layer's cost.",
            show_default="32x32",
            metavar="HxW",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Parameters, MACs, BitOps and bits per layer; of a space its choices and their range.

    Example: quantnas info runs/run/rfdn_small/model.onnx --at 180x320
    """
    from quantnas.config import files

    size = None if at is None else _size(at)
    facts = _facts(target, space_name, scale)
    facts |= _counted(facts, size)
    if json:
        typer.echo(files.to_json(facts), nl=False)
        return
    for line in _space_lines(facts) if "architectures" in facts else _network_lines(facts):
        typer.echo(line)


def _size(at: str) -> tuple[int, int]:
    try:
        return validators.resolution(at)
    except ValueError as error:
        raise UsageError(f"--at cannot be '{at}'.", "Give height x width, as 180x320.") from error


def _facts(target: str, space_name: str | None, scale: int | None) -> dict[str, Any]:
    path = Path(target)
    if target not in search_space.builtin():
        from quantnas.runs import bundled_models

        path = bundled_models.bundled().get(target, path)
    network = path.suffix in (".onnx", ".safetensors", ".json") or path.is_dir()
    if network and scale is not None:
        raise UsageError(
            f"--scale is given, but {target} has a scale already.", "Leave it out, or give a space."
        )
    if path.suffix == ".tflite":
        raise DataError(
            f"{path} is a TFLite file, which does not say what it costs.",
            "Give the run that it was exported from.",
        )
    if path.suffix == ".onnx":
        return _file_facts(path)
    if path.suffix == ".safetensors":
        return _checkpoint_facts(path)
    if path.suffix == ".json":
        return _genotype_facts(path, space_name)
    if path.is_dir():
        return _run_facts(path)
    return _space_facts(search_space.load(target, scale))


def _file_facts(path: Path) -> dict[str, Any]:
    from quantnas.architectures import cost
    from quantnas.config import schema
    from quantnas.exporters import onnx_metadata
    from quantnas.runs import models

    if not onnx_metadata.exported_here(path):
        model = models.resolve(str(path))
        return {"what": model.what, "scale": model.scale, "cost": model.cost}
    try:
        facts = onnx_metadata.read_metadata(path)
        facts["cost"] = schema.parse(cost.Cost, facts["cost"], str(path))
    except (UsageError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"What {path} says about its layers cannot be read: it is damaged, or of an older "
            "version.",
            "Export it again.",
        ) from error
    return {"what": f"ONNX file {path}, {path.stat().st_size:,} bytes", **facts}


def _checkpoint_facts(path: Path) -> dict[str, Any]:
    """Of that very network: one in float has 32 bits everywhere, whatever the run found."""
    from quantnas.runs import models

    model = models.resolve(str(path))
    return {"what": f"checkpoint {path}", "scale": model.scale, "cost": model.cost}


def _run_facts(folder: Path) -> dict[str, Any]:
    from quantnas.runs import networks, run_folder

    run = run_folder.existing(folder)
    space, found = networks.architecture(run)
    rounded = (run.folder / "precision.json").exists()
    totals = networks.quantized(run)[2] if rounded else _cost(space, found)
    return {"what": f"run {folder}", "scale": space.scale, "cost": totals}


def _genotype_facts(path: Path, space_name: str | None) -> dict[str, Any]:
    found = genotype.load(path)
    beside = path.parent / "space.yaml"
    where = search_space.load(space_name or (str(beside) if beside.exists() else found.space))
    return {"what": f"genotype {path}", "scale": where.scale, "cost": _cost(where, found)}


def _cost(space: search_space.SearchSpace, found: genotype.Genotype) -> "Cost":
    from quantnas.architectures import cost, registry

    slots = registry.slots(space)
    genotype.check(found, slots, space.name)
    return cost.network_cost(space, found, genotype.searched_precision(found))


def _space_facts(space: search_space.SearchSpace) -> dict[str, Any]:
    from quantnas.architectures import cost, registry

    slots = registry.slots(space)
    edges = {}
    for kind, edge in space.edges.items():
        choices = {slot.choice: slot for slot in slots if slot.kind == kind}.values()
        edges[kind] = {
            "choices": sum(slot.options > 1 for slot in choices),
            "ops": [op for op in edge.ops if any(op in slot.ops for slot in choices)],
            "widths": [dataclasses.asdict(width) for width in edge.widths],
        }
    return {
        "what": f"search space {space.name}",
        "scale": space.scale,
        "skeleton": space.skeleton,
        "channels": space.channels,
        "cells": space.cells,
        **cost.extent(slots, space.scale),
        "edges": edges,
    }


def _counted(facts: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """Totals at every resolution, and all layers of a network at one of them."""
    from quantnas.architectures import cost

    height, width = size or cost.REFERENCE
    scale, at = facts["scale"], f"LR {height}x{width}"
    sizes = cost.resolutions(scale) | {at: (height, width)}
    counted = {"at": at, "not_counted": cost.NOT_COUNTED}
    if "cost" not in facts and facts["architectures"] > 1:
        ends = {end: _totals(facts[end], sizes, scale) for end in ("smallest", "largest")}
        return counted | {"totals": ends}
    whole: Cost = facts["cost"] if "cost" in facts else facts["largest"]
    layers = cost.parts(whole.layers, (height, width), scale)
    return counted | {"totals": _totals(whole, sizes, scale), "layers": layers}


def _totals(
    whole: "Cost", sizes: dict[str, tuple[int, int]], scale: int
) -> dict[str, dict[str, Any]]:
    """Resolution -> its size and what the network costs there."""
    from quantnas.architectures import cost

    found = {}
    for name, size in sizes.items():
        bitops = cost.bitops_at(whole.layers, size, scale)
        macs = sum(row.macs_at(*size, scale) for row in whole.layers)
        found[name] = {
            "low_resolution": size,
            "macs": macs,
            "bitops": bitops,
            "float_macs": bitops / cost.FLOAT_MAC,
        }
    return found


def _space_lines(facts: dict[str, Any]) -> Iterator[str]:
    small, large = facts["smallest"], facts["largest"]
    choices = f"{facts['searched_edges']} searched edges, "
    choices += f"10^{math.log10(facts['architectures']):.1f} architectures"
    fixed = facts["architectures"] == 1
    yield (
        f"{facts['what']}, x{facts['scale']}: skeleton {facts['skeleton']}, "
        f"{facts['channels']} channels, {facts['cells']} cells"
    )
    yield (
        f"{'nothing to choose' if fixed else choices}, "
        f"{_ends(f'{small.parameters:,}', f'{large.parameters:,}')} parameters"
    )
    yield ""
    ends = facts["totals"]
    yield from _total_lines(*([ends] if fixed else [ends["smallest"], ends["largest"]]))
    yield ""
    for kind, edge in facts["edges"].items():
        yield f"{kind} ({edge['choices']} searched): {_widths(edge['widths'])}"
        ops = ", ".join(edge["ops"])
        yield from textwrap.wrap(ops, 78, initial_indent="  ", subsequent_indent="  ")
    if fixed:
        yield from _layer_lines(facts)


def _total_lines(*ends: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Totals of a network, or of the smallest one and the largest."""
    from quantnas.architectures import cost

    table = [["", "GMACs", "GBitOps", "GMACs x w/32 x a/32"]]
    for name in ends[0]:
        keys = ("macs", "bitops", "float_macs")
        table.append([name, *(_ends(*(_giga(end[name][key]) for end in ends)) for key in keys)])
    yield from columns(table)
    yield ""
    yield "BitOps = MACs x weight bits x activation bits; in float (32 x 32 bits) a MAC costs 1024."
    yield "MACs x w/32 x a/32 = BitOps / 1024: the MACs in float that would cost as much."
    yield f"Not counted: {cost.NOT_COUNTED}."


def _ends(low: str, *high: str) -> str:
    return low if {*high} <= {low} else f"{low} to {high[0]}"


def _giga(number: float) -> str:
    return f"{number / 1e9:.3g}" if number < 1e11 else f"{number / 1e9:.0f}"


def _widths(widths: list[dict[str, int]]) -> str:
    """The pairs of bits in words."""
    pairs = [(width["weights"], width["activations"]) for width in widths]
    if pairs == [(32, 32)]:
        return "in float"
    if all(weights == activations for weights, activations in pairs):
        return f"{', '.join(str(weights) for weights, _ in pairs)} bits"
    weights, activations = (", ".join(map(str, dict.fromkeys(p))) for p in zip(*pairs, strict=True))
    return f"weights {weights} bits, activations {activations} bits"


def _network_lines(facts: dict[str, Any]) -> Iterator[str]:
    whole = facts["cost"]
    yield f"{facts['what']}, x{facts['scale']}"
    yield f"{whole.parameters:,} parameters, {whole.weight_bytes:,} bytes of packed weights"
    yield ""
    yield from _total_lines(facts["totals"])
    yield from _layer_lines(facts)


HEAD = ("layer", "operation", "kernel", "weights", "inputs", "MACs", "BitOps", "share", "bytes")


def _layer_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Every convolution, in the order of the network."""
    table = [HEAD]
    for part in facts["layers"]:
        kernel = "x".join(str(n) for n in part.shape)
        bits = (f"{part.weight_bits} bits", f"{part.act_bits} bits")
        counts = (_short(part.macs), _short(part.bitops), f"{part.share:.1%}")
        table.append((part.name, part.op, kernel, *bits, *counts, f"{part.weight_bytes:,}"))
    yield ""
    yield f"At {facts['at']}; bytes are of the packed weights:"
    yield ""
    yield from columns(table, left=(0, 1, 2))


def _short(number: int) -> str:
    """3 digits and a unit: 1234567 -> 1.23M"""
    if number < 1000:
        return str(number)
    power = min(int(math.log10(float(f"{number:.2e}"))) // 3, 4)
    value = float(f"{number / 1000**power:.2e}")
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f}{' kMGT'[power]}"
