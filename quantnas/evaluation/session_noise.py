"""Images of noise for a session, of the type, the layout and the channels that it takes."""

from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from quantnas.config.search_space import Layout
from quantnas.onnx_import.onnx_session import feed, fixed_sides


def noise(run: ort.InferenceSession, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """The input of a session: noise of (height, width) `size`, in [0, 1] or in bytes.

    Where the session leaves the number of channels open, it is the one with which it runs.
    """
    layout, channels = _channels(run)
    rng = np.random.default_rng(0)
    bytes_in = run.get_inputs()[0].type == "tensor(uint8)"
    for count in channels:
        pixels = rng.integers(0, 256, (1, count, *size), np.uint8)
        image = feed(run, pixels if bytes_in else pixels / 255, layout)
        if len(channels) == 1 or _runs(run, image):
            break
    return image


def _channels(run: ort.InferenceSession) -> tuple[Layout, tuple[int, ...]]:
    """The layout of a session's input, and the numbers of channels that it may have."""
    shape = run.get_inputs()[0].shape or [None] * 4
    stated = {"NCHW": shape[1], "NHWC": shape[3]}
    known = [(layout, n) for layout, n in stated.items() if n in (1, 3)]
    layout, count = known[0] if known else ("NCHW", None)
    return cast(Layout, layout), (3, 1) if count is None else (count,)


def _runs(run: ort.InferenceSession, image: dict[str, NDArray[Any]]) -> bool:
    try:
        run.run(None, image)
    except Exception:  # ONNX Runtime has no exception class for a bad image
        return False
    return True


def own_size(run: ort.InferenceSession) -> tuple[int, int] | None:
    """The only (height, width) that a file takes; None where it takes any."""
    height, width = fixed_sides(run, _channels(run)[0])
    return None if height is None or width is None else (height, width)
