"""Checks of this machine: can it do what quantnas offers?

Nothing heavy is imported before the packages have been checked, since one may be missing.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from quantnas.diagnostics import findings, packages
from quantnas.diagnostics.findings import VERDICTS, Check
from quantnas.runs.watcher import SILENT, Watcher, follow

__all__ = ["Check", "MachineReport", "check_machine"]


@dataclass(frozen=True)
class MachineReport:
    """What was found out about this machine."""

    checks: list[Check]
    facts: Mapping[str, Any]
    """What was read: `environment`, `packages` and, where those suffice, `read`."""

    @property
    def summary(self) -> str:
        """The number of notes and problems, in a line."""
        return findings.summary(self.checks)

    @property
    def usable(self) -> bool:
        """Whether `quantnas run` works here."""
        return not findings.fatal(self.checks)

    @property
    def groups(self) -> dict[str, list[Check]]:
        """Verdict -> the checks that came to it, for the verdicts that occur."""
        groups = {v: [check for check in self.checks if check.verdict == v] for v in VERDICTS}
        return {verdict: checks for verdict, checks in groups.items() if checks}


def check_machine(
    output: str | PathLike[str] = "runs", *, watch: Watcher = SILENT
) -> MachineReport:
    """Check packages, processor, memory, disk and GPU, and try the export of every form of file.

    output: the folder in which run folders shall be made. The further checks are left out where a
    package is missing without which nothing works.
    """
    found, checks = packages.examine()
    facts: dict[str, Any] = {}
    with suppress(ImportError):  # a package may be missing: `checks` say so
        from quantnas.runs import environment

        facts["environment"] = environment.environment()
    facts["packages"] = found
    if not findings.fatal(checks):
        from quantnas.diagnostics.machine_check import examine

        facts["read"], more = follow(examine(Path(output)), watch)
        checks = [*checks, *more]
    return MachineReport(checks, facts)
