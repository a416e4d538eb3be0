"""What a person sees: progress with time left, tables of results, errors."""

import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from quantnas.config import RunConfig
from quantnas.errors import QuantnasError

if TYPE_CHECKING:
    from quantnas.phases import Progress
    from quantnas.runs import Run

RESUMABLE = ("run", "search", "train", "quantize")
LINE_EVERY = 10.0
"""Seconds between two lines of a phase when the output is not a terminal."""


class Interrupted(Exception):
    """The user asked to stop; `command` goes on from the saved state, where there is one."""

    def __init__(self, command: str | None) -> None:
        super().__init__(command)
        self.command = command


def perform(run: "Run", config: RunConfig, steps: list[str], verb: str) -> None:
    """Do the steps that this run has not finished, showing their progress.

    Raises Interrupted after Ctrl-C, with the state saved.
    """
    from quantnas import pipeline

    say(f"run folder: {run.folder}", run, progress=True)
    for step in steps:
        if run.result(step) is not None:
            say(f"{step}: finished before", run, progress=True)
            continue
        started = time.monotonic()
        resume = f"quantnas {verb} --resume {run.folder}" if verb in RESUMABLE else None
        follow(pipeline.STEPS[step](run, config), resume, run)
        say(f"{step}: done in {duration(time.monotonic() - started)}", run, progress=True)


def say(line: str, run: "Run | None" = None, progress: bool = False) -> None:
    """Print a line, progress on standard error; into the run's log too."""
    typer.echo(line, err=progress)
    if run is not None:
        run.log(line)


def duration(seconds: float) -> str:
    """90 -> 1 min 30 s"""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def follow(progress: "Iterator[Progress]", resume: str | None, run: "Run | None" = None) -> Any:
    """Show a generator's progress on standard error until it ends; its result.

    `resume` is the command that goes on from what closing the generator saves, if it does.
    """
    show = _bars if sys.stderr.isatty() else _lines
    with _gentle_interrupt() as asked, show(run) as draw:
        while True:
            try:
                record = next(progress)
            except StopIteration as end:
                return end.value
            draw(record)
            if asked:
                cast("Generator[Progress, None, Any]", progress).close()
                raise Interrupted(resume)


@contextmanager
def _gentle_interrupt() -> Iterator[list[int]]:
    """Collect the first Ctrl-C instead of raising; a second one raises as usual."""
    asked: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bars(run: "Run | None") -> Iterator[Any]:
    """Bars with the time left, for a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn(  # what gives way on a narrow terminal
            "{task.fields[facts]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
    )
    tasks: dict[str, Any] = {}
    with Bars(*columns, expand=True, console=Console(stderr=True)) as bars:

        def draw(record: "Progress") -> None:
            facts = "  ".join(f"{k} {v}" for k, v in record.facts.items())
            if record.phase not in tasks:
                tasks[record.phase] = bars.add_task(record.phase, total=record.total, facts=facts)
            bars.update(tasks[record.phase], completed=record.done, facts=facts)
            if run is not None and record.done == record.total:
                run.log(_line(record, None))

        yield draw


@contextmanager
def _lines(run: "Run | None") -> Iterator[Any]:
    """A line now and then, for files and pipes."""
    state: dict[str, Any] = {"phase": None}

    def draw(record: "Progress") -> None:
        now = time.monotonic()
        if state["phase"] != record.phase:
            state.update(phase=record.phase, start=now, first=record.done, printed=now)
        due = now - state["printed"] > LINE_EVERY
        if record.done == record.total or due:
            state["printed"] = now
            worked = record.done - state["first"]
            left = (record.total - record.done) * (now - state["start"]) / max(1, worked)
            say(_line(record, left if record.done < record.total else None), run, progress=True)

    yield draw


def _line(record: "Progress", left: float | None) -> str:
    facts = "  ".join(f"{key} {value}" for key, value in record.facts.items())
    end = "" if left is None else f"  left {duration(left)}"
    return f"{record.phase:<12} {record.done}/{record.total}  {facts}{end}"


def failed(error: QuantnasError) -> None:
    """One sentence of cause, one of remedy, on standard error."""
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(error.cause, err=True)
    typer.echo(f"       {error.remedy}", err=True)


def scores(result: dict[str, Any]) -> Iterator[str]:
    """One line per evaluated set."""
    for name, group in result["sets"].items():
        mean, base = group["mean"], group.get("float_mean")
        middle = f"float network {base['psnr']:.2f}, " if base else ""
        yield (
            f"{name} ({len(group['file'])} photographs, x{result['scale']}): "
            f"bicubic {mean['bicubic_psnr']:.2f} dB, {middle}file {mean['psnr']:.2f} dB "
            f"({mean['psnr'] - mean['bicubic_psnr']:+.2f}), "
            f"SSIM {mean['bicubic_ssim']:.4f} -> {mean['ssim']:.4f}"
        )
        if mean["psnr"] < mean["bicubic_psnr"]:
            yield f"warning: worse than bicubic on {name}; train longer, or use more bits"


def export_line(result: dict[str, Any]) -> str:
    """What the exported file is, in one line."""
    cost, found = result["cost"], result["verification"]
    where, bitops = next(iter(cost["bitops"].items()))
    return (
        f"{result['file']}: {result['bytes']:,} bytes, {cost['parameters']:,} parameters, "
        f"{bitops / 1e9:.2f} GBitOps at {where}; {found['integer_convolutions']} of "
        f"{found['convolutions']} convolutions in integers, at most {found['max_steps']} of 255 "
        "steps from torch"
    )


def next_commands(*commands: str) -> None:
    """What to type next."""
    typer.echo("next:")
    for command in commands:
        typer.echo(f"  quantnas {command}")


def refuse_existing(path: Path, force: bool) -> None:
    """Raise UsageError when a file would be overwritten."""
    from quantnas.errors import UsageError

    if path.exists() and not force:
        raise UsageError(f"{path} exists already.", "Choose another -o, or add --force.")
