"""`quantnas info`: what a space, genotype, run, checkpoint or file costs."""

import dataclasses
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantnas import genotype, space
from quantnas.errors import UsageError

from . import options, start

if TYPE_CHECKING:
    from quantnas.cost import Cost


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
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Parameters, MACs, BitOps and bits per layer; of a space its choices and their range.

    Example: quantnas info runs/run/rfdn_small/model.onnx
    """
    from quantnas import runs

    facts = _facts(target, space_name, scale)
    if json:
        typer.echo(runs.to_json(facts), nl=False)
        return
    for line in _space_lines(facts) if "architectures" in facts else _network_lines(facts):
        typer.echo(line)


def _facts(target: str, space_name: str | None, scale: int | None) -> dict[str, Any]:
    path = Path(target)
    if target not in space.builtin():
        from quantnas import models

        path = models.bundled().get(target, path)
    network = path.suffix in (".onnx", ".safetensors", ".json") or path.is_dir()
    if network and scale is not None:
        raise UsageError(
            f"--scale is given, but {target} has a scale already.", "Leave it out, or give a space."
        )
    if path.suffix == ".onnx":
        from quantnas import export

        facts = export.read_metadata(path)
        return {"what": f"ONNX file {path}, {path.stat().st_size:,} bytes", **facts}
    if path.suffix == ".safetensors":
        return _checkpoint_facts(path)
    if path.suffix == ".json":
        return _genotype_facts(path, space_name)
    if path.is_dir():
        return _run_facts(path)
    return _space_facts(space.load(target, scale))


def _checkpoint_facts(path: Path) -> dict[str, Any]:
    """Of that very network: one in float has 32 bits everywhere, whatever the run found."""
    from quantnas import models

    model = models.resolve(str(path))
    return {"what": f"checkpoint {path}", "scale": model.scale, "cost": model.cost}


def _run_facts(folder: Path) -> dict[str, Any]:
    from quantnas import workspace

    run, _ = start.resumed(folder)
    where, found = workspace.architecture(run)
    rounded = (run.folder / "precision.json").exists()
    totals = workspace.quantized(run)[2] if rounded else _cost(where, found)
    return {"what": f"run {folder}", "scale": where.scale, "cost": totals}


def _genotype_facts(path: Path, space_name: str | None) -> dict[str, Any]:
    found = genotype.load(path)
    beside = path.parent / "space.yaml"
    where = space.load(space_name or (str(beside) if beside.exists() else found.space))
    return {"what": f"genotype {path}", "scale": where.scale, "cost": _cost(where, found)}


def _cost(where: space.SearchSpace, found: genotype.Genotype) -> "Cost":
    from quantnas import cost, skeleton

    slots = skeleton.slots(where)
    genotype.check(found, slots, where.name)
    rows = cost.layers(slots, found, genotype.searched_precision(found), where.scale)
    return cost.total(rows, where.scale)


def _space_facts(where: space.SearchSpace) -> dict[str, Any]:
    from quantnas import cost, skeleton

    slots = skeleton.slots(where)
    edges = {}
    for kind, edge in where.edges.items():
        choices = {slot.choice: slot for slot in slots if slot.kind == kind}.values()
        edges[kind] = {
            "choices": sum(slot.options > 1 for slot in choices),
            "ops": [op for op in edge.ops if any(op in slot.ops for slot in choices)],
            "widths": [dataclasses.asdict(width) for width in edge.widths],
        }
    return {
        "what": f"search space {where.name}",
        "scale": where.scale,
        "skeleton": where.skeleton,
        "channels": where.channels,
        "cells": where.cells,
        **cost.extent(slots, where.scale),
        "edges": edges,
    }


def _space_lines(facts: dict[str, Any]) -> list[str]:
    small, large = facts["smallest"], facts["largest"]
    choices = f"{facts['searched_edges']} searched edges, "
    choices += f"10^{math.log10(facts['architectures']):.1f} architectures"
    lines = [
        f"{facts['what']}, x{facts['scale']}: skeleton {facts['skeleton']}, "
        f"{facts['channels']} channels, {facts['cells']} cells",
        f"{choices if facts['architectures'] > 1 else 'nothing to choose'}, "
        f"{_ends(f'{small.parameters:,}', f'{large.parameters:,}')} parameters",
        "",
        f"{'':<16} {'GBitOps':>20} {'GMACs':>18}",
    ]
    for name, low in small.bitops.items():
        ends = _ends(_giga(low), _giga(large.bitops[name]))
        macs = _ends(_giga(small.macs[name]), _giga(large.macs[name]))
        lines.append(f"{name:<16} {ends:>20} {macs:>18}")
    lines += ["", "In float (32 x 32 bits) every MAC costs 1024 BitOps.", ""]
    for kind, edge in facts["edges"].items():
        lines.append(f"{kind} ({edge['choices']} searched): {_widths(edge['widths'])}")
        ops = ", ".join(edge["ops"])
        lines += textwrap.wrap(ops, 78, initial_indent="  ", subsequent_indent="  ")
    return lines


def _ends(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _giga(number: int) -> str:
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


def _network_lines(facts: dict[str, Any]) -> list[str]:
    from quantnas import runs

    plain = runs.plain(facts["cost"])
    lines = [
        f"{facts['what']}, x{facts['scale']}",
        f"{plain['parameters']:,} parameters, {plain['weight_bytes']:,} bytes of packed weights",
        "",
    ]
    for name, macs in plain["macs"].items():
        bitops = plain["bitops"][name]
        lines.append(f"{name:<16} {macs / 1e9:9.3f} GMACs {bitops / 1e9:10.3f} GBitOps")
    lines += ["", f"{'layer':<16} {'operation':<16} {'kernel':<12} weights  activations"]
    for row in plain["layers"]:
        kernel = "x".join(str(n) for n in row["shape"])
        lines.append(
            f"{row['name']:<16} {row['op']:<16} {kernel:<12} {row['weight_bits']} bits   "
            f"{row['act_bits']} bits"
        )
    return lines
