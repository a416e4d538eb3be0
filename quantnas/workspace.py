"""What a run works on: its photographs, its device, its settings, and what its folder holds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from . import (
    budget,
    cost,
    evaluate,
    genotype,
    images,
    network,
    photographs,
    random_search,
    schema,
    skeleton,
    space,
    store,
    team,
)
from .config import RunConfig, SearchConfig
from .errors import DataError, UsageError
from .genotype import Genotype
from .photographs import Photograph
from .runs import Run, to_json, write_text
from .space import Precision

GIVEN = "genotype_given.json"
"""Copy of the genotype that a run was given, beside its config."""


@dataclass(frozen=True)
class Photographs:
    """What is learned from, and what is kept for the evaluation."""

    train: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]


def choose(config: RunConfig) -> Photographs:
    """The photographs that these settings mean now.

    Raises DataError as `photographs.find` and `photographs.split`, and when the two parts overlap.
    """
    if config.data is None:
        bundled = images.bundled()
        learn, held_out = (tuple(map(Photograph, p)) for p in (bundled.train, bundled.held_out))
    elif config.eval_data is None:
        learn, held_out = photographs.split(find(config.data, config))
    else:
        learn, held_out = find(config.data, config), ()
    if config.eval_data is not None:
        held_out = find(config.eval_data, config)
    parts = ({photo.high.resolve() for photo in part} for part in (learn, held_out))
    both = set.intersection(*parts)
    if both:
        raise DataError(
            f"{len(both)} photographs are to be learned from and evaluated on ({min(both)}).",
            "Give --eval-data another folder, or leave it out.",
        )
    return Photographs(learn, held_out)


def find(folder: str, config: RunConfig) -> tuple[Photograph, ...]:
    """The photographs of a folder, for the scale of a run."""
    return tuple(photographs.find(folder, space.load(config.space, config.scale).scale))


def photographs_of(run: Run, config: RunConfig) -> Photographs:
    """The photographs of a run, as they were chosen when it began."""
    path = run.folder / "photographs.json"
    if not path.exists():
        return choose(config)
    rows = genotype.read_json(path)
    return Photographs(*(tuple(map(_photograph, rows[part])) for part in ("train", "held_out")))


def _photograph(row: Mapping[str, str | None]) -> Photograph:
    high, low = (path and Path(path) for path in (row["high"], row["low"]))
    assert high
    return Photograph(high, low or None)


def inherited(source: Run, config: RunConfig) -> Photographs:
    """The photographs of a run that goes on from `source`: its own, unless told of others.

    What was held out then must stay held out, whatever came into the folder since.
    """
    old = load_config(source)
    same = (old.data, old.eval_data) == (config.data, config.eval_data)
    return photographs_of(source, old) if same else choose(config)


def device(config: RunConfig) -> torch.device:
    """The device to compute on. Raises UsageError when it is not there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("There is no CUDA device here.", "Use --device cpu or auto.")
    if not available or config.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", team.rank() if team.size() > 1 else 0)


def check(config: RunConfig, chosen: Photographs, verb: str = "run") -> None:
    """Raise what is wrong with the settings before anything is written.

    What is evaluated at the end is read now: a damaged photograph should not wait until then.
    """
    device(config)
    where = space.load(config.space, config.scale)
    if verb in ("run", "quantize"):
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
    _check_patches(where, config, chosen, verb)
    for photo in measured:
        evaluate.require_size(images.read(photo.high), photo.high, where.scale)
        if photo.low is not None:
            images.read(photo.low)


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
    if sizes and not any(store.holds(photo, where.scale, max(sizes)) for photo in chosen.train):
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
    """The configuration of a run."""
    path = run.folder / "config.yaml"
    return schema.parse(RunConfig, schema.read_yaml(path), str(path))


def begin(run: Run, config: RunConfig, chosen: Photographs, environment: Mapping[str, Any]) -> None:
    """Write what a run is before it starts."""
    write_text(run.path("config.yaml"), yaml.safe_dump(plain(config), sort_keys=False))
    write_text(run.path("env.json"), to_json(environment))
    if config.genotype is not None:
        write_text(run.path(GIVEN), genotype.load(config.genotype).to_json() + "\n")
    if config.data is not None or config.eval_data is not None:
        parts = {"train": chosen.train, "held_out": chosen.held_out}
        rows = {part: [_row(photo) for photo in photos] for part, photos in parts.items()}
        write_text(run.path("photographs.json"), to_json(rows))


def _row(photo: Photograph) -> dict[str, str | None]:
    low = None if photo.low is None else str(photo.low.resolve())
    return {"high": str(photo.high.resolve()), "low": low}


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as YAML holds it."""
    data = asdict(config)
    data["benchmarks"] = list(config.benchmarks)
    return data


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
    return genotype.uniform_precision(skeleton.slots(where), config.bits, config.act_bits)


def require_bits(where: space.SearchSpace, bits: int | None) -> None:
    """Raise UsageError when a space in float is to be quantized to nothing in particular."""
    if where.is_float and bits is None:
        raise UsageError(
            f"Space '{where.name}' is searched in float: it says nothing about bits.",
            "Give --bits 8, 4, 3 or 2.",
        )


def quantized(run: Run) -> tuple[space.SearchSpace, nn.Module, cost.Cost]:
    """The network on integers of a run, with its cost."""
    where, found = architecture(run)
    rows = genotype.read_json(need(run.path("precision.json"), "quantize"))
    precision = {name: Precision(**bits) for name, bits in rows.items()}
    net = network.build(where, found, precision)
    network.load(net, need(run.weights("quantized"), "quantize"), where)
    return where, net.eval(), _cost(where, found, precision)


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
    return where, net.eval(), _cost(where, found, bits)


def _cost(
    where: space.SearchSpace, found: Genotype, precision: Mapping[str, Precision]
) -> cost.Cost:
    rows = cost.layers(skeleton.slots(where), found, precision, where.scale)
    return cost.total(rows, where.scale)


def need(path: Path, step: str) -> Path:
    if not path.exists():
        raise DataError(
            f"{path} is not there: the step '{step}' has not finished in this run.",
            f"Run `quantnas {step}` first, or give a run that has it.",
        )
    return path
