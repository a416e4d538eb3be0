"""Errors that a user can act on: one sentence of cause, one of remedy, one exit code.

Anything else that is raised is a defect of the program and ends with exit code 1.
"""

from pathlib import Path
from typing import ClassVar


class QuantnasError(Exception):
    """Base of the expected errors; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause} {remedy}")
        self.cause = cause
        self.remedy = remedy


class UsageError(QuantnasError):
    """A wrong option, configuration or search space."""

    exit_code = 2


class DataError(QuantnasError):
    """A file or folder that is missing, unreadable or not what it should be."""

    exit_code = 3


class VerificationError(QuantnasError):
    """An exported file that does not compute what the network computes."""

    exit_code = 4


class QualityError(QuantnasError):
    """A result that is worse than was allowed; its files are kept."""

    exit_code = 5
    folder: Path | None = None
    """The run folder with these files, where there is one."""


class DivergedError(QuantnasError):
    """A loss that is no number any more; the last state in which it was one is kept."""

    exit_code = 6


class LostError(QuantnasError):
    """Another process of the same work has ended before its time; a saved state is intact."""
