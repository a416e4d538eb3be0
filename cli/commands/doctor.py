"""`quantnas doctor`: whether this machine can do what is offered, and what to do where not."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantnas.errors import DataError

from .. import console, options

if TYPE_CHECKING:
    from quantnas.diagnostics.findings import Check

WIDTH = 80
"""Columns of the output."""
TOPICS = 18
"""Columns of the topics."""


def doctor(
    output: Annotated[
        Path, typer.Option(help="Where run folders shall be made: is there room?")
    ] = options.ROOT,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check this machine: packages, processor, memory, disk, GPU, and every form of file.

    Example: quantnas doctor

    A small network is exported in every form, run in the installed ONNX Runtime and compared with
    torch. Everything that is not ok comes with its cause and what helps. Exit code 3 when
    `quantnas run` cannot work here, else 0, whatever else is wrong.
    """
    from quantnas.config import files
    from quantnas.diagnostics import findings
    from quantnas.diagnostics.packages import examine as examine_packages
    from quantnas.runs import environment

    packages, found = examine_packages()
    facts: dict[str, Any] = {"environment": environment.environment(), "packages": packages}
    if not findings.fatal(found):
        from quantnas.diagnostics.machine_check import examine

        read, more = console.follow(examine(output), None)
        facts, found = facts | {"read": read}, [*found, *more]
    summary = findings.summary(found)
    if json:
        typer.echo(files.to_json({"summary": summary, "checks": found, **facts}), nl=False)
    else:
        for line in [*_lines(found), "", summary]:
            typer.echo(line)
    if findings.fatal(found):
        raise typer.Exit(DataError.exit_code)


def _lines(found: "Sequence[Check]") -> Iterator[str]:
    """All checks, grouped by what came out."""
    from quantnas.diagnostics.findings import VERDICTS

    groups = {verdict: [c for c in found if c.verdict == verdict] for verdict in VERDICTS}
    for number, (verdict, group) in enumerate((v, g) for v, g in groups.items() if g):
        yield from [""] * bool(number)
        yield verdict
        for check in group:
            yield from _check(check)


def _check(check: "Check") -> Iterator[str]:
    """The topic, beside it the finding and the remedy."""
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
