"""The settings of a run: as they were written, with its own copies, and over those of another run.

A run folder is complete: what later steps need of a space or a genotype lies in it, so the files
that it was begun with may change or go. What is too large to be copied is named by absolute paths.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from quantnas.config import genotype, schema, search_space
from quantnas.config.run_config import BUDGETS, RunConfig, TrainConfig
from quantnas.errors import UsageError

from .run_folder import Run

GIVEN = "genotype_given.json"
"""Copy of the genotype that a run was given, beside its config."""
STARTS = ("searched", "scratch", "float")
"""Values of `training_loop.start` that are no file."""
BEGINNING = ("start", "teacher", "max_hours")
"""Settings of a training that say where it begins and ends: the next one has its own."""
LENGTHS = ("steps", "minutes")
"""Settings of a quantization that say how long is retrained; minutes win."""


def written(run: Run) -> RunConfig:
    """The configuration of a run as it stands in its folder."""
    path = run.folder / "config.yaml"
    return schema.parse(RunConfig, schema.read_yaml(path), str(path))


def own(run: Run, config: RunConfig) -> RunConfig:
    """These settings with the space and the genotype that lie in the run, where they do."""
    where, given = run.folder / "space.yaml", run.folder / GIVEN
    if where.exists():
        config = replace(config, space=str(where), scale=None)
    return replace(config, genotype=str(given)) if given.exists() else config


def settled(config: RunConfig) -> RunConfig:
    """The same with absolute paths to what stays outside of a run."""
    c = config.train
    start = c.start if c.start in STARTS else os.path.abspath(c.start)
    teacher = c.teacher if c.teacher == "own" else _absolute(c.teacher)
    return replace(
        config,
        genotype=_absolute(config.genotype),
        data=_absolute(config.data),
        eval_data=_absolute(config.eval_data),
        benchmarks=tuple(map(os.path.abspath, config.benchmarks)),
        train=replace(c, start=start, teacher=teacher),
        quantize=replace(config.quantize, calib=_absolute(config.quantize.calib)),
    )


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as YAML holds it."""
    data = asdict(config)
    data["benchmarks"] = list(config.benchmarks)
    return data


def inherit(source: Run, verb: str) -> dict[str, Any]:
    """The settings with which a step goes on from `source`, as `plain`, to be changed by others.

    Its space and scale are those that lie in its folder, and no genotype is given: it is there.
    """
    config = replace(own(source, written(source)), genotype=None)
    if verb == "train":
        fresh = {name: getattr(TrainConfig, name) for name in BEGINNING}
        config = replace(config, train=replace(config.train, **fresh))
    return plain(config)


def continued(source: Run, config: RunConfig) -> RunConfig:
    """What `inherit` has become, with the name of the space that `source` was begun with.

    Raises UsageError for a scale, a space or a genotype other than the run's.
    """
    mine, before = str(source.folder / "space.yaml"), written(source)
    where = search_space.load(mine)
    remedy = "Leave that out, or begin a new run."
    if config.scale not in (None, where.scale):
        raise UsageError(
            f"The run {source.folder} is x{where.scale}, but x{config.scale} is given.", remedy
        )
    if config.space != mine and search_space.load(config.space, where.scale) != where:
        raise UsageError(
            f"The run {source.folder} has the space '{where.name}' in its space.yaml, but "
            f"{config.space} is another one.",
            remedy,
        )
    if config.genotype is not None:
        found = genotype.load(source.folder / "genotype.json")
        if genotype.load(config.genotype) != found:
            raise UsageError(
                f"The run {source.folder} has another genotype than {config.genotype}.", remedy
            )
    scale = None if before.scale is None else where.scale
    return replace(config, space=before.space, scale=scale, genotype=None)


def over(below: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, section by section, with those of a layer over them; neither is changed.

    What would stand in the way of what the layer asks for goes back to its default: one way to
    choose bits replaces another, one length of retraining another, and where retraining is asked
    for, neither a baseline, nor 0 steps, nor `train: none` below prevents it.
    """
    data = _without_rivals(below, layer)
    for key, value in layer.items():
        both = isinstance(value, dict) and isinstance(data.get(key), dict)
        data[key] = {**data[key], **value} if both else value
    return data


def _without_rivals(below: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    old, new = below.get("quantize", {}), layer.get("quantize", {})
    if not (isinstance(old, dict) and isinstance(new, dict)):  # schema.parse says what is wrong
        return dict(below)
    left, gone = dict(below), set[str]()
    if "bits" in layer or any(new.get(name) is not None for name in BUDGETS):
        left.pop("bits", None)
        left.pop("act_bits", None)
        gone |= {*BUDGETS}
    timed = any(new.get(name) is not None for name in LENGTHS)
    if timed:
        gone |= {"minutes"} | ({"train"} if old.get("train") == "none" else set())
    asked = any(map(new.get, LENGTHS)) if timed else new.get("train")
    if asked and new.get("train") != "none":
        gone.add("method")  # baselines are not retrained
        if old.get("steps") == 0 and not timed:
            gone.add("steps")
    return left | {"quantize": {key: value for key, value in old.items() if key not in gone}}


def load_config(run: Run) -> RunConfig:
    """The configuration of a run, with the space and the genotype in its folder."""
    return own(run, written(run))
