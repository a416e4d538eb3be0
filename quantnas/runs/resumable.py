"""Phases: long loops that show their progress, save their state, and go on from it."""

import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from quantnas.config import files
from quantnas.config.files import read_json, to_json, write_text
from quantnas.progress import Progress
from quantnas.training import checkpoint, processes, threads
from quantnas.training.processes import cores

from .run_folder import Run

THREADS = "threads.json"
"""File of a run with the numbers of threads that its loops have chosen."""

SAVE_EVERY = 20.0
"""Seconds between two saved states of an unfinished phase."""

RECORD_EVERY = 10
"""Steps between two lines of `metrics.jsonl`."""


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
    on_cpu: bool = True
    """Whether the processor computes, so that the number of threads matters."""


def perform(run: Run, phase: Phase[S]) -> Iterator[Progress]:
    """Go on from the last saved state, saving it from time to time, when closed, and at the end."""
    path, saved = run.resume_point(phase.name), time.monotonic()
    done = checkpoint.load(path, phase.parts)
    run.forget(phase.name, done)
    began, shown = saved - run.spent, dict[str, str]()
    choice = threads_of(run, phase.name, phase.on_cpu and processes.size() == 1)

    def save() -> None:
        checkpoint.save(path, done, phase.parts)
        run.spend(time.monotonic() - began)

    try:
        with threads.restored():
            choice.start()
            choice.apply(done)
            for step in phase.steps(done):
                done = step.step
                choice.watch(done)
                if done % RECORD_EVERY == 0 or done == phase.total() or phase.notable(step):
                    run.record(phase.name, asdict(step))  # type: ignore[call-overload]
                if done in phase.kept:
                    _keep(run, phase.kept[done], done, phase)
                for name, figure in phase.show(step).items():
                    shown[name] = shown.get(name, "-") if figure is None else figure
                record = Progress(phase.name, done, phase.total(), {**shown})
                yield record
                if time.monotonic() - saved > SAVE_EVERY:
                    save()
                    saved = time.monotonic()
                if choice.wanted(done, phase.total() - done):
                    yield from _try_threads(phase, choice, record)
                choice.apply(done)
    except GeneratorExit:  # the caller closes this generator, always between two steps
        save()
        raise
    save()


def _try_threads(phase: Phase[S], choice: threads.Choice, shown: Progress) -> Iterator[Progress]:
    """Choose the number of threads by steps that leave no trace; the last record is repeated."""
    with _rehearsed(phase, shown.done) as step:
        for _ in choice.measure(shown.done, step):
            yield shown


@contextmanager
def _rehearsed(phase: Phase[S], done: int) -> Iterator[Callable[[], object]]:
    """A function that takes a next step; everything is as it was when this ends."""
    before = copy.deepcopy(checkpoint.states(phase.parts))
    with torch.random.fork_rng(devices=[]):
        steps = phase.steps(done)
        try:
            yield lambda: next(steps, None)
        finally:
            if isinstance(steps, Generator):
                steps.close()
            checkpoint.restore(phase.parts, before)


def threads_of(run: Run, phase: str, on_cpu: bool = True) -> threads.Choice:
    """The choice of threads of a phase, with what was noted of it before an interruption."""
    usual = (torch.get_num_threads(),)
    numbers = threads.candidates(cores()) if on_cpu else usual

    def keep(notes: Mapping[int, int]) -> None:
        others = _noted(run)
        write_text(run.path(THREADS), to_json({**others, phase: notes}))

    notes = {int(step): number for step, number in _noted(run).get(phase, {}).items()}
    return threads.Choice(numbers, notes, keep)


@contextmanager
def threads_for(run: Run, name: str, work: Callable[[], object]) -> Iterator[None]:
    """While this is open, torch computes with the number of threads that suits `work`.

    Loops inside begin with it. work: what may be repeated and changes nothing. The choice is noted
    under `name`. Nothing is chosen where several processes share the work.
    """
    choice = threads_of(run, name, processes.size() == 1)
    with threads.restored():
        if choice.open and not choice.notes:
            for _ in choice.measure(0, work):
                pass
    with threads.scope(choice):
        yield


def _noted(run: Run) -> dict[str, dict[str, int]]:
    """Phase -> steps done -> number of threads from then on."""
    path = run.folder / THREADS
    return read_json(path) if path.exists() else {}


def _keep(run: Run, path: Path, done: int, phase: Phase[S]) -> None:
    """The state, and beside it the records up to now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.copy(run.path("metrics.jsonl"), records_of(path))
    checkpoint.save(path, done, phase.parts)


def records_of(state: Path) -> Path:
    """Where the records are that belong to a kept state."""
    return state.with_suffix(".jsonl")
