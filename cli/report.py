"""`quantnas report`: the report of a run, made anew."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, start


def report(
    source: Annotated[Path, typer.Argument(help="Folder of an evaluated run.", metavar="RUN")],
) -> None:
    """Write report.json, report.md and the pictures of a run into its folder.

    Example: quantnas report runs/evaluate/rfdn_small
    """
    from quantnas import pipeline

    run, config = start.resumed(source)
    console.follow(pipeline.report_step(run, config), None, run)
    console.say(f"report: {run.folder / 'report.md'}", run)
