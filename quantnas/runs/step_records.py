"""What every step of a run was done with: its settings, and checksums of the weights it left.

A run that goes on compares both with what it finds, so that edited settings and damaged weights are
errors instead of results that nobody asked for. The file is `done_with.json`. Runs of earlier
versions have none, and steps whose results were copied from another run are not in it.
"""

from typing import Any, NotRequired

from typing_extensions import TypedDict

from quantnas.config import files, schema
from quantnas.config.layered_settings import flat
from quantnas.errors import DataError, UsageError

from . import run_settings
from .run_folder import MADE, STEPS, Run

FILE = "done_with.json"
SETTINGS: dict[str, tuple[str, ...]] = {
    "search": ("space", "scale", "genotype", "data", "eval_data", "seed", "search"),
    "train": ("seed", "train"),
    "quantize": ("seed", "bits", "act_bits", "quantize"),
    "export": ("export",),
    "evaluate": (),
    "report": (),
}
"""Step -> the settings and sections on which its result depends."""
HOW = ("search.processes", "train.processes", "quantize.max_drop")
"""Settings that may change on the way: they say how a step is computed, or what is accepted."""


class Record(TypedDict):
    """What a step was done with."""

    settings: dict[str, Any]
    sha256: NotRequired[dict[str, str]]


def record(run: Run, step: str) -> None:
    """Record the settings with which a step begins, unless it has begun before."""
    found = _read(run)
    if step not in found:
        _write(run, {**found, step: {"settings": _settings(run, step)}})


def seal(run: Run, step: str) -> None:
    """Record the checksums of the weights that a finished step has left."""
    found = _read(run)
    if step in found:
        sums = {name: files.sha256(run.folder / name) for name in _weights(run, step)}
        _write(run, {**found, step: {**found[step], "sha256": sums}})


def require_unchanged(run: Run) -> None:
    """Compare a run with its record, for all steps that have begun.

    Raises UsageError that names a setting with another value than then, and as `require_weights`.
    """
    for step, done in _read(run).items():
        now = _settings(run, step)
        for name, value in done["settings"].items():
            if name in now and now[name] != value:
                raise UsageError(
                    f"{run.folder / 'config.yaml'} says {name}: {_shown(now[name])}, but the step "
                    f"'{step}' of this run was begun with {_shown(value)}.",
                    "Set it back, or begin a new run with these settings.",
                )
    require_weights(run)


def require_weights(run: Run) -> None:
    """Raise DataError that names a file of weights which has changed since its step wrote it."""
    for step, done in _read(run).items():
        sums = done.get("sha256", {})
        for name in _weights(run, step):
            path = run.folder / name
            if name in sums and files.sha256(path) != sums[name]:
                raise DataError(
                    f"{path} has changed since the step '{step}' wrote it.",
                    "Take it from a copy, or begin a new run.",
                )


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _settings(run: Run, step: str) -> dict[str, Any]:
    """The settings of a run on which a step depends, flat."""
    settings = flat(run_settings.plain(run_settings.written(run)))
    names = SETTINGS.get(step, ())
    return {
        name: files.plain(value)
        for name, value in settings.items()
        if name.partition(".")[0] in names and name not in HOW
    }


def _weights(run: Run, step: str) -> list[str]:
    made = MADE[step] if step in STEPS else ()
    return [n for n in made if n.endswith(".safetensors") and (run.folder / n).is_file()]


def _read(run: Run) -> dict[str, Any]:
    path = run.folder / FILE
    if not path.exists():
        return {}
    found = files.read_json(path)
    schema.check(dict[str, Record], found, str(path))
    return found


def _write(run: Run, found: dict[str, Any]) -> None:
    files.write_text(run.path(FILE), files.to_json(found))
