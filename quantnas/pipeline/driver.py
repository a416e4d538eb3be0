"""Does the steps of a run that are left; no empty folder stays when they cannot be done.

A caller names what a run is for by a verb. What each step does is in `pipeline`.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from quantnas.config.run_config import RunConfig
from quantnas.errors import DataError, QualityError, UsageError
from quantnas.evaluation import quantization_loss
from quantnas.runs import run_folder, run_settings
from quantnas.runs.run_folder import Run
from quantnas.runs.watcher import SILENT, Watcher, follow, watched

from .steps import STEPS as FUNCTIONS

STEPS: dict[str, tuple[str, ...]] = {
    "run": run_folder.STEPS,
    "search": ("search",),
    "train": ("search", "train"),
    "quantize": ("quantize",),
    "export": ("export",),
}
"""Verb -> the steps that it does."""


def perform(verb: str, run: Run, watch: Watcher = SILENT) -> None:
    """Do the steps of a verb that the run has not finished.

    A new folder in which nothing was made is removed after a DataError or a UsageError. Raises what
    the steps and the watcher raise, and QualityError as `quantnas.quantize`.
    """
    config, steps = run_settings.load_config(run), STEPS[verb]
    with _removed_if_empty(run, steps), watched(run, watch):
        for step in steps:
            _perform(step, run, config, watch)
        if verb == "quantize":
            _judge(run, config, watch)


def _perform(step: str, run: Run, config: RunConfig, watch: Watcher) -> None:
    if run.result(step) is not None:
        watch.finish(step, None)
        return
    began = time.monotonic() - run.spent
    follow(FUNCTIONS[step](run, config), watch)
    watch.finish(step, time.monotonic() - began)


def _judge(run: Run, config: RunConfig, watch: Watcher) -> None:
    """Measure what the quantization costs. Raises QualityError where that is too much."""
    if not (run.folder / quantization_loss.FILE).exists():
        follow(quantization_loss.measure(run, config), watch)
    try:
        quantization_loss.require(quantization_loss.load(run), config.quantize)
    except QualityError as error:
        error.folder = run.folder
        raise


@contextmanager
def _removed_if_empty(run: Run, steps: Sequence[str]) -> Iterator[None]:
    """After an error in what was given, remove a new folder in which nothing was made yet."""
    carried = {step for step in steps if run.result(step) is not None}
    try:
        yield
    except (DataError, UsageError):
        made = any(run.result(step) is not None for step in steps if step not in carried)
        learned = run.resumable or (run.folder / "metrics.jsonl").exists()
        if run.new and not made and not learned:
            shutil.rmtree(run.folder)
        raise
