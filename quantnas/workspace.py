"""What a run works on: its photographs, its device, its settings, and what its folder holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from . import cost, genotype, images, network, schema, skeleton, space, supernet
from .config import RunConfig
from .errors import DataError, UsageError
from .genotype import Genotype, Precision
from .runs import Run, to_json, write_text


@dataclass(frozen=True)
class Photographs:
    """What is learned from, and what is kept for the evaluation."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def photographs(config: RunConfig) -> Photographs:
    """The photographs of a run. Raises DataError as `images.find` and `images.split`."""
    if config.data is None:
        bundled = images.bundled()
        learn, held_out = bundled.train, bundled.held_out
    elif config.eval_data is None:
        learn, held_out = images.split(images.find(config.data))
    else:
        learn, held_out = tuple(images.find(config.data)), ()
    if config.eval_data is not None:
        held_out = tuple(images.find(config.eval_data))
    return Photographs(learn, held_out)


def device(config: RunConfig) -> torch.device:
    """The device to compute on. Raises UsageError when it is not there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("There is no CUDA device here.", "Use --device cpu or auto.")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def check(config: RunConfig) -> None:
    """Raise what is wrong with the settings before anything is written.

    What is evaluated at the end is read now: a damaged photograph should not wait until then.
    """
    device(config)
    for path in photographs(config).held_out:
        images.read(path)
    for folder in config.benchmarks:
        for path in images.find(folder):
            images.read(path)
    supernet.build(space.load(config.space, config.scale))


def load_config(run: Run) -> RunConfig:
    """The configuration of a run."""
    path = run.folder / "config.yaml"
    return schema.parse(RunConfig, schema.read_yaml(path), str(path))


def begin(run: Run, config: RunConfig, environment: Mapping[str, Any]) -> None:
    """Write what a run is before it starts."""
    write_text(run.path("config.yaml"), yaml.safe_dump(plain(config), sort_keys=False))
    write_text(run.path("env.json"), to_json(environment))


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
    where: space.SearchSpace, found: Genotype, bits: int | None
) -> dict[str, Precision]:
    """Slot name -> bits: as searched, or `bits` between first and last convolution."""
    if bits is None:
        return genotype.searched_precision(found)
    return genotype.uniform_precision(skeleton.slots(where), bits)


def quantized(run: Run) -> tuple[space.SearchSpace, nn.Module, cost.Cost]:
    """The network on integers of a run, with its cost."""
    where, found = architecture(run)
    rows = genotype.read_json(need(run.path("precision.json"), "quantize"))
    precision = {name: Precision(**bits) for name, bits in rows.items()}
    net = network.build(where, found, precision)
    network.load(net, need(run.weights("quantized"), "quantize"))
    slots = skeleton.slots(where)
    return where, net.eval(), cost.total(cost.layers(slots, found, precision), where.scale)


def need(path: Path, step: str) -> Path:
    if not path.exists():
        raise DataError(
            f"{path} is not there: the step '{step}' has not finished in this run.",
            f"Run `quantnas {step}` first, or give a run that has it.",
        )
    return path
