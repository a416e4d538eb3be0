"""`quantnas doctor`: whether this machine can do what quantnas offers, and what helps if not."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantnas.errors import DataError

from .. import console, options

if TYPE_CHECKING:
    from quantnas.api.machine import Check, MachineReport

WIDTH = 80
"""Columns of the output."""
TOPICS = 18
"""Columns for the topic of a check."""


def doctor(
    output: Annotated[
        Path,
        typer.Option(help="Folder in which run folders shall be made; its free space is checked."),
    ] = options.ROOT,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check this machine: packages, processor, memory, disk, GPU, and every form of file.

    Example: quantnas doctor

    A small network is exported in every form, run in the installed ONNX Runtime and compared with
    torch. Every note and problem comes with its cause and a remedy. The exit code is 3 when
    `quantnas run` cannot work here, and otherwise 0, whatever else is wrong.
    """
    from quantnas.api import machine
    from quantnas.config import files

    with console.Display() as watch:
        found = machine.check_machine(output, watch=watch)
    if json:
        facts = {"summary": found.summary, "checks": found.checks, **found.facts}
        typer.echo(files.to_json(facts), nl=False)
    else:
        for line in [*_lines(found), "", found.summary]:
            typer.echo(line)
    if not found.usable:
        raise typer.Exit(DataError.exit_code)


def _lines(found: "MachineReport") -> Iterator[str]:
    """All checks, grouped by their verdict."""
    for number, (verdict, group) in enumerate(found.groups.items()):
        yield from [""] * bool(number)
        yield verdict
        for check in group:
            yield from _check(check)


def _check(check: "Check") -> Iterator[str]:
    """The topic of a check, with the finding and the remedy beside it."""
    inside = " " * (TOPICS + 4)
    head = f"  {check.topic:<{TOPICS}}  "
    for text in filter(None, (check.finding, check.remedy)):
        yield from textwrap.wrap(
            text,
            WIDTH,
            initial_indent=head,
            subsequent_indent=inside,
            break_on_hyphens=False,
            break_long_words=False,
        )
        head = inside
