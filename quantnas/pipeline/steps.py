"""The steps of a run, from photographs to a verified file; each works on a run folder.

Every step is a generator of `Progress`, so that the caller can display or stop it: closing the
generator saves the state, and calling the step again continues from there.
"""

from collections.abc import Callable, Iterator

from quantnas.config.run_config import RunConfig
from quantnas.progress import Progress
from quantnas.runs import step_records
from quantnas.runs.run_folder import Run

from . import evaluate_step, export_step, quantize_step, report_step, search_step, train_step

Step = Callable[[Run, RunConfig], Iterator[Progress]]

STEPS: dict[str, Step] = {
    "search": search_step.search_step,
    "train": train_step.train_step,
    "quantize": quantize_step.quantize_step,
    "export": export_step.export_step,
    "evaluate": evaluate_step.evaluate_step,
    "report": report_step.report_step,
}


def recorded(run: Run, step: str, work: Iterator[Progress]) -> Iterator[Progress]:
    """The records of a step; the run keeps what it was begun with, and the weights it left."""
    step_records.record(run, step)
    yield from work
    step_records.seal(run, step)
