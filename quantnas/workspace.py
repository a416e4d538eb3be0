"""What a run works on: its photographs, its device, its settings, and what its folder holds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from . import (
    budget,
    cost,
    crew,
    evaluate,
    genotype,
    images,
    imported,
    network,
    parts,
    photographs,
    random_search,
    settings,
    skeleton,
    space,
    store,
)
from .config import QuantizeConfig, RunConfig, SearchConfig
from .errors import DataError, UsageError
from .genotype import Genotype
from .parts import Photographs
from .photographs import Photograph
from .runs import Run, to_json, write_text
from .space import Precision


def choose(config: RunConfig, source: Run | None = None) -> Photographs:
    """The photographs that these settings mean now, for a run that goes on from `source` or none.

    Raises DataError as `photographs.find`, `photographs.split` and `require_unseen`, and when the
    two parts overlap.
    """
    origins = [*_origins(config), *([source] if source else [])]
    known = {path for run in origins for path in learned(run)}
    return _unseen(parts.choose(config, known), origins)


def _origins(config: RunConfig) -> list[Run]:
    """The runs that the settings name: the teacher, and that of the weights to begin with."""
    c, folders = config.train, list[Path]()
    if c.teacher not in (None, "own"):
        folders.append(Path(str(c.teacher)))
    if c.start not in settings.STARTS:
        folders.append(Path(c.start).resolve().parent.parent)
    return [Run(folder) for folder in folders if (folder / "config.yaml").is_file()]


def learned(run: Run) -> set[Path]:
    """Every file that its weights have seen, in this run and in those from which it went on."""
    chosen = photographs_of(run, load_config(run))
    return {photo.high.resolve() for photo in chosen.train} | set(chosen.known)


def require_unseen(chosen: Photographs, run: Run) -> None:
    """Raise DataError when a run has learned from what is to be evaluated on."""
    why = f"among those that {run.folder} has learned from"
    photographs.require_apart(chosen.held_out, learned(run), why)


def _unseen(chosen: Photographs, origins: Sequence[Run]) -> Photographs:
    """The same, with what all the origins know. Raises as `require_unseen`."""
    for run in origins:
        require_unseen(chosen, run)
    known = {path for run in origins for path in learned(run)} | set(chosen.known)
    return replace(chosen, known=tuple(sorted(known)))


def photographs_of(run: Run, config: RunConfig) -> Photographs:
    """The photographs of a run, as they were chosen when it began."""
    path = run.folder / parts.FILE
    return parts.load(path) if path.exists() else parts.choose(config)


def inherited(source: Run, config: RunConfig) -> Photographs:
    """The photographs of a run that goes on from `source`: its own, unless told of others.

    What was held out then must stay held out, whatever came into the folder since. Raises
    DataError as `choose`.
    """
    old, new = load_config(source), settings.settled(config)
    was = settings.settled(old)
    same = (was.data, was.eval_data) == (new.data, new.eval_data)
    if not same:
        return choose(config, source)
    return _unseen(photographs_of(source, old), [] if was.train == new.train else _origins(new))


def device(config: RunConfig) -> torch.device:
    """The device to compute on. Raises UsageError when it is not there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("There is no CUDA device here.", "Use --device cpu or auto.")
    if not available or config.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", crew.local_rank())


def check(config: RunConfig, chosen: Photographs, verb: str = "run") -> None:
    """Raise what is wrong with the settings before anything is written.

    What is evaluated at the end is read now: a damaged photograph should not wait until then.
    """
    device(config)
    where = space.load(config.space, config.scale)
    if verb in ("run", "quantize") and config.quantize.budget is None:
        require_bits(where, config.bits)
    slots = skeleton.slots(where)
    if config.genotype is not None:
        genotype.check(genotype.load(config.genotype), slots, where.name)
    _check_sizes(where, config)
    if config.search.target_bitops is not None:
        _check_target(slots, where.scale, config.search)
    if config.search.strategy == "random":
        random_search.draw(slots, where, config.search, 1, config.seed)
    measured = list(chosen.held_out)
    for folder in config.benchmarks:
        measured += photographs.find(folder, where.scale)
    photographs.require_fitting([*chosen.train, *measured], where.scale)
    if verb in ("run", "quantize") and config.quantize.calib is not None:
        _check_calibration(where, config.quantize, measured)
    _check_patches(where, config, chosen, verb)
    split = config.data is not None and config.eval_data is None
    for photo in measured:
        _require_whole(photo, where.scale, split and photo in chosen.held_out)


def _require_whole(photo: Photograph, scale: int, split: bool) -> None:
    """Raise DataError for what cannot be measured on; `split` if nobody has asked for this file."""
    try:
        evaluate.require_size(images.read(photo.high), photo.high, scale)
        if photo.low is not None:
            images.read(photo.low)
    except DataError as error:
        remedy = "Replace or remove the file, or give --eval-data a folder of other photographs."
        raise DataError(error.cause, remedy if split else error.remedy) from error


def _check_calibration(
    where: space.SearchSpace, config: QuantizeConfig, measured: Sequence[Photograph]
) -> None:
    """Raise DataError unless the folder holds a crop, and nothing that is to be evaluated on."""
    scale = where.scale if config.reduce else 1
    photos = photographs.find(str(config.calib), scale)
    if not store.any_holds(photos, scale, config.patch):
        side, remedy = photographs.patch_of(photos, scale), "Give larger photographs."
        if side >= skeleton.smallest(where):
            remedy = f"Give larger ones, or smaller crops: --set quantize.patch={side}"
        raise DataError(
            f"No photograph in {config.calib} holds a crop of {config.patch * scale} pixels.",
            remedy,
        )
    learned = {photo.high.resolve() for photo in photos}
    photographs.require_apart(measured, learned, f"in {config.calib} too", "--calib")


