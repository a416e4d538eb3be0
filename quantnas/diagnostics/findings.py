"""The checks of a machine, each with its verdict and remedy."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Verdict = Literal["ok", "note", "problem"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    topic: str
    verdict: Verdict
    """ok; note: worth knowing; problem: a function does not work here, or works badly."""
    finding: str
    """The finding, as a sentence."""
    remedy: str = ""
    """The remedy, as a sentence; empty where the verdict is ok."""
    fatal: bool = False
    """Whether `quantnas run`, from photographs to a verified file, cannot work."""


def summary(checks: Iterable[Check]) -> str:
    """A line that counts the verdicts."""
    checks = list(checks)
    counts = {v: sum(c.verdict == v for c in checks) for v in ("problem", "note")}
    parts = [f"{n} {v}{'s' if n > 1 else ''}" for v, n in counts.items() if n]
    line = ", ".join(parts) or "all is well"
    return f"{line}; `quantnas run` cannot work here" if fatal(checks) else line


def fatal(checks: Iterable[Check]) -> bool:
    """Whether a check found that `quantnas run` cannot work."""
    return any(check.fatal for check in checks)
