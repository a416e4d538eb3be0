"""Errors that a user can act on, each with a cause, a remedy and an exit code.

Any other exception is a defect of the program and ends it with exit code 1.
"""

from os import PathLike
from pathlib import Path
from typing import ClassVar


class QuantnasError(Exception):
    """Base class of all expected errors; its message is the cause followed by the remedy."""

    exit_code: ClassVar[int] = 1
    """Exit code of the command line after this error."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause} {remedy}")
        self.cause = cause
        self.remedy = remedy


class UsageError(QuantnasError):
    """An option, a configuration or a search space is wrong."""

    exit_code = 2


class DataError(QuantnasError):
    """A file or folder is missing, unreadable or not of the expected kind."""

    exit_code = 3


class VerificationError(QuantnasError):
    """An exported file does not compute what its network computes."""

    exit_code = 4


class QualityError(QuantnasError):
    """A result is worse than the user allowed; its files are kept."""

    exit_code = 5
    folder: Path | None = None
    """Run folder that holds the files of the result; None outside of a run."""


class PredictionError(QualityError):
    """A result is far worse than predicted, so something is wrong with it; its files are kept."""


class DivergedError(QuantnasError):
    """The loss became NaN or infinite; the last state with a finite loss is kept."""

    exit_code = 6


class LostError(QuantnasError):
    """A process that shared the work ended too early; the last saved state is intact."""


def missing(path: str | PathLike[str], kind: str = "file") -> DataError:
    """The error for a path that does not exist. kind: what should be there, such as `folder`."""
    return DataError(f"The {kind} '{path}' does not exist.", f"Check the path of the {kind}.")
