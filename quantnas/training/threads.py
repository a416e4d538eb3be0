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
"""Folder in which Linux describes the processor's cores."""
TURNS = 4
"""Timed steps per number of threads; the first one is a warm-up."""
AHEAD = 0.9
"""Another number of threads is chosen when its step takes less than this share of the current
number's time."""
HOPELESS = (4.0, *[2.0] * (TURNS - 1))
"""A number of threads is not timed any further when its best step takes more than this multiple of
the least time per step, turn by turn."""
AGAIN = 40
"""The next measurement begins after this many times the duration of the last one."""
WORTH = 5
"""A loop is measured when at least this many times the steps of a measurement are left."""
SLOW = 2.0
"""Multiple of the measured time per step above which a step of several threads counts as slow."""
SLOW_STEPS = 2
"""Slow steps in a row after which the next measurement need not wait for its time."""
PATIENCE = 4
"""The next measurement after slow steps begins no sooner than this many times the duration of the
last one."""


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
    """The numbers of threads to choose from: the powers of 2 below torch's own number, then that.

    They ascend, since one thread is never slow by far, but several that share cores with other
    programs are. cores: number of processor cores that this process may use. Where the user has
    set the number of threads, by `VARIABLES` or `torch.set_num_threads`, there is only that number.
    """
    if _scopes:
        return _scopes[-1].numbers
    usual = torch.get_num_threads()
    if any(name in os.environ for name in VARIABLES) or usual not in (cores, physical(cores)):
        return (usual,)
    powers = [2**k for k in range(usual.bit_length()) if 2**k < usual]
    return (*powers, usual)


def physical(cores: int, topology: Path = TOPOLOGY) -> int:
    """Number of physical processor cores (hyper-threads not counted) that this process may use.

    `cores` itself is returned where the system does not say.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    files = [topology / f"cpu{cpu}/topology/thread_siblings_list" for cpu in usable]
    try:
        return len({file.read_text(encoding="utf-8") for file in files}) or cores
    except OSError:
        return cores


def measured(
    numbers: tuple[int, ...], step: Callable[[], object]
) -> Generator[None, None, dict[int, float]]:
    """Time `step` with each number of threads; return the median seconds, yield after each step.

    The numbers take turns, so that a changing load on the machine affects all of them. The timing
    ends early when all numbers but one are hopeless.
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


def better(medians: Mapping[int, float], current: int) -> int:
    """The fastest number of threads, or the current one where that is nearly as fast."""
    best = min(medians, key=lambda number: medians[number])
    return best if medians[best] < AHEAD * medians.get(current, math.inf) else current


@contextmanager
def restored() -> Iterator[None]:
    """Restore torch's number of threads when this context ends."""
    usual = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(usual)


@contextmanager
def scope(choice: "Choice") -> Iterator[None]:
    """Within this context torch computes with the chosen number, and loops begin with it."""
    _scopes.append(Scope(choice.numbers, choice.at(0), choice.due))
    try:
        with restored():
            choice.apply(0)
            yield
    finally:
        _scopes.pop()


@dataclass
class Choice:
    """The number of threads that one loop computes with, step by step."""

    numbers: tuple[int, ...]
    """Numbers of threads to choose from (`candidates`)."""
    notes: dict[int, int]
    """Steps done -> number of threads from then on; a resumed loop repeats the choices noted
    before its interruption."""
    keep: Callable[[dict[int, int]], None]
    """Function that stores all notes, called before the first step under a new choice."""
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
        """Whether there is more than one number to choose from."""
        return len(self.numbers) > 1

    def at(self, done: int) -> int:
        """The number of threads for the step that follows `done` steps."""
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
        """Set torch's number of threads for the step that follows `done` steps."""
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

    def is_due(self, done: int, left: int) -> bool:
        """Whether a measurement is due after `done` steps, with `left` steps to go."""
        worth = left >= WORTH * TURNS * len(self.numbers)
        new = done > max(self.notes, default=-1)
        return self.open and new and worth and time.monotonic() >= self.due

    def measure(self, done: int, step: Callable[[], object]) -> Iterator[None]:
        """Choose the number of threads after `done` steps by timing `step`; yields after each."""
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
