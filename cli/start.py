"""How every step command begins: a new run folder, or an old one to continue."""

from pathlib import Path
from typing import Any

from quantnas.config import RunConfig
from quantnas.errors import UsageError
from quantnas.runs import Run

from . import options


def fresh(
    verb: str, output: Path, name: str | None, config: RunConfig, source: Run | None = None
) -> Run:
    """A new run folder; with a source, holding what the steps before `verb` made there."""
    from quantnas import runs, workspace

    chosen = workspace.inherited(source, config) if source else workspace.choose(config)
    workspace.check(config, chosen)
    if source is not None:
        runs.require(source, until=verb)
    default = source.folder.resolve().name if source else Path(config.space).stem
    run = runs.create(output, verb, name, default)
    workspace.begin(run, config, chosen, runs.environment())
    if source is not None:
        runs.carry(source, run, until=verb)
    return run


def resumed(path: Path) -> tuple[Run, RunConfig]:
    """An old run folder and its configuration."""
    from quantnas import runs, workspace

    run = runs.existing(path)
    return run, workspace.load_config(run)


def continued(
    verb: str,
    source: Path | None,
    resume: Path | None,
    output: Path,
    name: str | None,
    config: Path | None,
    settings: list[str] | None,
    **flags: Any,
) -> tuple[Run, RunConfig]:
    """The run folder of a step that goes on from another run, or that was interrupted itself."""
    if resume is not None:
        options.only_resume(run=source, name=name, config=config, set=settings, **flags)
        return resumed(resume)
    if source is None:
        raise UsageError(
            f"`quantnas {verb}` needs a run to go on from.",
            f"Give its folder, as in: quantnas {verb} runs/run/rfdn_small",
        )
    from quantnas import workspace

    before, old = resumed(source)
    new = options.configuration(workspace.plain(old), config, settings, **flags)
    return fresh(verb, output, name, new, before), new
