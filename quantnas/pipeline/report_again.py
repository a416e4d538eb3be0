"""Makes the report of a run anew, after an evaluation if that is missing."""

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from quantnas.data import photo_sets
from quantnas.evaluation import model_comparison
from quantnas.runs import run_folder, run_lock, run_settings
from quantnas.runs.run_folder import Run
from quantnas.runs.watcher import SILENT, Watcher, follow

from . import evaluate_step, report_step


def report_again(source: str | PathLike[str], watch: Watcher = SILENT) -> Run:
    """Report on the run in a folder, or on the run that an evaluation measured; the run.

    The folders that the evaluation measured are measured too. Raises DataError for a folder without
    an exported run, and for the evaluation of several models.
    """
    folder, further = model_comparison.of_run(Path(source)) or (Path(source), [])
    run = run_folder.existing(folder)
    with run_lock.held(run.folder):
        _report(run, further, watch)
    return run


def _report(run: Run, further: Sequence[str], watch: Watcher) -> None:
    """Evaluate a run where that is missing, on `further` folders too, and write its report."""
    config = run_settings.load_config(run)
    run_folder.require(run, until="evaluate")
    present = {Path(folder).resolve() for folder in config.benchmarks}
    benchmarks = (*config.benchmarks, *(f for f in further if Path(f).resolve() not in present))
    done = run.whole_result("evaluate")
    if done is None or not photo_sets.named_sets(benchmarks).keys() <= done["sets"].keys():
        extended = dataclasses.replace(config, benchmarks=benchmarks)
        follow(evaluate_step.evaluate_step(run, extended), watch)
    follow(report_step.report_step(run, config), watch)
