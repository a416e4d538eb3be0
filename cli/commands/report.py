"""`quantnas report`: the report of a run made anew, or one page of many runs."""

from pathlib import Path
from typing import Annotated

import typer

from .. import console, options


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of an exported run, of its evaluation, or of a sweep; several are shown "
            "on one page.",
            metavar="RUN|SWEEP",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="HTML file to write.",
            show_default="report.html, in the folder of a run or a sweep given alone",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write one HTML page about runs that holds everything, and a run's report.json and .md.

    Example: quantnas report runs/export/rfdn_small

    Example: quantnas report runs/run/rfdn_small runs/run/rfdn_small-2 -o both.html

    The page opens in any browser, without a network. It lists the runs of a sweep that are
    unfinished or have failed.

    A run that has not been evaluated is evaluated first, on the photographs that it held out. For
    the folder of an evaluation, the report is that of the run, with the folders measured there.
    """
    from quantnas.api import reports

    with console.Display() as watch, options.named({"output": output}):
        existing = reports.would_overwrite(sources, output)
        if existing is not None:
            console.refuse_existing(existing, force, "--output")
        made = reports.report(sources, output, watch=watch)
    if made.run is not None:
        console.say(f"report: {made.run.folder / 'report.md'}", made.run)
    console.say(f"page: {made.page} ({made.size})")
