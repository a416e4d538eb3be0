"""The interface by which a caller follows a sweep; it loads nothing heavy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantnas.sweeps.plan import Point
    from quantnas.sweeps.progress import Overview


class SweepWatcher:
    """Is told of what happens in a sweep. A subclass overrides the methods that it needs.

    A method may raise: the points then save their states and stop, and the exception reaches the
    caller. `quantnas.resume_sweep` goes on from those states.
    """

    def plan(self, points: Sequence["Point"]) -> None:
        """The points are known, and their settings are about to be checked."""

    def begin(self, folder: Path) -> None:
        """The folder of the sweep is there, and its first points are about to begin."""

    def __call__(self, overview: "Overview") -> None:
        """The points have got further."""

    def end(self) -> None:
        """The points have ended or were stopped; the tables are about to be written."""


SILENT = SweepWatcher()
"""A watcher that tells nobody and never stops anything."""
