"""The progress record that every long computation yields after each of its steps."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far one phase of a computation has come, with the figures to show beside it."""

    phase: str
    done: int
    """Steps done so far."""
    total: int
    """Steps of the whole phase."""
    facts: Mapping[str, str]
    """Label -> current figure, for example the loss."""
    notes: tuple[str, ...] = ()
    """Lines for the log, which stay visible after the phase."""
