"""The photographs that a run trains on, calibrates on and holds out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantnas.config.run_config import RunConfig
from quantnas.data import holdout, photographs
from quantnas.data.holdout import Photographs

from . import run_settings
from .run_folder import Run


def choose(config: RunConfig, source: Run | None = None) -> Photographs:
    """Choose photographs by the settings of a new run, which may continue the run `source`.

    Raises DataError as `photographs.find`, `photographs.split` and `require_unseen`, and when
    training and held-out photographs overlap.
    """
    origins = [*_origins(config), *([source] if source else [])]
    seen = {path for run in origins for path in learned(run)}
    return _unseen(holdout.choose(config, seen), origins)


def _origins(config: RunConfig) -> list[Run]:
    """The runs that the settings name: that of the teacher, and that of the initial weights."""
    c, folders = config.train, list[Path]()
    if c.teacher not in (None, "own"):
        folders.append(Path(str(c.teacher)))
    if c.start not in run_settings.STARTS:
        folders.append(Path(c.start).resolve().parent.parent)
    return [Run(folder) for folder in folders if (folder / "config.yaml").is_file()]


def learned(run: Run) -> set[Path]:
    """Every file that a run's weights were trained on, in this run and in those it continued."""
    chosen = photographs_of(run, run_settings.load_config(run))
    return {photo.high.resolve() for photo in chosen.train} | set(chosen.known)


def require_unseen(chosen: Photographs, run: Run) -> None:
    """Raise DataError when a run was trained on photographs that are to be held out."""
    why = f"among those that {run.folder} has learned from"
    photographs.require_apart(chosen.held_out, learned(run), why)


def _unseen(chosen: Photographs, origins: Sequence[Run]) -> Photographs:
    """The photographs, with those that the origins were trained on added to `known`.

    Raises as `require_unseen`.
    """
    for run in origins:
        require_unseen(chosen, run)
    seen = {path for run in origins for path in learned(run)} | set(chosen.known)
    return replace(chosen, known=tuple(sorted(seen)))


def photographs_of(run: Run, config: RunConfig) -> Photographs:
    """The photographs that were chosen when a run began."""
    path = run.folder / holdout.FILE
    return holdout.load(path) if path.exists() else holdout.choose(config)


def inherited(source: Run, config: RunConfig) -> Photographs:
    """The photographs of a run that continues `source`: those of `source`, unless others are set.

    Photographs that `source` held out stay held out, whatever was added to the folder since.
    Raises DataError as `choose`.
    """
    old, new = run_settings.load_config(source), run_settings.settled(config)
    before = run_settings.settled(old)
    same = (before.data, before.eval_data) == (new.data, new.eval_data)
    if not same:
        return choose(config, source)
    return _unseen(photographs_of(source, old), [] if before.train == new.train else _origins(new))
