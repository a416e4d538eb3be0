"""Phases are loops that report progress, save their state, and continue from a saved state."""

import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from quantnas.config import files, schema
from quantnas.config.files import read_json, to_json, write_text
from quantnas.progress import Progress
from quantnas.training import checkpoint, processes, threads
from quantnas.training.processes import cores

from .run_folder import Run

THREADS = "threads.json"
"""File of a run that records the numbers of threads that its phases chose."""

SAVE_EVERY = 20.0
"""Seconds between two saved states of an unfinished phase."""

RECORD_EVERY = 10
"""Steps between two lines of `metrics.jsonl`."""


class StepRecord(Protocol):
    """A record of a loop, which counts its steps."""

    @property
    def step(self) -> int: ...


S = TypeVar("S", bound=StepRecord)


@dataclass(frozen=True)
class Phase(Generic[S]):
    """A loop that can stop after any step and go on from there."""

    name: str
    total: Callable[[], int]
    """Total number of steps; it may change on the way when time is limited."""
    parts: Mapping[str, checkpoint.Stateful]
    """The objects that change while the loop runs; their states are saved."""
    steps: Callable[[int], Iterator[S]]
    """Number of finished steps -> the records of the remaining ones."""
    show: Callable[[S], Mapping[str, str | None]]
    """Figures of a record that are displayed; None repeats the last value, "-" at first."""
    notable: Callable[[S], bool] = lambda step: False
    """Whether a record goes into the metrics in any case, not only every `RECORD_EVERY` steps."""
    kept: Mapping[int, Path] = field(default_factory=dict)
    """Finished steps -> file that keeps the state at that step for other runs, which continue from
    it; the records until then are kept next to it (`records_of`)."""
    on_cpu: bool = True
    """Whether the loop runs on the CPU, where the number of threads matters."""


def perform(run: Run, phase: Phase[S]) -> Iterator[Progress]:
    """Run a phase from its last saved state; yields its progress.

    The state is saved every `SAVE_EVERY` seconds, when the generator is closed, and at the end.
    """
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
                    _keep_state(run, phase.kept[done], done, phase)
                for name, figure in phase.show(step).items():
                    shown[name] = shown.get(name, "-") if figure is None else figure
                record = Progress(phase.name, done, phase.total(), {**shown})
                yield record
                if time.monotonic() - saved > SAVE_EVERY:
                    save()
                    saved = time.monotonic()
                if choice.is_due(done, phase.total() - done):
                    yield from _try_threads(phase, choice, record)
                choice.apply(done)
    except GeneratorExit:  # the caller closes this generator, always between two steps
        save()
        raise
    save()


def _try_threads(phase: Phase[S], choice: threads.Choice, shown: Progress) -> Iterator[Progress]:
    """Time steps that leave no trace to choose the number of threads; repeats the last record."""
    with _rehearsed(phase, shown.done) as step:
        for _ in choice.measure(shown.done, step):
            yield shown


@contextmanager
def _rehearsed(phase: Phase[S], done: int) -> Iterator[Callable[[], object]]:
    """A function that performs the next step; on exit, all states are restored."""
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
    """The choice of a phase's number of threads, with what was recorded before an interruption."""
    unchanged = (torch.get_num_threads(),)
    numbers = threads.candidates(cores()) if on_cpu else unchanged

    def keep(notes: Mapping[int, int]) -> None:
        recorded = _recorded(run)
        write_text(run.path(THREADS), to_json({**recorded, phase: notes}))

    notes = {
        int(step): number
        for step, number in _recorded(run).get(phase, {}).items()
        if step.isdecimal()
    }
    return threads.Choice(numbers, notes, keep)


@contextmanager
def threads_for(
    run: Run, name: str, work: Callable[[], object], on_cpu: bool = True
) -> Iterator[None]:
    """Within this context, torch computes with the number of threads that is fastest for `work`.

    Loops inside begin with that number. work: a function that can be repeated and changes nothing.
    The choice is recorded as `name`. Nothing is chosen where several processes share the work, or
    where it does not run on the CPU.
    """
    choice = threads_of(run, name, on_cpu and processes.size() == 1)
    with threads.restored():
        if choice.open and not choice.notes:
            for _ in choice.measure(0, work):
                pass
    with threads.scope(choice):
        yield


def _recorded(run: Run) -> dict[str, dict[str, int]]:
    """The recorded choices: phase -> finished steps -> number of threads from then on."""
    path = run.folder / THREADS
    found = read_json(path) if path.exists() else {}
    schema.check(dict[str, dict[str, int]], found, str(path))
    return found


def _keep_state(run: Run, path: Path, done: int, phase: Phase[S]) -> None:
    """Save the state to `path`, and the records until now next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.copy(run.path("metrics.jsonl"), records_of(path))
    checkpoint.save(path, done, phase.parts)


def records_of(state: Path) -> Path:
    """The file with the records that belong to a kept state."""
    return state.with_suffix(".jsonl")
