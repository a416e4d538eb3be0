"""The steps of a run, from photographs to a verified file: each reads and writes a run folder.

Every step is a generator of `Progress`, so that the caller may draw it, or stop it: closing the
generator saves the state, and calling the step again goes on from there.
"""

from collections.abc import Callable, Iterator

from quantnas.config.run_config import RunConfig

from . import evaluate_step, export_step, quantizing, report_step, searching, training
from .progress import Progress
from .runs import Run

Step = Callable[[Run, RunConfig], Iterator[Progress]]

STEPS: dict[str, Step] = {
    "search": searching.search_step,
    "train": training.train_step,
    "quantize": quantizing.quantize_step,
    "export": export_step.export_step,
    "evaluate": evaluate_step.evaluate_step,
    "report": report_step.report_step,
}
