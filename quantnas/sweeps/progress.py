"""How far the points of a sweep are, and how long the rest of them will take."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

SHARES = {
    "search": 0.3, "train": 0.5, "quantize": 0.07, "export": 0.03, "evaluate": 0.06, "report": 0.04
}  # fmt: skip
"""Of the time of a point, until some have been measured."""
PHASES = {
    "photographs": (0.0, 0.0), "photographs left out": (0.0, 0.0), "resuming": (0.0, 0.0),
    "float": (0.0, 0.7), "rounded": (0.7, 0.3),
    "saliency": (0.0, 0.1), "least squares": (0.1, 0.2), "blocks": (0.3, 0.0),
    "quantize": (0.3, 0.7),
}  # fmt: skip
"""Where in its step a phase begins, and its part of it; others are all of a step."""
State = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Standing:
    """Where a point is."""

    name: str
    state: State
    share: float
    """Of its own work that is done."""
    told: Mapping[str, Any]
    """Of a running one: step, phase, done, total, facts, seconds."""
    cause: str | None = None
    """Of a failed one."""
    remedy: str | None = None


@dataclass(frozen=True)
class Overview:
    """Where a sweep is."""

    points: tuple[Standing, ...]
    share: float
    """Of all work that is done."""
    left: float | None
    """Seconds; none while unknown."""

    def count(self, state: State) -> int:
        return sum(each.state == state for each in self.points)


def measured(told: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Step -> seconds that it takes, measured where a point has done it."""
    found: dict[str, list[float]] = {}
    for row in told:
        for step, spent in row.get("seconds", {}).items():
            if step != row["step"] or "phase" not in row:  # else it is not finished
                found.setdefault(step, []).append(spent)
    known = {step: mean(each) for step, each in found.items()}
    unit = sum(known.values()) / sum(SHARES[step] for step in known) if known else 1.0
    return {step: max(known.get(step, share * unit), 1e-3) for step, share in SHARES.items()}


def within(told: Mapping[str, Any]) -> float:
    """The share of a running step that is done, as far as its phase tells; 0 before that."""
    if not told.get("total"):
        return 0.0
    begins, part = PHASES.get(told["phase"], (0.0, 1.0))
    return begins + part * float(told["done"]) / float(told["total"])


class TimeEstimate:
    """How long the rest will take, from what was done since this process began."""

    def __init__(self) -> None:
        self.began, self.first = time.monotonic(), -1.0

    def left(self, done: float, work: float) -> float | None:
        """Seconds, where `work` is all there is to do."""
        if self.first < 0:
            self.first = done / work if work else 0.0
        share = done / work - self.first if work else 0.0
        spent = time.monotonic() - self.began
        return spent * (1 - done / work) / share if share > 1e-3 and spent > 1 else None
