"""Performs one point of a sweep, from its last saved state to the end, in a process of its own.

`python -m quantnas.sweeps.point_process RUN [WARM]` starts such a process. It saves its state and
stops when its standard input ends, which happens when the process that started it is gone.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from quantnas.config import schema
from quantnas.config.files import read_json, to_json, write_text
from quantnas.errors import DataError, QuantnasError
from quantnas.progress import Progress
from quantnas.runs import run_folder, run_lock, step_records
from quantnas.runs.run_folder import Run

DONE, FAILED, STOPPED = 0, 3, 130
"""Exit codes: the run has finished, has failed (`failed/` tells why), or has saved its state."""
EVERY = 0.5
"""Seconds between two progress records."""
PATIENCE = 120.0
"""Seconds that a process has to save its state and stop."""
FILE = "progress.json"
"""File of a run with the progress of its point."""
STOP = "stop"
"""File in the folder of a sweep whose presence stops the points on a cluster."""


@dataclass(frozen=True)
class PointJob:
    """The point that one process performs."""

    run: Path
    warm: Path | None = None
    """File with the state after the warm-up of the search, shared with other points."""

    @property
    def name(self) -> str:
        return self.run.name


def failure(run: Path) -> Path:
    """The path of the file that tells why a point failed."""
    return run.parent.parent / "failed" / f"{run.name}.json"


def why(run: Path) -> dict[str, str] | None:
    """The cause and remedy of a failed point; None for other points."""
    path = failure(run)
    if not path.exists():
        return None
    try:
        found = read_json(path)
    except DataError:
        found = {}
    cause = str(found.get("cause", "unknown: its file is damaged."))
    return {"cause": cause, "remedy": str(found.get("remedy", ""))}


def fail(run: Path, cause: str, remedy: str) -> None:
    """Record the cause and remedy of a failed point."""
    path = failure(run)
    path.parent.mkdir(exist_ok=True)
    write_text(path, to_json({"cause": cause, "remedy": remedy}))


def perform(job: PointJob, stopped: Callable[[], bool]) -> int:
    """Perform the unfinished steps of a point; its exit code `DONE`, `FAILED` or `STOPPED`.

    stopped: tells after every record whether to stop there.
    """
    try:
        run = run_folder.existing(job.run)
        with run_lock.held(run.folder, PATIENCE), closing(_steps(run, job.warm)) as steps:
            for _ in steps:
                if stopped():
                    return STOPPED
    except QuantnasError as error:
        fail(job.run, error.cause, error.remedy)
        return FAILED
    except Exception as error:
        cause = f"Something unexpected happened: {type(error).__name__}: {error}"
        fail(job.run, cause, f"The traceback is in {job.run / 'log.txt'}.")
        Run(job.run).log(traceback.format_exc())
        return FAILED
    return DONE


def _steps(run: Run, warm: Path | None) -> Generator[None, None, None]:
    """Perform every step that has not finished; closing this generator saves the state.

    Raises PredictionError after a quantization that errs far more than predicted, also one that an
    earlier process performed: a point that is tried again does not go on with it.
    """
    from quantnas.evaluation import prediction_check
    from quantnas.pipeline import search_step
    from quantnas.pipeline.steps import STEPS, recorded
    from quantnas.runs.run_settings import load_config

    config, spent = load_config(run), seconds(run.folder)
    step_records.require_unchanged(run)
    for step in run_folder.STEPS:
        if run.result(step) is None:
            if step == "search":
                work = search_step.search_step(run, config, warm)
            else:
                work = STEPS[step](run, config)
            yield from _shown(run, step, recorded(run, step, work), spent)
        if step == "quantize":
            prediction_check.require(run, config)


def _shown(
    run: Run, step: str, records: Iterator[Progress], spent: dict[str, float]
) -> Generator[None, None, None]:
    """Perform one step and write its progress, with `spent`, the seconds of all steps."""
    before, began, shown = spent.get(step, 0.0), time.monotonic(), 0.0
    try:
        for record in records:
            now = time.monotonic()
            spent[step] = before + now - began
            if now - shown > EVERY:
                shown = now
                at = {"phase": record.phase, "done": record.done, "total": record.total}
                _show(run, {"step": step, **at, "facts": record.facts, "seconds": spent})
            yield
    finally:
        records.close()  # type: ignore[attr-defined]  # a generator
        spent[step] = before + time.monotonic() - began
        _show(run, {"step": step, "seconds": spent})
    run.log(f"{step}: done in {spent[step]:.0f} s")


def _show(run: Run, data: dict[str, Any]) -> None:
    write_text(run.path(FILE), to_json(data))


class _Progress(TypedDict):
    """The file with the progress of a point."""

    step: str
    seconds: dict[Literal["search", "train", "quantize", "export", "evaluate", "report"], float]
    phase: NotRequired[str]
    done: NotRequired[int]
    total: NotRequired[int]
    facts: NotRequired[dict[str, str]]


def progress(run: Path) -> dict[str, Any]:
    """The last progress record of a point: step, phase, done, total, facts, seconds.

    The record is empty before the point has begun.
    """
    try:
        found = read_json(run / FILE)
        schema.check(_Progress, found, str(run / FILE))
    except DataError:  # the point has not begun, or the file is damaged
        return {}
    return found


def seconds(run: Path) -> dict[str, float]:
    """Step -> seconds that it has taken, including those before an interruption.

    Steps that were copied from another run are missing.
    """
    return dict(progress(run).get("seconds", {}))


def main(arguments: list[str]) -> int:
    """The main function of the process; its exit code."""
    folder, *rest = map(Path, arguments)
    gone = threading.Event()

    def listen() -> None:
        while os.read(sys.stdin.fileno(), 1):  # unbuffered: Python's buffer holds a lock at exit
            pass
        gone.set()

    threading.Thread(target=listen, daemon=True).start()
    return perform(PointJob(folder, rest[0] if rest else None), gone.is_set)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
