"""The speed of a phase, and the time that it will still take."""

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantnas.progress import Progress

WINDOW = 30.0
"""Seconds over which the speed is measured."""


class Pace:
    """The speed of the phase that is running."""

    def __init__(self) -> None:
        self.phase: str | None = None
        self.seen: deque[tuple[float, int]] = deque()
        self.left_to_do = 0

    def update(self, record: "Progress") -> None:
        """Take note of how far the phase is now."""
        now = time.monotonic()
        if record.phase != self.phase:
            self.phase = record.phase
            self.seen.clear()
        self.seen.append((now, record.done))
        self.left_to_do = record.total - record.done
        while len(self.seen) > 2 and now - self.seen[0][0] > WINDOW:
            self.seen.popleft()

    @property
    def rate(self) -> float | None:
        """Steps per second; none before the second step."""
        (start, first), (now, last) = self.seen[0], self.seen[-1]
        return (last - first) / (now - start) if now > start and last > first else None

    @property
    def left(self) -> float | None:
        """Seconds until the phase ends; none before its second step and at its end."""
        return self.left_to_do / self.rate if self.rate and self.left_to_do else None

    def speed(self) -> str:
        """Steps per second as text; - while they are unknown."""
        if self.rate is None:
            return "-"
        return f"{self.rate:.2f}" if self.rate < 10 else f"{self.rate:.0f}"
