"""Quantization-aware architecture search for image super-resolution.

The public verbs are functions of this package, such as `quantnas.run` and `quantnas.quantize`.
They are loaded when they are first used, so `import quantnas` is cheap and loads neither torch nor
onnx. docs/python.md shows them, `quantnas.api` documents them, and docs/index.md says which package
does what.

The library computes and never prints; `quantnas.cli` (folder `cli/`) talks to people, and
`quantnas.search_spaces` (folder `search_spaces/`) holds the built-in spaces. The lines below let
both names resolve in a checkout, where the folders lie beside this one; see
docs/decisions/0001-packaging-map.md.
"""

import os

TYPE_CHECKING = False  # typing and pathlib take time, in which Ctrl-C would show a traceback
if TYPE_CHECKING:
    from typing import Any

    from .api import (
        Benchmark,
        Evaluation,
        Report,
        Run,
        Sweep,
        SweepWatcher,
        Watcher,
        benchmark,
        evaluate,
        export,
        load,
        quantize,
        report,
        resume,
        resume_sweep,
        run,
        search,
        sweep,
        train,
        upscale,
        upscale_files,
    )

__version__ = "0.1.0"
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

_here = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_here, "cli")):
    # source checkout: cli/ and search_spaces/ lie beside this folder
    __path__.append(os.path.dirname(_here))


def __getattr__(name: str) -> "Any":
    """A name of the public interface, loaded when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
