"""The library in verbs: each function does what a command does and returns what it made.

`import quantnas` offers the same names, and nothing heavy is loaded before one of them is used.
The functions print nothing: a `Watcher` is told how far the work is, and may stop it. They raise
errors of `quantnas.errors`, with a cause and a remedy.

Functions that make a run share these arguments:

- `config`: the settings, as a `RunConfig`, a mapping or the path of a YAML file;
- `settings`: single settings that win over `config`, as `{"search.epochs": 30}`;
- `output`: the folder in which the run folder `<verb>/<name>` is made;
- `name`: the name of that folder, which must be new; by default a free one is chosen;
- `watch`: the `Watcher` that is told how far the work is.

The other arguments win over `settings`. `resume` continues an interrupted run, and `resume_sweep`
an interrupted sweep.
"""

import importlib
from typing import TYPE_CHECKING, Any

from quantnas.runs.watcher import Watcher

from .sweep_watcher import SweepWatcher

if TYPE_CHECKING:
    from .model_verbs import Benchmark, Evaluation, benchmark, evaluate, load, upscale
    from .reports import Report, report
    from .run_verbs import Run, export, quantize, resume, run, search, train
    from .sweeps import Sweep, resume_sweep, sweep
    from .upscaling import upscale_files

_MODULES = {
    "model_verbs": ("Benchmark", "Evaluation", "benchmark", "evaluate", "load", "upscale"),
    "reports": ("Report", "report"),
    "run_verbs": ("Run", "export", "quantize", "resume", "run", "search", "train"),
    "sweeps": ("Sweep", "resume_sweep", "sweep"),
    "upscaling": ("upscale_files",),
}
"""Module of this package -> the public names that it defines."""

__all__ = [
    "Benchmark",
    "Evaluation",
    "Report",
    "Run",
    "Sweep",
    "SweepWatcher",
    "Watcher",
    "benchmark",
    "evaluate",
    "export",
    "load",
    "quantize",
    "report",
    "resume",
    "resume_sweep",
    "run",
    "search",
    "sweep",
    "train",
    "upscale",
    "upscale_files",
]


def __getattr__(name: str) -> Any:
    """A public name, whose module is loaded when it is first used."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
