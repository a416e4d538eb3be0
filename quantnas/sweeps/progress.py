"""The progress of the points of a sweep, and an estimate of the remaining time."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

SHARES = {
    "search": 0.3, "train": 0.5, "quantize": 0.07, "export": 0.03, "evaluate": 0.06, "report": 0.04
}  # fmt: skip
"""Assumed shares of the steps in the time of a point, until some have been measured."""
PHASES = {
    "photographs": (0.0, 0.0), "photographs left out": (0.0, 0.0), "resuming": (0.0, 0.0),
    "float": (0.0, 0.7), "rounded": (0.7, 0.3),
    "saliency": (0.0, 0.1), "least squares": (0.1, 0.2), "blocks": (0.3, 0.0),
    "quantize": (0.3, 0.7),
}  # fmt: skip
"""Phase -> (its beginning, its length) as shares of its step; others take the whole step."""
State = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Standing:
    """The state and progress of a point."""

    name: str
    state: State
    share: float
    """Share of its own work that is done, 0 to 1."""
    told: Mapping[str, Any]
    """Last progress record: step, phase, done, total, facts, seconds."""
    cause: str | None = None
    """Why it failed; None for other points."""
    remedy: str | None = None


@dataclass(frozen=True)
class Overview:
    """The progress of a sweep."""

    points: tuple[Standing, ...]
    share: float
    """Share of all work that is done, 0 to 1."""
    left: float | None
    """Estimated remaining time, seconds; None while unknown."""

    def count(self, state: State) -> int:
        return sum(each.state == state for each in self.points)


def measured(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Step -> estimated seconds, from points that have done it where there are any."""
    seconds: dict[str, list[float]] = {}
    for row in records:
        for step, spent in row.get("seconds", {}).items():
            if step != row["step"] or "phase" not in row:  # otherwise the step is not finished
                seconds.setdefault(step, []).append(spent)
    means = {step: mean(each) for step, each in seconds.items()}
    unit = sum(means.values()) / sum(SHARES[step] for step in means) if means else 1.0
    return {step: max(means.get(step, share * unit), 1e-3) for step, share in SHARES.items()}


def within(record: Mapping[str, Any]) -> float:
    """The share of a running step that is done, 0 to 1, estimated from its phase."""
    if not record.get("total"):
        return 0.0
    begins, part = PHASES.get(record.get("phase", ""), (0.0, 1.0))
    return begins + part * float(record.get("done", 0)) / float(record["total"])


class TimeEstimate:
    """Estimates the remaining time from the work done since this process began."""

    def __init__(self) -> None:
        self.began, self.first = time.monotonic(), -1.0

    def left(self, done: float, work: float) -> float | None:
        """The remaining seconds, `done` out of `work` being done; None while unknown."""
        if self.first < 0:
            self.first = done / work if work else 0.0
        share = done / work - self.first if work else 0.0
        spent = time.monotonic() - self.began
        return spent * (1 - done / work) / share if share > 1e-3 and spent > 1 else None
