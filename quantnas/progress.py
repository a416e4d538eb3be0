"""The record that long work yields after every step."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a phase is, with the figures worth showing."""

    phase: str
    done: int
    total: int
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """Lines that stay."""
