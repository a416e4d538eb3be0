"""The only function that makes sessions of ONNX Runtime; all run on the CPU."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from quantnas.config.search_space import Layout
from quantnas.errors import DataError

LIMIT = 2**29
"""Bytes that tensors of a limited session may take."""
TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
"""Type of a session's input -> type of the array that it takes."""


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


def feed(
    session: ort.InferenceSession, image: NDArray[Any], layout: Layout = "NCHW"
) -> dict[str, NDArray[Any]]:
    """The input of a session for images (N, C, H, W): in its type, layout and number of images.

    A session that is fixed to several images gets copies of a single one.
    """
    entry = session.get_inputs()[0]
    count = entry.shape[0] if entry.shape else None
    if isinstance(count, int) and len(image) == 1:
        image = image.repeat(count, 0)
    image = image.transpose(0, 2, 3, 1) if layout == "NHWC" else image
    return {entry.name: np.ascontiguousarray(image, TYPES[entry.type])}


def run_image(
    session: ort.InferenceSession, image: NDArray[Any], layout: Layout = "NCHW"
) -> NDArray[Any]:
    """Run a session on images (N, C, H, W) -> its output, (N, C', H', W') for images.

    Raises the exceptions of ONNX Runtime.
    """
    (result,) = session.run(None, feed(session, image, layout))
    out: NDArray[Any] = np.asarray(result)[: len(image)]
    return out.transpose(0, 3, 1, 2) if layout == "NHWC" and out.ndim == 4 else out


def fixed_sides(
    session: ort.InferenceSession, layout: Layout = "NCHW"
) -> tuple[int | None, int | None]:
    """The (height, width) that a session is fixed to, pixels; None = any."""
    sides = (session.get_inputs()[0].shape or [None] * 4)[2 if layout == "NCHW" else 1 :]
    height, width = (side if isinstance(side, int) else None for side in sides[:2])
    return height, width


def cannot_load(what: object, error: Exception) -> DataError:
    """The error for a file, named `what`, that `open_session` does not load."""
    return DataError(
        f"ONNX Runtime {ort.__version__} cannot load {what}: {error}.",
        "Check that it is a complete ONNX file, or update ONNX Runtime.",
    )
