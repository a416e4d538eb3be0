"""What was looked at, what came out, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Verdict = Literal["ok", "note", "problem"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    topic: str
    verdict: Verdict
    """ok; note: worth knowing; problem: something that is offered does not work, or works badly."""
    finding: str
    """One sentence."""
    remedy: str = ""
    """One sentence, of all that is not ok."""
    fatal: bool = False
    """Whether the main job, from photographs to a verified file, cannot be done."""


def summary(checks: Iterable[Check]) -> str:
    """All verdicts in a line."""
    checks = list(checks)
    counts = {v: sum(c.verdict == v for c in checks) for v in ("problem", "note")}
    told = [f"{n} {v}{'s' if n > 1 else ''}" for v, n in counts.items() if n]
    line = ", ".join(told) or "all is well"
    return f"{line}; `quantnas run` cannot work here" if fatal(checks) else line


def fatal(checks: Iterable[Check]) -> bool:
    """Whether the main job cannot be done."""
    return any(check.fatal for check in checks)
