"""The settings of a run: as they were written, with paths to its own copies, and as inherited.

A run folder is complete: it holds copies of the search space and the genotype that later steps
need, so the original files may change or vanish. Larger inputs are named by absolute paths.
"""

import os
from dataclasses import asdict, replace
from typing import Any

from quantnas.config import genotype, schema, search_space
from quantnas.config.files import inside
from quantnas.config.run_config import RunConfig, TrainConfig
from quantnas.config.search_space import SearchSpace
from quantnas.errors import UsageError

from .run_folder import Run

GIVEN = "genotype_given.json"
"""File with a copy of the genotype that the settings name."""
STARTS = ("searched", "scratch", "float")
"""Values of `train.start` that name no file."""
BEGINNING = ("start", "teacher", "max_hours")
"""Training settings that say where a training begins and ends; they are not inherited."""


def written(run: Run) -> RunConfig:
    """The configuration of a run as it stands in its folder."""
    path = run.folder / "config.yaml"
    return schema.parse(RunConfig, schema.read_yaml(path), str(path))


def space_of(run: Run) -> SearchSpace:
    """The search space in a run folder, whose imported network lies there, too.

    Raises DataError or UsageError for a damaged file, and for a network outside of the folder.
    """
    path = run.folder / "space.yaml"
    space = search_space.load(str(path))
    if space.source:
        inside(run.folder, os.path.relpath(space.source, run.folder), path, follow=True)
    return space


def own(run: Run, config: RunConfig) -> RunConfig:
    """The settings with paths to the run's own copies of search space and genotype, if any."""
    space_file, genotype_file = run.folder / "space.yaml", run.folder / GIVEN
    if space_file.exists():
        config = replace(config, space=str(space_file), scale=None)
    return replace(config, genotype=str(genotype_file)) if genotype_file.exists() else config


def settled(config: RunConfig) -> RunConfig:
    """The settings with absolute paths to all that stays outside of the run folder."""
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
    """The configuration as plain data for YAML."""
    data = asdict(config)
    data["benchmarks"] = list(config.benchmarks)
    return data


def inherit(source: Run, verb: str) -> dict[str, Any]:
    """The settings that a run inherits when it continues `source`, as `plain` gives them.

    Search space and scale are those in the folder of `source`; so is the genotype, which the
    settings therefore do not name.
    """
    config = replace(own(source, written(source)), genotype=None)
    if verb == "train":
        fresh = {name: getattr(TrainConfig, name) for name in BEGINNING}
        config = replace(config, train=replace(config.train, **fresh))
    return plain(config)


def continued(source: Run, config: RunConfig) -> RunConfig:
    """Inherited settings after changes, with the space under the name that `source` calls it.

    Raises UsageError for a scale, a space or a genotype other than the run's.
    """
    own_file, before = str(source.folder / "space.yaml"), written(source)
    space = space_of(source)
    remedy = "Leave that out, or begin a new run."
    if config.scale not in (None, space.scale):
        raise UsageError(
            f"The run {source.folder} is x{space.scale}, but x{config.scale} is given.", remedy
        )
    if config.space != own_file and search_space.load(config.space, space.scale) != space:
        raise UsageError(
            f"The run {source.folder} has the space '{space.name}' in its space.yaml, but "
            f"{config.space} is another one.",
            remedy,
        )
    if config.genotype is not None:
        decided = genotype.load(source.folder / "genotype.json")
        if genotype.load(config.genotype) != decided:
            raise UsageError(
                f"The run {source.folder} has another genotype than {config.genotype}.", remedy
            )
    scale = None if before.scale is None else space.scale
    return replace(config, space=before.space, scale=scale, genotype=None)


def load_config(run: Run) -> RunConfig:
    """The configuration of a run, with the search space and the genotype in its folder."""
    return own(run, written(run))
