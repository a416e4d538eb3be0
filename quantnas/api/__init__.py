"""The library in verbs: what each command does, as a function that returns what it made.

`quantnas.quantize` and the others are these functions; `import quantnas` loads them when they are
first used. They print nothing: a `Watcher` is told how far the work is. What goes wrong is an error
of `quantnas.errors`, with a cause and a remedy.

Verbs that make a run take the same further arguments:

    config      settings: a `RunConfig`, a mapping or the path of a YAML file
    settings    single settings over these, as {"search.epochs": 30}
    output      folder in which the run folder `<verb>/<name>` is made
    name        its name, which must be new; none = a free one
    watch       is told how far the work is, and may stop it

Arguments of their own win over `settings`, and these over `config`. An interrupted run is continued
by `resume`.
"""

from quantnas.runs.watcher import Watcher

from .model_verbs import Benchmark, Evaluation, benchmark, evaluate, load, upscale
from .run_verbs import Run, export, quantize, resume, run, search, train

__all__ = [
    "Benchmark",
    "Evaluation",
    "Run",
    "Watcher",
    "benchmark",
    "evaluate",
    "export",
    "load",
    "quantize",
    "resume",
    "run",
    "search",
    "train",
    "upscale",
]
