"""The beginning of a run: what is wrong with its settings is said before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import files, origins, runs, searching, settings, space, widths, workspace
from .config import RunConfig
from .genotype import Genotype
from .parts import Photographs
from .runs import Run
from .space import SearchSpace


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
        told = {**runs.environment(command), "verb": self.verb}
        workspace.begin(run, self.config, self.photographs, told, self.source)
        if self.source is not None:
            runs.carry(self.source, run, until=self.verb)
        if self.given is not None:
            files.copy(self.given, run.weights("given"))
        return run


def fresh(
    verb: str, output: Path, name: str | None, config: RunConfig, source: Run | None = None
) -> Run:
    """A new run folder `output/verb/name`; with a source, holding what the steps before `verb` made
    there. Raises as `prepare`, and as `runs.create`.
    """
    ready = prepare(verb, config, source)
    default = source.folder.resolve().name if source else Path(config.space).stem
    return ready.write(runs.create(output, verb, name, default))


def prepare(verb: str, config: RunConfig, source: Run | None = None) -> Prepared:
    """Raise DataError or UsageError for settings with which `verb` cannot end; writes nothing."""
    used = settings.own(source, config) if source else config
    chosen = workspace.inherited(source, used) if source else workspace.choose(used)
    workspace.check(used, chosen, verb)
    given = None
    if verb in ("run", "quantize"):
        widths.check(*_architecture(source, used), used)
    if verb in ("train", "run"):
        origins.require_teacher(used)
        given = origins.given_weights(used, source)
    return Prepared(verb, config, source, chosen, given)


def _architecture(source: Run | None, config: RunConfig) -> tuple[SearchSpace, Genotype | None]:
    """The space, and the genotype as far as it is known by now."""
    if source is not None:
        return workspace.architecture(source)
    where = space.load(config.space, config.scale)
    given = None if config.genotype is None else Path(config.genotype)
    return where, searching.known_genotype(where, given)
