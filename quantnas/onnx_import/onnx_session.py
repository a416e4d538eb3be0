"""The only function that makes sessions of ONNX Runtime; all run on the CPU."""

from pathlib import Path
from typing import Any

import onnxruntime as ort

from quantnas.errors import DataError


def open_session(
    model: Path | bytes,
    *,
    threads: int = 0,
    optimise: bool = True,
    spinning: bool = True,
    **options: Any,
) -> ort.InferenceSession:
    """Load an ONNX file, or the bytes of one.

    Raises the exceptions of ONNX Runtime, which have no common class.

    threads: number of threads inside an operator; 0 lets ONNX Runtime choose. optimise: whether
    the graph is rewritten at the default level, or runs as it is written. spinning: whether idle
    threads keep a core busy while they wait for the next run. options: other attributes of
    `onnxruntime.SessionOptions`.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    if not optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spinning:
        settings.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    content = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def cannot_load(what: object, error: Exception) -> DataError:
    """The error for a file, named `what`, that `open_session` does not load."""
    return DataError(
        f"ONNX Runtime {ort.__version__} cannot load {what}: {error}.",
        "Check that it is a complete ONNX file, or update ONNX Runtime.",
    )
