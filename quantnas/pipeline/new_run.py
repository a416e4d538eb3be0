"""The beginning of a run: what is wrong with its settings is said before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quantnas.architectures import imported_onnx, registry
from quantnas.config import files, genotype, search_space
from quantnas.config.files import to_json, write_text
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.data import holdout
from quantnas.data.holdout import Photographs
from quantnas.quantization import bit_widths
from quantnas.runs import environment, networks, run_folder, run_photographs, run_settings
from quantnas.runs.run_folder import Run

from . import initial_weights, preflight


@dataclass(frozen=True)
class Prepared:
    """Settings that have been checked, and what goes into the folder of their run."""

    verb: str
    config: RunConfig
    source: Run | None
    """The run it goes on from, if there is one."""
    photographs: Photographs
    given: Path | None
    """Weights to begin with."""

    def write(self, run: Run, command: Sequence[str] | None = None) -> Run:
        """Begin the run, in a new folder; with what the steps before made in the source.

        `command`: what makes the same again, if that is not the command line of this process.
        """
        told = {**environment.environment(command), "verb": self.verb}
        begin(run, self.config, self.photographs, told, self.source)
        if self.source is not None:
            run_folder.carry(self.source, run, until=self.verb)
        if self.given is not None:
            files.copy(self.given, run.weights("given"))
        return run


def fresh(
    verb: str, output: Path, name: str | None, config: RunConfig, source: Run | None = None
) -> Run:
    """A new run folder `output/verb/name`; with a source, holding what the steps before `verb` made
    there. Raises as `prepare`, and as `run_folder.create`.
    """
    ready = prepare(verb, config, source)
    default = source.folder.resolve().name if source else Path(config.space).stem
    return ready.write(run_folder.create(output, verb, name, default))


def prepare(verb: str, config: RunConfig, source: Run | None = None) -> Prepared:
    """Raise DataError or UsageError for settings with which `verb` cannot end; writes nothing."""
    used = run_settings.own(source, config) if source else config
    chosen = run_photographs.inherited(source, used) if source else run_photographs.choose(used)
    preflight.check(used, chosen, verb)
    given = None
    if verb in ("run", "quantize"):
        bit_widths.check(*_architecture(source, used), used)
    if verb in ("train", "run"):
        initial_weights.require_teacher(used)
        given = initial_weights.given_weights(used, source)
    return Prepared(verb, config, source, chosen, given)


def _architecture(source: Run | None, config: RunConfig) -> tuple[SearchSpace, Genotype | None]:
    """The space, and the genotype as far as it is known by now."""
    if source is not None:
        return networks.architecture(source)
    where = search_space.load(config.space, config.scale)
    given = None if config.genotype is None else Path(config.genotype)
    return where, registry.known_genotype(where, given)


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
    used = run_settings.own(source, config) if source else config
    told = run_settings.plain(run_settings.settled(config))
    where = search_space.load(used.space, used.scale)
    if where.source:
        where, told["space"] = imported_onnx.kept(where, run.folder), where.name
    write_text(run.path("space.yaml"), search_space.to_yaml(where))
    if config.genotype is not None:
        write_text(run.path(run_settings.GIVEN), genotype.load(config.genotype).to_json() + "\n")
    write_text(run.path("config.yaml"), yaml.safe_dump(told, sort_keys=False))
    write_text(run.path("env.json"), to_json(environment))
    if config.data is not None or config.eval_data is not None or chosen.known:
        holdout.save(run.path(holdout.FILE), chosen)
