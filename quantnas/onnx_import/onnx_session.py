"""Sessions of ONNX Runtime on the processor: the only place where they are made."""

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
    """Load a file, or the bytes of one. Raises what ONNX Runtime raises, which has no class for it.

    threads: number of threads inside an operator; 0 lets ONNX Runtime choose. optimise: whether
    the graph is rewritten at the default level, or runs as it is written. spinning: whether idle
    threads keep a core busy while they wait for the next run. options: other attributes of
    `onnxruntime.SessionOptions`.
    """
    chosen = ort.SessionOptions()
    chosen.log_severity_level = 3
    chosen.intra_op_num_threads = threads
    if not optimise:
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spinning:
        chosen.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in options.items():
        setattr(chosen, name, value)
    content = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(content, chosen, providers=["CPUExecutionProvider"])


def cannot_load(what: object, error: Exception) -> DataError:
    """The error for a file, named `what`, that `open_session` does not load."""
    return DataError(
        f"ONNX Runtime {ort.__version__} cannot load {what}: {error}.",
        "Check that it is a complete ONNX file, or update ONNX Runtime.",
    )
