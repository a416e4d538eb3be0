"""Begins a run; its settings are checked before anything is written."""

from collections.abc import Callable, Mapping, Sequence
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
    """Checked settings, and the data that the new run folder will hold."""

    verb: str
    config: RunConfig
    source: Run | None
    """The run that the new run continues, if there is one."""
    photographs: Photographs
    weights: Path | None
    """File with the initial weights, if the settings name one."""

    def write(
        self,
        run: Run,
        command: Sequence[str] | None = None,
        complete: Callable[[Run, RunConfig], None] | None = None,
    ) -> Run:
        """Begin the run in a new folder; copies the results of earlier steps from the source.

        command: the command line to record, by default that of this process. complete: writes what
        else belongs to the beginning. The settings are written last. Raises UsageError when another
        process is at work in the folder.
        """
        record = {**environment.environment(command), "verb": self.verb}

        def rest() -> None:
            if self.source is not None:
                run_folder.carry(self.source, run, until=self.verb)
            if self.weights is not None:
                files.copy(self.weights, run.weights("given"))
            if complete is not None:
                complete(run, run_settings.own(run, self.config))

        with run_folder.beginning(run):
            begin(run, self.config, self.photographs, record, self.source, rest)
        return run


def fresh(
    verb: str,
    output: Path,
    name: str | None,
    config: RunConfig,
    source: Run | None = None,
    complete: Callable[[Run, RunConfig], None] | None = None,
) -> Run:
    """Begin a run in the new folder `output/verb/name`, which is removed if that fails.

    With a source, the results of its steps before `verb` are copied. complete: as in
    `Prepared.write`. Raises as `prepare` and `run_folder.create`.
    """
    ready = prepare(verb, config, source)
    default = source.folder.resolve().name if source else Path(config.space).stem
    run = run_folder.create(output, verb, name, default)
    try:
        return ready.write(run, complete=complete)
    except BaseException:
        run_folder.remove_half_begun(run)
        raise


def prepare(verb: str, config: RunConfig, source: Run | None = None) -> Prepared:
    """Check the settings of a new run, without writing anything.

    Raises DataError or UsageError for settings with which `verb` cannot succeed.
    """
    used = run_settings.own(source, config) if source else config
    chosen = run_photographs.inherited(source, used) if source else run_photographs.choose(used)
    preflight.check(used, chosen, verb)
    initial = None
    if verb in ("run", "quantize"):
        bit_widths.check(*_architecture(source, used), used)
    if verb in ("train", "run"):
        initial_weights.require_teacher(used)
        initial = initial_weights.given_weights(used, source)
    return Prepared(verb, config, source, chosen, initial)


def _architecture(source: Run | None, config: RunConfig) -> tuple[SearchSpace, Genotype | None]:
    """(search space, genotype); None for a genotype that only the search will find."""
    if source is not None:
        return networks.architecture(source)
    space = search_space.load(config.space, config.scale)
    file = None if config.genotype is None else Path(config.genotype)
    return space, registry.known_genotype(space, file)


def begin(
    run: Run,
    config: RunConfig,
    chosen: Photographs,
    environment: Mapping[str, Any],
    source: Run | None = None,
    rest: Callable[[], None] = lambda: None,
) -> None:
    """Write the settings and inputs of a run into its folder, so that later steps only read there.

    With a source, the search space is the one in the folder of the source. rest: writes what else
    belongs to the beginning. The settings are written last, since they make the folder a run.
    """
    used = run_settings.own(source, config) if source else config
    settings = run_settings.plain(run_settings.settled(config))
    space = search_space.load(used.space, used.scale)
    if space.source:
        space, settings["space"] = imported_onnx.kept(space, run.folder), space.name
    write_text(run.path("space.yaml"), search_space.to_yaml(space))
    if config.genotype is not None:
        write_text(run.path(run_settings.GIVEN), genotype.load(config.genotype).to_json() + "\n")
    write_text(run.path("env.json"), to_json(environment))
    if config.data is not None or config.eval_data is not None or chosen.known:
        holdout.save(run.path(holdout.FILE), chosen)
    rest()
    write_text(run.path(run_folder.SETTINGS), yaml.safe_dump(settings, sort_keys=False))