def _check_patches(
    where: space.SearchSpace, config: RunConfig, chosen: Photographs, verb: str
) -> None:
    """One photograph at least must hold the largest patch that a step will cut."""
    sides = {
        "search": config.search.patch,
        "train": config.train.patch,
        "quantize": config.quantize.patch,
    }
    sizes = [side for step, side in sides.items() if verb in (step, "run")]
    if sizes and not store.any_holds(chosen.train, where.scale, max(sizes)):
        raise DataError(
            f"No photograph is as large as a patch of {max(sizes)} low-resolution pixels at "
            f"x{where.scale}.",
            "Add larger photographs, or make the patches smaller.",
        )


def _check_sizes(where: space.SearchSpace, config: RunConfig) -> None:
    least = skeleton.smallest(where)
    sides = {
        "search.patch": config.search.patch,
        "search.at": min(config.search.resolution),
        "train.patch": config.train.patch,
        "quantize.patch": config.quantize.patch,
    }
    for name, side in sides.items():
        if side < least:
            raise UsageError(
                f"`{name}` is {side} pixels, but skeleton '{where.skeleton}' needs {least}.",
                "Make it larger.",
            )


def _check_target(slots: Sequence[space.Slot], scale: int, config: SearchConfig) -> None:
    assert config.target_bitops is not None
    tables = cost.choice_bitops(slots, scale, config.resolution)
    costs = {name: table.numpy() for name, table in tables.items()}
    budget.check(costs, config.target_bitops, config.at)


def load_config(run: Run) -> RunConfig:
    """The configuration of a run, with the space and the genotype in its folder."""
    return settings.own(run, settings.written(run))


def begin(
    run: Run,
    config: RunConfig,
    chosen: Photographs,
    environment: Mapping[str, Any],
    source: Run | None = None,
) -> None:
    """Write what a run is before it starts: nothing of it is read from elsewhere later.

    With a source, the space is the one in its folder.
    """
    used = settings.own(source, config) if source else config
    told = settings.plain(settings.settled(config))
    where = space.load(used.space, used.scale)
    if where.source:
        where, told["space"] = imported.kept(where, run.folder), where.name
    write_text(run.path("space.yaml"), space.to_yaml(where))
    if config.genotype is not None:
        write_text(run.path(settings.GIVEN), genotype.load(config.genotype).to_json() + "\n")
    write_text(run.path("config.yaml"), yaml.safe_dump(told, sort_keys=False))
    write_text(run.path("env.json"), to_json(environment))
    if config.data is not None or config.eval_data is not None or chosen.known:
        parts.save(run.path(parts.FILE), chosen)


def architecture(run: Run) -> tuple[space.SearchSpace, Genotype]:
    """The space and the genotype of a run. Raises DataError when it has not searched yet."""
    found = genotype.load(need(run.path("genotype.json"), "search"))
    return space.load(str(need(run.path("space.yaml"), "search"))), found


def precision_of(
    where: space.SearchSpace, found: Genotype, config: RunConfig
) -> dict[str, Precision]:
    """Slot name -> bits: as searched, or those given between first and last convolution.

    Raises UsageError for a network that was searched in float and is given no bits.
    """
    if config.bits is None:
        require_bits(where, config.bits)
        return genotype.searched_precision(found)
    return genotype.uniform_precision(
        skeleton.slots(where), config.bits, config.act_bits, config.quantize.ends
    )


def require_bits(where: space.SearchSpace, bits: int | None) -> None:
    """Raise UsageError when a space in float is to be quantized to nothing in particular."""
    if where.is_float and bits is None:
        what = "The network is" if where.source else f"Space '{where.name}' is searched"
        raise UsageError(
            f"{what} in float: it says nothing about bits.",
            "Give --bits 8, 4, 3 or 2, or a limit, as --average-bits 3.",
        )


def quantized(run: Run) -> tuple[space.SearchSpace, nn.Module, cost.Cost]:
    """The network on integers of a run, with its cost."""
    where, found = architecture(run)
    rows = genotype.read_json(need(run.path("precision.json"), "quantize"))
    precision = {name: Precision(**bits) for name, bits in rows.items()}
    net = network.build(where, found, precision)
    network.load(net, need(run.weights("quantized"), "quantize"), where)
    return where, net.eval(), cost.network_cost(where, found, precision)


def checkpoint(run: Run, kind: str) -> tuple[space.SearchSpace, nn.Module, cost.Cost]:
    """A network of a run with its cost: `searched` and `float` ones cost 32 x 32 bits."""
    if kind == "quantized":
        return quantized(run)
    where, found = architecture(run)
    rounded = kind == "trained" and not where.is_float
    precision = genotype.searched_precision(found) if rounded else None
    net = network.build(where, found, precision)
    network.load(net, run.weights(kind), where)
    bits = precision or {slot.name: Precision(32, 32) for slot in skeleton.slots(where)}
    return where, net.eval(), cost.network_cost(where, found, bits)


def need(path: Path, step: str) -> Path:
    if not path.exists():
        raise DataError(
            f"{path} is not there: the step '{step}' has not finished in this run.",
            f"Run `quantnas {step}` first, or give a run that has it.",
        )
    return path
