"""The number of threads that a long loop computes with, chosen by timing and checked repeatedly.

Threads that share one operation spin while they wait for each other. On cores that other programs
use as well, that can cost several times what the second thread saves, and only the duration of a
step shows it. A result depends on the number of threads in its last bits, so every choice is noted
with the step at which it was made, and a resumed loop repeats it there.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which a user sets the number of threads."""
TOPOLOGY = Path("/sys/devices/system/cpu")
"""Folder in which Linux describes the processor's cores."""
TURNS = 6
"""Timed steps per number of threads; the first one is a warm-up."""
AHEAD = 0.9
"""Another number of threads is chosen when its step takes less than this share of the current
number's time."""
HOPELESS = (4.0, *[2.0] * (TURNS - 1))
"""A number of threads is not timed any further when its best step takes more than this multiple of
the least time per step, turn by turn."""
AGAIN = 40
"""The next measurement begins after this many times the duration of the last one."""
WORTH = 10
"""A loop is measured when at least this many times the steps of a measurement are left."""


def candidates(cores: int) -> tuple[int, ...]:
    """The numbers of threads to choose from: torch's own number, then the powers of 2 below it.

    cores: number of processor cores that this process may use. Where the user has set the number
    of threads, by `VARIABLES` or `torch.set_num_threads`, there is only that number.
    """
    usual = torch.get_num_threads()
    if any(name in os.environ for name in VARIABLES) or usual not in (cores, physical(cores)):
        return (usual,)
    powers = [2**k for k in range(usual.bit_length()) if 2**k < usual]
    return (usual, *reversed(powers))


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

    The numbers take turns, so that a changing load on the machine affects all of them.
    """
    times: dict[int, list[float]] = {number: [] for number in numbers}
    for hopeless in HOPELESS:
        for number in times:
            torch.set_num_threads(number)
            began = time.perf_counter()
            step()
            times[number].append(time.perf_counter() - began)
            yield
        least = min(min(t) for t in times.values())
        times = {n: t for n, t in times.items() if min(t) < hopeless * least}
    return {number: statistics.median(t[1:]) for number, t in times.items()}


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
    due: float = field(default=0.0)
    """Time of the next measurement, on the monotonic clock."""

    @property
    def open(self) -> bool:
        """Whether there is more than one number to choose from."""
        return len(self.numbers) > 1

    def at(self, done: int) -> int:
        """The number of threads for the step that follows `done` steps."""
        past = [step for step in self.notes if step <= done]
        number = self.notes[max(past)] if past else self.numbers[0]
        return min(number, max(self.numbers))

    def apply(self, done: int) -> None:
        """Set torch's number of threads for the step that follows `done` steps."""
        if self.open:
            torch.set_num_threads(self.at(done))

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
        self.due = now + AGAIN * (now - began)
