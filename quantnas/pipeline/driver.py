"""Performs the unfinished steps of a run; removes a new run folder if they fail at once.

A verb names what a run is for. Every step has a module of its own in `pipeline`.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from quantnas.config.run_config import RunConfig
from quantnas.errors import DataError, QualityError, UsageError
from quantnas.evaluation import prediction_check, quantization_loss
from quantnas.progress import Progress
from quantnas.runs import run_folder, run_lock, run_settings, step_records
from quantnas.runs.run_folder import Run
from quantnas.runs.watcher import SILENT, Watcher, follow, watched

from .steps import STEPS as FUNCTIONS
from .steps import recorded

STEPS: dict[str, tuple[str, ...]] = {
    "run": run_folder.STEPS,
    "search": ("search",),
    "train": ("search", "train"),
    "quantize": ("quantize",),
    "export": ("export",),
}
"""Verb -> its steps."""


def perform(verb: str, run: Run, watch: Watcher = SILENT) -> None:
    """Perform the steps of a verb that the run has not finished.

    A new folder without results is removed after a DataError or a UsageError. Raises what the steps
    and the watcher raise, QualityError as `quantnas.quantize`, and UsageError while another process
    is at work in the run, or for settings that a step was done without.
    """
    steps = STEPS[verb]
    with _held(run, steps):
        config = run_settings.load_config(run)
        with watched(run, watch):
            step_records.require_unchanged(run)
            if verb == "export":
                _warn(run, config, watch)
            for step in steps:
                _perform(step, run, config, watch)
                if step == "quantize" and verb != step:
                    prediction_check.require(run, config)
            if verb == "quantize":
                _judge(run, config, watch)


def _perform(step: str, run: Run, config: RunConfig, watch: Watcher) -> None:
    if run.result(step) is not None:
        watch.finish(step, None)
        return
    began = time.monotonic() - run.spent
    follow(recorded(run, step, FUNCTIONS[step](run, config)), watch)
    watch.finish(step, time.monotonic() - began)


def _warn(run: Run, config: RunConfig, watch: Watcher) -> None:
    """Tell the watcher before an export that the quantized network errs more than predicted."""
    doubt = prediction_check.doubt(run, config)
    if doubt is not None:
        watch(Progress("export", 0, 1, {}, (f"warning: {doubt}; something is wrong with it",)))


def _judge(run: Run, config: RunConfig, watch: Watcher) -> None:
    """Measure the loss of quantization. Raises QualityError where it exceeds the limit.

    Raises PredictionError where the error is far beyond the predicted one.
    """
    if not (run.folder / quantization_loss.FILE).exists():
        follow(quantization_loss.measure(run, config), watch)
    try:
        prediction_check.require(run, config)
        quantization_loss.require(quantization_loss.load(run), config.quantize)
    except QualityError as error:
        error.folder = run.folder
        raise


@contextmanager
def _held(run: Run, steps: Sequence[str]) -> Iterator[None]:
    """Hold the lock of a run; after a UsageError or DataError, remove a new one without results.

    It is removed when the lock is released, since some systems keep files that are open, and as far
    as possible: the error of the run is the one to tell.
    """
    empty = False
    try:
        with run_lock.held(run.folder):
            carried = {step for step in steps if run.result(step) is not None}
            try:
                yield
            except (DataError, UsageError):
                finished = any(run.result(s) is not None for s in steps if s not in carried)
                begun = run.resumable or (run.folder / "metrics.jsonl").exists()
                empty = run.new and not finished and not begun
                raise
    finally:
        if empty:
            shutil.rmtree(run.folder, ignore_errors=True)
