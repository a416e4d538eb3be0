"""Progress of a sweep: how far all points are, what the running ones do, what has ended."""

import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import console

if TYPE_CHECKING:
    from quantnas.sweeps.progress import Overview, Standing

LINE_EVERY = 30.0
"""Seconds between two lines about all points when the output is not a terminal."""
Draw = Callable[["Overview"], None]


def follow(progress: "Iterator[Overview]", folder: Path, again: str) -> "Overview":
    """Show a sweep on standard error until it ends; where it is then.

    Raises console.Interrupted after Ctrl-C, with all states saved; `again` goes on from them.
    """
    show = _live if sys.stderr.isatty() else _lines
    last: Overview | None = None
    over: set[str] | None = None
    with console.gentle_interrupt() as asked, show() as draw:
        for last in progress:
            if over is None:  # those of an earlier time are not told again
                over = {point.name for point in last.points if point.state == "done"}
            for point in last.points:
                if point.state in ("done", "failed") and point.name not in over:
                    _tell(point, folder)
                    over.add(point.name)
            draw(last)
            if asked:
                cast("Generator[Overview, None, Any]", progress).close()
                raise console.Interrupted(again)
    assert last is not None
    return last


def _tell(point: "Standing", folder: Path) -> None:
    """A line that stays, about a point that has ended."""
    line = f"{point.name}: failed: {point.cause}"
    if point.state == "done":
        spent = sum(point.told.get("seconds", {}).values())
        line = f"{point.name}: done in {console.duration(spent)}"
    console.say(line, progress=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def summary(overview: "Overview") -> str:
    """All points in one line."""
    words = f"{overview.count('done')}/{len(overview.points)} points"
    failed = overview.count("failed")
    words += f", {failed} failed" if failed else ""
    words += f"  {overview.share:.0%}"
    return words if overview.left is None else f"{words}  left {console.duration(overview.left)}"


def doing(point: "Standing") -> str:
    """What a running point does, with the figures worth showing."""
    told = point.told
    if "phase" not in told:
        return "starting"
    facts = list(told["facts"].items())[:3]
    return "  ".join([f"{told['phase']} {told['done']}/{told['total']}", *map(" ".join, facts)])


@contextmanager
def _lines() -> Iterator[Draw]:
    """A line now and then, for files and pipes."""
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
    """A bar for all, and a row for each running point."""
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
                table.add_row(point.name, bar, Text(doing(point), style="dim"))
        whole = ProgressBar(total=1.0, completed=overview.share)
        parts[:] = [table, whole, Text(summary(overview), style="bold")]

    with Live(get_renderable=lambda: Group(*parts), console=Console(stderr=True),
              refresh_per_second=4):  # fmt: skip
        yield draw
