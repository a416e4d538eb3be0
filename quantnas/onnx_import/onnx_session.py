"""The only function that makes sessions of ONNX Runtime; all run on the CPU."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from quantnas.errors import DataError

LIMIT = 2**29
"""Bytes that tensors of a limited session may take."""


def open_session(
    model: Path | bytes,
    *,
    threads: int = 0,
    optimise: bool = True,
    spinning: bool = True,
    limited: bool = False,
    **options: Any,
) -> ort.InferenceSession:
    """Load an ONNX file, or the bytes of one.

    Raises the exceptions of ONNX Runtime, which have no common class.

    threads: number of threads inside an operator; 0 lets ONNX Runtime choose. optimise: whether
    the graph is rewritten at the default level, or runs as it is written. spinning: whether idle
    threads keep a core busy while they wait for the next run. limited: whether tensors may take
    `LIMIT` bytes at most; the run then fails before it takes more (`run_limited`). options: other
    attributes of `onnxruntime.SessionOptions`.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    if not optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spinning:
        settings.add_session_config_entry("session.force_spinning_stop", "1")
    if limited:
        _limited_memory()
        settings.add_session_config_entry("session.use_env_allocators", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    content = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


@cache
def _limited_memory() -> None:
    """Give ONNX Runtime the memory of limited sessions, once in a process."""
    kind, default = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    exact = 1  # memory is taken as requested, not in powers of two
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo("Cpu", kind, 0, default), ort.OrtArenaCfg(LIMIT, exact, -1, -1)
    )


def run_limited(session: ort.InferenceSession, outputs: Sequence[str]) -> list[Any]:
    """Run a limited session without inputs, and give its memory back.

    Raises DataError for tensors beyond the limit, else the exceptions of ONNX Runtime.
    """
    how = ort.RunOptions()
    how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    try:
        return list(session.run(outputs, {}, how))
    except Exception as error:  # ONNX Runtime has no common class of errors
        if "Available memory of" in str(error):
            raise DataError(
                "The constants that the file's operators make would take more than "
                f"{LIMIT / 2**20:.0f} MB.",
                "Networks for images have far smaller ones; check that it is the right file.",
            ) from error
        raise


def cannot_load(what: object, error: Exception) -> DataError:
    """The error for a file, named `what`, that `open_session` does not load."""
    return DataError(
        f"ONNX Runtime {ort.__version__} cannot load {what}: {error}.",
        "Check that it is a complete ONNX file, or update ONNX Runtime.",
    )
