"""`quantnas info`: what a space, genotype, run, checkpoint or file costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantnas import genotype, space

from . import start

if TYPE_CHECKING:
    from quantnas.cost import Cost


def info(
    target: Annotated[
        str,
        typer.Argument(
            help="A space (name or YAML), a genotype (JSON), a run folder, a checkpoint "
            "(safetensors) in a run folder, or an exported ONNX file."
        ),
    ],
    space_name: Annotated[
        str | None,
        typer.Option("--space", help="Space of a lone genotype.", show_default="the one it names"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Parameters, MACs, BitOps and bits per layer.

    Example: quantnas info runs/run/rfdn_small/model.onnx
    """
    from quantnas import runs

    facts = _facts(target, space_name)
    if json:
        typer.echo(runs.to_json(facts), nl=False)
        return
    for line in _space_lines(facts) if "architectures" in facts else _network_lines(facts):
        typer.echo(line)


def _facts(target: str, space_name: str | None) -> dict[str, Any]:
    path = Path(target)
    if path.suffix == ".onnx":
        from quantnas import export

        facts = export.read_metadata(path)
        return {"what": f"ONNX file {path}, {path.stat().st_size:,} bytes", **facts}
    if path.suffix == ".safetensors":
        return _run_facts(path.resolve().parent.parent, f"checkpoint {path}")
    if path.is_dir():
        return _run_facts(path, f"run {path}")
    if path.suffix == ".json":
        return _genotype_facts(path, space_name)
    return _space_facts(space.load(target))


def _run_facts(folder: Path, what: str) -> dict[str, Any]:
    from quantnas import workspace

    run, _ = start.resumed(folder)
    where, found = workspace.architecture(run)
    rounded = (run.folder / "precision.json").exists()
    if what.endswith(("quantized.safetensors", str(folder))) and rounded:
        return {"what": what, "scale": where.scale, "cost": workspace.quantized(run)[2]}
    return {"what": what, "scale": where.scale, "cost": _cost(where, found)}


def _genotype_facts(path: Path, space_name: str | None) -> dict[str, Any]:
    found = genotype.load(path)
    beside = path.parent / "space.yaml"
    where = space.load(space_name or (str(beside) if beside.exists() else found.space))
    return {"what": f"genotype {path}", "scale": where.scale, "cost": _cost(where, found)}


def _cost(where: space.SearchSpace, found: genotype.Genotype) -> "Cost":
    from quantnas import cost, skeleton

    slots = skeleton.slots(where)
    genotype.check(found, slots, where.name)
    rows = cost.layers(slots, found, genotype.searched_precision(found))
    return cost.total(rows, where.scale)


def _space_facts(where: space.SearchSpace) -> dict[str, Any]:
    from quantnas import cost, skeleton

    return {"what": f"search space {where.name}", "scale": where.scale} | cost.extent(
        skeleton.slots(where), where.scale
    )


def _space_lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"{facts['what']}, x{facts['scale']}",
        f"{facts['searched_edges']} searched edges, {facts['architectures']:.3g} architectures",
        "",
    ]
    for name, low in facts["smallest"].bitops.items():
        high, macs = facts["largest"].bitops[name], facts["largest"].macs[name]
        lines.append(
            f"{name:<16} {low / 1e9:9.3f} to {high / 1e9:9.3f} GBitOps, "
            f"up to {macs / 1e9:.3f} GMACs in float"
        )
    small, large = facts["smallest"].parameters, facts["largest"].parameters
    return [*lines, f"parameters       {small:,} to {large:,}"]


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
