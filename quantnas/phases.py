"""Phases: long loops that show their progress, save their state, and go on from it."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from . import checkpoint, files
from .runs import Run

SAVE_EVERY = 20.0
"""Seconds between two saved states of an unfinished phase."""

RECORD_EVERY = 10
"""Steps between two lines of `metrics.jsonl`."""


@dataclass(frozen=True)
class Progress:
    """Where a phase is, with the figures worth showing."""

    phase: str
    done: int
    total: int
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """Lines that stay."""


class StepRecord(Protocol):
    """A record of a loop."""

    @property
    def step(self) -> int: ...


S = TypeVar("S", bound=StepRecord)


@dataclass(frozen=True)
class Phase(Generic[S]):
    """A loop that can stop after any step and go on from there."""

    name: str
    total: Callable[[], int]
    """Steps in all; that may change on the way, when time is limited."""
    parts: Mapping[str, checkpoint.Stateful]
    """All that changes while it runs."""
    steps: Callable[[int], Iterator[S]]
    """Number of steps done -> the records of the others."""
    show: Callable[[S], Mapping[str, str | None]]
    """The figures of a record; one that is None stays as it was last, "-" at first."""
    notable: Callable[[S], bool] = lambda step: False
    """Whether a record goes into the metrics though it is not its turn."""
    kept: Mapping[int, Path] = field(default_factory=dict)
    """Steps done -> file for the state at that moment, for other runs to go on from, with the
    records up to then beside it (`records_of`)."""


def perform(run: Run, phase: Phase[S]) -> Iterator[Progress]:
    """Go on from the last saved state, saving it from time to time, when closed, and at the end."""
    path, saved = run.resume_point(phase.name), time.monotonic()
    done = checkpoint.load(path, phase.parts)
    run.forget(phase.name, done)
    began, shown = saved - run.spent, dict[str, str]()

    def save() -> None:
        checkpoint.save(path, done, phase.parts)
        run.spend(time.monotonic() - began)

    try:
        for step in phase.steps(done):
            done = step.step
            if done % RECORD_EVERY == 0 or done == phase.total() or phase.notable(step):
                run.record(phase.name, asdict(step))  # type: ignore[call-overload]
            if done in phase.kept:
                _keep(run, phase.kept[done], done, phase)
            for name, figure in phase.show(step).items():
                shown[name] = shown.get(name, "-") if figure is None else figure
            yield Progress(phase.name, done, phase.total(), {**shown})
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()
    except GeneratorExit:  # the caller closes this generator, always between two steps
        save()
        raise
    save()


def _keep(run: Run, path: Path, done: int, phase: Phase[S]) -> None:
    """The state, and beside it the records up to now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.copy(run.path("metrics.jsonl"), records_of(path))
    checkpoint.save(path, done, phase.parts)


def records_of(state: Path) -> Path:
    """Where the records are that belong to a kept state."""
    return state.with_suffix(".jsonl")
