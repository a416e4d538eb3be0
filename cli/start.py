"""How every step command begins: a new run folder, or an old one to continue."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantnas import space
from quantnas.config import RunConfig
from quantnas.errors import LostError, UsageError
from quantnas.runs import Run

from . import console, options

SHARED = {"search": ("search",), "train": ("train",), "run": ("search", "train")}
"""Command -> its steps that several processes may share."""


def begun(
    verb: str,
    resume: Path | None,
    output: Path,
    name: str | None,
    config: Path | None,
    settings: list[str] | None,
    flags: dict[str, Any],
    tensorboard: bool = False,
) -> tuple[Run, RunConfig]:
    """The run folder of a command that starts from nothing, or that was interrupted.

    `flags` as `options.configuration` takes them, with the space as SPACE.
    """
    if tensorboard:
        from quantnas import tensorboard as extra

        extra.require()
    if resume is not None:
        options.only_resume({"name": name, "config": config, "set": settings, **flags})
        return going_on(verb, resume)
    from quantnas import beginning
    from quantnas.settings import settled

    named = {"space" if key == "SPACE" else key: value for key, value in flags.items()}
    chosen = options.configuration({}, config, settings, named)
    with options.named(named):
        run = together(verb, chosen, lambda: beginning.fresh(verb, output, name, chosen))
    return run, settled(chosen)


def assist() -> None:
    """In a process that was started to help another one, do so, and exit.

    Where torchrun has started all, the first one joins here: whatever goes wrong after this, the
    others are let go.
    """
    if "WORLD_SIZE" not in os.environ:
        return
    from quantnas import assisting, crew

    world = int(os.environ["WORLD_SIZE"])
    if crew.called():
        try:
            assisting.assist(world)
        except LostError:  # the first process has failed, and says so
            sys.exit(1)
        sys.exit(0)
    if crew.launched():
        crew.launch(world)


def together(
    verb: str, config: RunConfig, begin: Callable[[], Run], before: Run | None = None
) -> Run:
    """What `begin` gives, with the other processes there where several share a step of the run.

    before: the run itself, if it was interrupted. Raises UsageError as `crew.check`, and for
    steps that want different numbers of processes.
    """
    from quantnas import crew, workspace

    left = [step for step in SHARED.get(verb, ()) if before is None or not before.result(step)]
    wanted = {step: getattr(config, step).processes for step in left}
    several = {step: number for step, number in wanted.items() if number > 1}
    if len(set(several.values())) > 1:
        told = " and ".join(f"`{step}.processes` is {n}" for step, n in several.items())
        raise UsageError(f"{told}.", "Give both the same number, or one of them 1.")
    number = max(wanted.values(), default=1)
    crew.launch(number, number > 1 and workspace.device(config).type == "cuda")
    return begin()


def adopted(
    weights: Path,
    output: Path,
    name: str | None,
    config: Path | None,
    settings: list[str] | None,
    flags: dict[str, Any],
) -> tuple[Run, RunConfig]:
    """A new run folder to quantize in, which has not trained but taken the weights in a file.

    Without a space among the flags it is the one that the file names.
    """
    from quantnas import adopt, beginning

    adopt.require_float(weights)
    named = adopt.space_of(weights)
    if flags["space"] is None and named is not None:
        flags |= {"space": named[0], "scale": flags["scale"] or named[1]}
    chosen = options.configuration({}, config, settings, {**flags, "train.start": str(weights)})
    if chosen.space == RunConfig.space and flags["space"] is None and chosen.genotype is None:
        raise UsageError(
            f"{weights} does not say which network its weights are of.",
            adopt.instead(weights, "Give --space, and --genotype where it leaves choices open."),
        )
    with options.named(flags):
        run = beginning.fresh("quantize", output, name, chosen)
    return _taken(run, weights)


def imported(
    file: Path,
    output: Path,
    name: str | None,
    config: Path | None,
    settings: list[str] | None,
    flags: dict[str, Any],
) -> tuple[Run, RunConfig]:
    """The same for the network in an ONNX file from elsewhere, after what was found out is told."""
    from quantnas import beginning, survey

    given = [option for option in ("space", "genotype") if flags[option] is not None]
    if given:
        raise UsageError(
            f"--{given[0]} is given, but {file} brings its own network.", "Leave it out."
        )
    chosen = options.configuration({}, config, settings, flags)
    found = survey.survey(file, chosen.pixels)
    for line in survey.lines(found):
        console.say(line)
    with options.named(flags), tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / f"{found.space.name}.yaml"
        where.write_text(space.to_yaml(found.space), encoding="utf-8")
        run = beginning.fresh("quantize", output, name, replace(chosen, space=str(where)))
    return _taken(run, file)


def _taken(run: Run, file: Path) -> tuple[Run, RunConfig]:
    """A run that has begun, with the network in a file; when that fails, no run is left."""
    from quantnas import adopt, workspace

    config = workspace.load_config(run)
    try:
        adopt.adopt(run, config, file)
    except BaseException:
        shutil.rmtree(run.folder)
        raise
    return run, config


def resumed(path: Path) -> tuple[Run, RunConfig]:
    """An old run folder and its configuration."""
    from quantnas import runs, workspace

    run = runs.existing(path)
    return run, workspace.load_config(run)


def going_on(verb: str, path: Path) -> tuple[Run, RunConfig]:
    """The same of a run to be finished, with the other processes there where it has several."""
    run, config = resumed(path)
    _require_own(verb, run)
    return together(verb, config, lambda: run, run), config


def _require_own(verb: str, run: Run) -> None:
    """Raise UsageError for the run of another command, where it is known which one made it."""
    from quantnas.genotype import read_json

    path = run.folder / "env.json"
    words = read_json(path).get("command", []) if path.exists() else []
    made_by = words[1] if len(words) > 1 else verb
    if made_by in console.RESUMABLE and made_by not in (verb, "run"):
        raise UsageError(
            f"{run.folder} is a run of `quantnas {made_by}`, not one of `quantnas {verb}`.",
            f"Continue it with: quantnas {made_by} --resume {run.folder}; or go on from it in a "
            f"folder of its own: quantnas {verb} {run.folder}",
        )


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
    """The run folder of a step that goes on from another run, or that was interrupted itself.

    Raises UsageError for a scale, a space or a genotype other than the other run's.
    """
    if resume is not None:
        others = {"RUN": source, "name": name, "config": config, "set": settings}
        options.only_resume(others | flags)
        return going_on(verb, resume)
    if source is None:
        raise UsageError(
            f"`quantnas {verb}` needs a run to go on from.",
            f"Give its folder, as in: quantnas {verb} runs/run/rfdn_small",
        )
    from quantnas import beginning, runs, workspace
    from quantnas import settings as kept

    before = runs.existing(source)
    runs.require(before, until=verb)
    told = options.configuration(kept.inherit(before, verb), config, settings, flags)
    with options.named(flags):
        chosen = kept.continued(before, told)
        run = together(verb, chosen, lambda: beginning.fresh(verb, output, name, chosen, before))
    return run, workspace.load_config(run)
