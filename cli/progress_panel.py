"""Progress on a terminal: a bar per phase, and below them the figures of the running one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .speed import Pace

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from quantnas.progress import Progress

Draw = Callable[["Progress", Pace], None]
"""A function that shows a record of a phase, and its pace."""
WIDE = 100
"""Columns of a terminal from which on three figures are shown in a row instead of two."""


@contextmanager
def bars(console: "Console | None" = None) -> Iterator[Draw]:
    """Draw on standard error until the block ends; the last drawing stays."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    shown, tasks = Bars(*columns, expand=True, console=console, auto_refresh=False), {}
    below: list[RenderableType] = []

    def draw(record: "Progress", pace: Pace) -> None:
        if record.phase not in tasks:
            tasks[record.phase] = shown.add_task(
                record.phase, total=record.total, completed=record.done
            )
        shown.update(tasks[record.phase], completed=record.done)
        if record.facts:
            below[:] = [figures(record, pace, console.width)]

    with Live(get_renderable=lambda: Group(shown, *below), console=console, refresh_per_second=4):
        yield draw


def figures(record: "Progress", pace: Pace, width: int) -> Any:
    """A small table of the facts and the speed, with several (label, value) in a row."""
    from rich import box
    from rich.panel import Panel
    from rich.table import Table

    facts = [*record.facts.items(), ("steps/s", pace.speed())]
    abreast = 3 if width >= WIDE else 2
    rows = -(-len(facts) // abreast)
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in range(abreast):
        table.add_column(style="dim", overflow="fold")
        table.add_column(style="bold", justify="right", overflow="fold", ratio=1)
        table.add_column(width=1)
    for row in range(rows):
        cells = [(*facts[i], "") for i in range(row, len(facts), rows)]
        table.add_row(*(part for cell in cells for part in cell))
    return Panel(table, title=record.phase, title_align="left", box=box.ROUNDED, border_style="dim")
