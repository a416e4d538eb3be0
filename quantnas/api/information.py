"""What a search space, a genotype, a run, a checkpoint or a file costs."""

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any

from quantnas.architectures import cost, registry
from quantnas.architectures.cost import Cost
from quantnas.config import genotype, search_space
from quantnas.config.genotype import Genotype
from quantnas.config.search_space import SearchSpace
from quantnas.errors import DataError, UsageError
from quantnas.exporters import onnx_metadata
from quantnas.onnx_import import file_kinds
from quantnas.runs import bundled_models, models, networks

from .run_verbs import Place, Run


def describe(
    target: Place,
    *,
    space: str | None = None,
    scale: int | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Parameters, MACs, BitOps and bit widths of a network, or the extent of a search space.

    target: a search space (name or YAML file), a genotype (JSON), a run folder, a checkpoint
    (safetensors) in one, an ONNX file, or the name of a bundled model.
    space: the search space of a lone genotype; by default the one beside it, or that it names.
    scale: the magnification, for a search space only.
    size: low-resolution (height, width) at which the cost of every layer is counted.

    Returns `what`, `scale`, `totals` per resolution, `layers` and `cost` of a network; of a search
    space its `edges`, and the `smallest` and `largest` architecture. Raises UsageError for a
    `scale` where there is one already, DataError for a file that cannot be read.
    """
    facts = _facts(str(target) if isinstance(target, PathLike) else target, space, scale)
    return facts | _counted(facts, size)


def _facts(target: str, space_name: str | None, scale: int | None) -> dict[str, Any]:
    path = Path(target)
    if target not in search_space.builtin():
        path = bundled_models.bundled().get(target, path)
    network = path.suffix in (".onnx", ".safetensors", ".json") or path.is_dir()
    if network and scale is not None:
        raise UsageError(
            f"`scale` is given, but {target} has a scale already.", "Leave it out, or give a space."
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
    if target not in search_space.builtin() and not path.exists():
        raise UsageError(
            f"There is no file, run folder, search space or bundled model '{target}'.",
            "Check the path; `quantnas spaces` and `quantnas models` list the names.",
        )
    if target not in search_space.builtin():
        file_kinds.require_no_checkpoint(path)
    return _space_facts(search_space.load(target, scale))


def _file_facts(path: Path) -> dict[str, Any]:
    if not onnx_metadata.exported_here(path):
        model = models.resolve(str(path))
        return {"what": model.what, "scale": model.scale, "cost": model.cost}
    stated = onnx_metadata.read_metadata(path)
    if stated.cost is None:
        raise DataError(
            f"What {path} says about its layers cannot be read: it is damaged, or of an older "
            "version.",
            "Export it again.",
        )
    facts: dict[str, Any] = {"version": stated.version, "scale": stated.scale, "cost": stated.cost}
    if stated.pixels is not None:
        facts["pixels"] = stated.pixels
    return {"what": f"ONNX file {path}, {path.stat().st_size:,} bytes", **facts}


def _checkpoint_facts(path: Path) -> dict[str, Any]:
    """The cost of that checkpoint: a float network has 32 bits everywhere, whatever was found."""
    model = models.resolve(str(path))
    return {"what": f"checkpoint {path}", "scale": model.scale, "cost": model.cost}


def _run_facts(folder: Path) -> dict[str, Any]:
    run = Run.open(folder)
    space, decided = networks.architecture(run)
    rounded = (run.folder / "precision.json").exists()
    totals = networks.quantized(run)[2] if rounded else _cost(space, decided)
    return {"what": f"run {folder}", "scale": space.scale, "cost": totals}


def _genotype_facts(path: Path, space_name: str | None) -> dict[str, Any]:
    decided = genotype.load(path)
    neighbour = path.parent / "space.yaml"
    default = str(neighbour) if neighbour.exists() else decided.space
    space = search_space.load(space_name or default)
    return {"what": f"genotype {path}", "scale": space.scale, "cost": _cost(space, decided)}


def _cost(space: SearchSpace, decided: Genotype) -> Cost:
    genotype.check(decided, registry.slots(space), space.name)
    return cost.network_cost(space, decided, genotype.searched_precision(decided))


def _space_facts(space: SearchSpace) -> dict[str, Any]:
    slots = registry.slots(space)
    edges = {}
    for kind, edge in space.edges.items():
        choices = {slot.choice: slot for slot in slots if slot.kind == kind}.values()
        edges[kind] = {
            "choices": sum(slot.options > 1 for slot in choices),
            "ops": [op for op in edge.ops if any(op in slot.ops for slot in choices)],
            "widths": [dataclasses.asdict(width) for width in edge.bit_widths],
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
    whole: Cost, sizes: dict[str, tuple[int, int]], scale: int
) -> dict[str, dict[str, Any]]:
    """Resolution -> its size, and what the network costs there."""
    totals = {}
    for name, size in sizes.items():
        bitops = cost.bitops_at(whole.layers, size, scale)
        macs = sum(row.macs_at(*size, scale) for row in whole.layers)
        totals[name] = {
            "low_resolution": size,
            "macs": macs,
            "bitops": bitops,
            "float_macs": bitops / cost.FLOAT_MAC,
        }
    return totals
