"""Which photographs a run learns from, calibrates on and holds out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantnas.config.run_config import RunConfig
from quantnas.data import holdout, photographs
from quantnas.data.holdout import Photographs

from . import run_settings
from .run_folder import Run


def choose(config: RunConfig, source: Run | None = None) -> Photographs:
    """The photographs that these settings mean now, for a run that goes on from `source` or none.

    Raises DataError as `photographs.find`, `photographs.split` and `require_unseen`, and when the
    two parts overlap.
    """
    origins = [*_origins(config), *([source] if source else [])]
    known = {path for run in origins for path in learned(run)}
    return _unseen(holdout.choose(config, known), origins)


def _origins(config: RunConfig) -> list[Run]:
    """The runs that the settings name: the teacher, and that of the weights to begin with."""
    c, folders = config.train, list[Path]()
    if c.teacher not in (None, "own"):
        folders.append(Path(str(c.teacher)))
    if c.start not in run_settings.STARTS:
        folders.append(Path(c.start).resolve().parent.parent)
    return [Run(folder) for folder in folders if (folder / "config.yaml").is_file()]


def learned(run: Run) -> set[Path]:
    """Every file that its weights have seen, in this run and in those from which it went on."""
    chosen = photographs_of(run, run_settings.load_config(run))
    return {photo.high.resolve() for photo in chosen.train} | set(chosen.known)


def require_unseen(chosen: Photographs, run: Run) -> None:
    """Raise DataError when a run has learned from what is to be evaluated on."""
    why = f"among those that {run.folder} has learned from"
    photographs.require_apart(chosen.held_out, learned(run), why)


def _unseen(chosen: Photographs, origins: Sequence[Run]) -> Photographs:
    """The same, with what all the origins know. Raises as `require_unseen`."""
    for run in origins:
        require_unseen(chosen, run)
    known = {path for run in origins for path in learned(run)} | set(chosen.known)
    return replace(chosen, known=tuple(sorted(known)))


def photographs_of(run: Run, config: RunConfig) -> Photographs:
    """The photographs of a run, as they were chosen when it began."""
    path = run.folder / holdout.FILE
    return holdout.load(path) if path.exists() else holdout.choose(config)


def inherited(source: Run, config: RunConfig) -> Photographs:
    """The photographs of a run that goes on from `source`: its own, unless told of others.

    What was held out then must stay held out, whatever came into the folder since. Raises
    DataError as `choose`.
    """
    old, new = run_settings.load_config(source), run_settings.settled(config)
    was = run_settings.settled(old)
    same = (was.data, was.eval_data) == (new.data, new.eval_data)
    if not same:
        return choose(config, source)
    return _unseen(photographs_of(source, old), [] if was.train == new.train else _origins(new))
