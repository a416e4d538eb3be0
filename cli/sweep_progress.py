"""Progress of a sweep: how far all points are, what the running ones do, what has ended."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantnas.api.sweep_watcher import SweepWatcher

from . import console, interrupts

if TYPE_CHECKING:
    from quantnas.api.sweeps import Overview, Point, Standing

LINE_EVERY = 30.0
"""Seconds between two lines about all points when the output is not a terminal."""
Draw = Callable[["Overview"], None]


class SweepDisplay(SweepWatcher):
    """Shows a sweep on standard error, and stops it after Ctrl-C.

    Raises console.Interrupted in the first overview after Ctrl-C.
    """

    def __init__(self, options: str) -> None:
        """options: how the points are computed, as typed, for the command that goes on."""
        interrupts.raise_again()
        self.options, self.again = options, ""
        self.folder = Path()
        self._shown = ExitStack()
        self._interrupts: list[int] = []
        self._draw: Draw | None = None
        self._ended: set[str] | None = None

    def plan(self, points: "Sequence[Point]") -> None:
        console.say(f"{len(points)} points; checking their settings", progress=True)

    def begin(self, folder: Path) -> None:
        self.folder = folder
        self.again = f"quantnas sweep --resume {shlex.quote(str(folder))}{self.options}"
        console.say(f"sweep folder: {folder}", progress=True)
        self._interrupts = self._shown.enter_context(console.gentle_interrupt())
        self._draw = self._shown.enter_context(_live() if sys.stderr.isatty() else _lines())

    def __call__(self, overview: "Overview") -> None:
        if self._ended is None:  # points that ended before this process began are not told again
            self._ended = {point.name for point in overview.points if point.state == "done"}
        for point in overview.points:
            if point.state in ("done", "failed") and point.name not in self._ended:
                self._tell(point)
                self._ended.add(point.name)
        assert self._draw is not None
        self._draw(overview)
        if self._interrupts:
            raise console.Interrupted(self.again)

    def end(self) -> None:
        self._shown.close()

    def _tell(self, point: "Standing") -> None:
        """Print a line about a point that has ended, and keep it in the sweep's log."""
        line = f"{point.name}: failed: {point.cause}"
        if point.state == "done":
            spent = sum(point.told.get("seconds", {}).values())
            line = f"{point.name}: done in {console.duration(spent)}"
        console.say(line, progress=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def summary(overview: "Overview") -> str:
    """All points in one line."""
    words = f"{overview.count('done')}/{len(overview.points)} points"
    failed = overview.count("failed")
    words += f", {failed} failed" if failed else ""
    words += f"  {overview.share:.0%}"
    return words if overview.left is None else f"{words}  left {console.duration(overview.left)}"


def activity(point: "Standing") -> str:
    """What a running point does, with its first figures."""
    told = point.told
    if "phase" not in told:
        return "starting"
    facts = list(told["facts"].items())[:3]
    return "  ".join([f"{told['phase']} {told['done']}/{told['total']}", *map(" ".join, facts)])


@contextmanager
def _lines() -> Iterator[Draw]:
    """Print a line now and then, for files and pipes."""
    printed = time.monotonic()

    def draw(overview: "Overview") -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed > LINE_EVERY:
            printed = now
            running = [point for point in overview.points if point.state == "running"]
            parts = [f"{point.name} {point.told.get('step', 'starting')}" for point in running]
            console.say("  ".join([summary(overview), *parts]), progress=True)

    yield draw


@contextmanager
def _live() -> Iterator[Draw]:
    """Draw a bar for all points together, and a row for each running one."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text("starting")]

    def draw(overview: "Overview") -> None:
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(width=20)
        table.add_column(overflow="ellipsis", no_wrap=True)
        for point in overview.points:
            if point.state == "running":
                bar = ProgressBar(total=1.0, completed=point.share, width=20)
                table.add_row(point.name, bar, Text(activity(point), style="dim"))
        whole = ProgressBar(total=1.0, completed=overview.share)
        parts[:] = [table, whole, Text(summary(overview), style="bold")]

    with Live(get_renderable=lambda: Group(*parts), console=Console(stderr=True),
              refresh_per_second=4):  # fmt: skip
        yield draw
