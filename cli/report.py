"""`quantnas report`: the report of a run, made anew."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from . import console, start


def report(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of an exported run, or of its evaluation.", metavar="RUN"),
    ],
) -> None:
    """Write report.json, report.md and the pictures of a run into its folder.

    Example: quantnas report runs/export/rfdn_small

    A run that has not been evaluated is evaluated first, on the photographs that it held out. Given
    the folder of an evaluation, the report is that of the run, with the folders measured there.
    """
    from quantnas import comparison, evaluate, pipeline, runs

    folder, further = comparison.of_run(source) or (source, [])
    run, config = start.resumed(folder)
    runs.require(run, until="evaluate")
    known = {Path(folder).resolve() for folder in config.benchmarks}
    benchmarks = (*config.benchmarks, *(f for f in further if Path(f).resolve() not in known))
    done = run.result("evaluate")
    if done is None or not evaluate.named_sets(benchmarks).keys() <= done["sets"].keys():
        wanted = dataclasses.replace(config, benchmarks=benchmarks)
        console.follow(pipeline.evaluate_step(run, wanted), None, run)
    console.follow(pipeline.report_step(run, config), None, run)
    console.say(f"report: {run.folder / 'report.md'}", run)
