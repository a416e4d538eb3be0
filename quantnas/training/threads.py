"""The number of threads that a long loop computes with: measured, now and then again.

Threads that share one operation spin while they wait for each other. On cores that other programs
use as well, that can cost several times what the second thread saves, and nothing but the time of
a step tells. A result depends on the number of threads in its last bits, so every choice is noted
with the step at which it was made, and a resumed loop repeats it there.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which a user sets the number of threads."""
TOPOLOGY = Path("/sys/devices/system/cpu")
TURNS = 4
"""Steps per number of threads; the first one warms up."""
AHEAD = 0.9
"""Share of the present number's time per step below which another number replaces it."""
HOPELESS = (4.0, *[2.0] * (TURNS - 1))
"""Multiple of the least time per step above which a number is not timed any further; per turn."""
AGAIN = 40
"""The next measurement begins after this many times the duration of the last one."""
WORTH = 5
"""A loop is measured when at least this many times the steps of a measurement are left."""
SLOW = 2.0
"""Multiple of the measured time per step above which a step of several threads counts as slow."""
SLOW_STEPS = 2
"""Slow steps in a row after which the next measurement need not wait for its time."""
PATIENCE = 4
"""Even then it waits for this many times the duration of the last measurement."""


@dataclass
class Scope:
    """The work of a step of a run around its loops, which begin with what was chosen last."""

    numbers: tuple[int, ...]
    """The numbers to choose from, as they were before the first choice."""
    number: int
    """The number of threads chosen last."""
    due: float
    """Time before which that choice is good enough, on the monotonic clock."""


_scopes: list[Scope] = []  # those that are open, the innermost last


def candidates(cores: int) -> tuple[int, ...]:
    """The numbers of threads to choose from: powers of 2 below torch's own number, and that.

    Ascending, since one thread is never slow by far, but several that share cores with other
    programs are. cores: those that this process may use. Only torch's present number where the
    user has set one, by `VARIABLES` or by `torch.set_num_threads`.
    """
    if _scopes:
        return _scopes[-1].numbers
    usual = torch.get_num_threads()
    if any(name in os.environ for name in VARIABLES) or usual not in (cores, physical(cores)):
        return (usual,)
    powers = [2**k for k in range(usual.bit_length()) if 2**k < usual]
    return (*powers, usual)


def physical(cores: int, topology: Path = TOPOLOGY) -> int:
    """Processor cores without hyper-threads, of those that this process may use.

    `cores` itself where the system does not tell.
    """
    able = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    files = [topology / f"cpu{cpu}/topology/thread_siblings_list" for cpu in able]
    try:
        return len({file.read_text(encoding="utf-8") for file in files}) or cores
    except OSError:
        return cores


def measured(
    numbers: tuple[int, ...], step: Callable[[], object]
) -> Generator[None, None, dict[int, float]]:
    """The median seconds of `step` per number of threads; yields after every step.

    The numbers take turns, so that a load that comes or goes meets all of them. It ends early when
    all numbers but one are hopeless.
    """
    times: dict[int, list[float]] = {number: [] for number in numbers}
    for turn, hopeless in enumerate(HOPELESS):
        if turn and len(times) == 1:
            break
        for number in times:
            torch.set_num_threads(number)
            began = time.perf_counter()
            step()
            times[number].append(time.perf_counter() - began)
            yield
        least = min(min(t) for t in times.values())
        times = {n: t for n, t in times.items() if min(t) < hopeless * least}
    return {number: statistics.median(t[1:] or t) for number, t in times.items()}


def better(medians: Mapping[int, float], present: int) -> int:
    """The fastest number, or the present one where that is nearly as fast."""
    best = min(medians, key=lambda number: medians[number])
    return best if medians[best] < AHEAD * medians.get(present, math.inf) else present


@contextmanager
def restored() -> Iterator[None]:
    """torch has its number of threads again when this ends."""
    usual = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(usual)


@contextmanager
def scope(choice: "Choice") -> Iterator[None]:
    """Torch computes with the choice, and loops begin with it, until this ends."""
    _scopes.append(Scope(choice.numbers, choice.at(0), choice.due))
    try:
        with restored():
            choice.apply(0)
            yield
    finally:
        _scopes.pop()


@dataclass
class Choice:
    """The number of threads of one loop, over its steps."""

    numbers: tuple[int, ...]
    """As `candidates` gives them."""
    notes: dict[int, int]
    """Steps done -> number of threads from then on, as chosen so far; those of an interrupted loop
    are repeated."""
    keep: Callable[[dict[int, int]], None]
    """Called with all notes, before the first step of a new choice."""
    due: float = 0.0
    """Time of the next measurement, on the monotonic clock."""
    expected: float = math.inf
    """Seconds per step of the chosen number, by the last measurement."""
    patience: float = 0.0
    """Time of the next measurement after slow steps, on the monotonic clock."""
    began: float = 0.0
    """Time at which the present step began."""
    slow: int = 0
    """Slow steps in a row."""

    @property
    def open(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.numbers) > 1

    def at(self, done: int) -> int:
        """The number of threads of the step after `done` steps."""
        past = [step for step in self.notes if step <= done]
        number = self.notes[max(past)] if past else min(self.numbers)
        return min(number, max(self.numbers))

    def start(self) -> None:
        """Begin a loop with what was chosen last in the scope, or with the fewest threads."""
        if self.open and _scopes:
            self.due = _scopes[-1].due
        if self.open and not self.notes:
            self.notes[0] = _scopes[-1].number if _scopes else self.at(0)
            self.keep(self.notes)

    def apply(self, done: int) -> None:
        """Let torch compute the step after `done` steps with its number of threads."""
        if self.open:
            torch.set_num_threads(self.at(done))
        self.began = time.perf_counter()

    def watch(self, done: int) -> None:
        """Look at the time of the step before `done`: after slow ones a measurement is due."""
        seconds = time.perf_counter() - self.began
        several = self.at(done - 1) > min(self.numbers)
        self.slow = self.slow + 1 if several and seconds > SLOW * self.expected else 0
        if self.slow >= SLOW_STEPS:
            self.due = min(self.due, self.patience)

    def wanted(self, done: int, left: int) -> bool:
        """Whether it is time to measure, after `done` steps, with `left` steps to go."""
        worth = left >= WORTH * TURNS * len(self.numbers)
        new = done > max(self.notes, default=-1)
        return self.open and new and worth and time.monotonic() >= self.due

    def measure(self, done: int, step: Callable[[], object]) -> Iterator[None]:
        """Choose for the steps after `done` by timing `step`; yields after each time."""
        began = time.monotonic()
        try:
            medians = yield from measured(self.numbers, step)
            chosen = better(medians, self.at(done))
            if not self.notes or chosen != self.at(done):
                self.notes[done] = chosen
                self.keep(self.notes)
        finally:
            self.apply(done)
        now = time.monotonic()
        self.due, self.patience = (now + times * (now - began) for times in (AGAIN, PATIENCE))
        self.expected, self.slow = medians.get(chosen, math.inf), 0
        if _scopes:
            _scopes[-1].number, _scopes[-1].due = chosen, self.due
