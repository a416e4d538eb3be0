"""The settings of a run: as they were written, with its own copies, and as the next step has them.

A run folder is complete: what later steps need of a space or a genotype lies in it, so the files
that it was begun with may change or go. What is too large to be copied is named by absolute paths.
"""

import os
from dataclasses import asdict, replace
from typing import Any

from quantnas.config import genotype, schema, search_space
from quantnas.config.run_config import RunConfig, TrainConfig
from quantnas.errors import UsageError

from .run_folder import Run

GIVEN = "genotype_given.json"
"""Copy of the genotype that a run was given, beside its config."""
STARTS = ("searched", "scratch", "float")
"""Values of `train.start` that are no file."""
BEGINNING = ("start", "teacher", "max_hours")
"""Settings of a training that say where it begins and ends: the next one has its own."""


def written(run: Run) -> RunConfig:
    """The configuration of a run as it stands in its folder."""
    path = run.folder / "config.yaml"
    return schema.parse(RunConfig, schema.read_yaml(path), str(path))


def own(run: Run, config: RunConfig) -> RunConfig:
    """These settings with the space and the genotype that lie in the run, where they do."""
    search_space, given = run.folder / "space.yaml", run.folder / GIVEN
    if search_space.exists():
        config = replace(config, space=str(search_space), scale=None)
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


def load_config(run: Run) -> RunConfig:
    """The configuration of a run, with the space and the genotype in its folder."""
    return own(run, written(run))
