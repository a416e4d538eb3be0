"""Functions that enlarge one image: bicubic, a torch network, or an ONNX file in ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from quantnas.config.search_space import Pixels
from quantnas.data.patches import to_image, to_tensor
from quantnas.errors import DataError
from quantnas.onnx_import import pixel_conversion
from quantnas.onnx_import.onnx_session import cannot_load, open_session

SMALL = 32
"""Pixels of a side below which a network that fails is taken to fail because of the size."""
QONNX = "qonnx.custom_op"
"""The domain of operators that only QONNX files have."""

Upscaler = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""uint8 RGB (H, W, 3) -> uint8 RGB (scale*H, scale*W, 3)"""


def onnx_upscaler(path: Path, pixels: Pixels | None = None) -> Upscaler:
    """An exported file as a function; it takes and gives floats or bytes.

    pixels: what one from elsewhere takes and gives.
    Raises DataError when it cannot be loaded; the function does for an image that the file cannot
    enlarge, as one of another size than it is fixed to.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Check the path.")
    try:
        run = open_session(path)
    except Exception as error:
        if QONNX in str(error):
            raise DataError(
                f"{path} is a QONNX file, for FPGA toolchains: ONNX Runtime does not run it.",
                "Give the model.onnx of the same run.",
            ) from error
        raise cannot_load(path, error) from error

    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        _require_shape(path.name, low, run.get_inputs()[0].shape[2:])
        try:
            return through(run, low, pixels=pixels)
        except Exception as error:  # ONNX Runtime has no class for what is wrong with an image
            raise cannot(path.name, low, error) from error

    return upscale


def through(
    run: ort.InferenceSession,
    low: NDArray[np.uint8],
    more: Mapping[str, NDArray[np.float32]] | None = None,
    pixels: Pixels | None = None,
) -> NDArray[np.uint8]:
    """An image through a file in ONNX Runtime, with more inputs by name; raises what that does."""
    if pixels is not None:
        return to_image(torch.from_numpy(through_foreign(run, low, pixels))[0])
    entry = run.get_inputs()[0]
    in_bytes = entry.type == "tensor(uint8)"
    image = low.transpose(2, 0, 1)[None] if in_bytes else to_tensor(low[None]).numpy()
    (out,) = run.run(None, {entry.name: np.ascontiguousarray(image), **(more or {})})
    found = np.asarray(out)[0]
    if found.dtype == np.uint8:
        return np.ascontiguousarray(found.transpose(1, 2, 0))
    return to_image(torch.from_numpy(found))


def through_foreign(
    run: ort.InferenceSession, low: NDArray[np.uint8], pixels: Pixels
) -> NDArray[np.float32]:
    """(1, 3, scale*H, scale*W), RGB, white is 1: an image through a file from elsewhere."""
    x, entry = to_tensor(low[None]), run.get_inputs()[0]
    image = pixel_conversion.array(x, pixels).numpy()
    (made,) = run.run(None, {entry.name: np.ascontiguousarray(image)})
    out = torch.from_numpy(np.asarray(made)).float()
    scale = out.shape[2] // image.shape[2]
    found: NDArray[np.float32] = pixel_conversion.given(out, x, pixels, scale).numpy()
    return found


def _require_shape(name: str, low: NDArray[np.uint8], sides: Sequence[int | str]) -> None:
    """Raise DataError for another height or width than a file is fixed to."""
    height, width = low.shape[:2]
    if any(isinstance(n, int) and n != m for n, m in zip(sides, (height, width), strict=True)):
        raise DataError(
            f"{name} takes images of {sides[0]} rows and {sides[1]} columns alone; this one has "
            f"{height} and {width}.",
            "Use such images, or export the run without a size.",
        )


def torch_upscaler(network: nn.Module) -> Upscaler:
    """A network as a function."""
    device = next(network.parameters()).device
    network.eval()

    @torch.no_grad()
    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            return to_image(network(to_tensor(low[None]).to(device))[0])
        except RuntimeError as error:
            raise cannot("The network", low, error) from error

    return upscale


def cannot(what: str, low: NDArray[np.uint8], error: Exception) -> DataError:
    """What to raise when a network fails on an image."""
    height, width = low.shape[:2]
    if min(height, width) < SMALL:
        return DataError(
            f"{what} cannot enlarge {width}x{height} pixels: that is too small for it.",
            "Use a larger photograph.",
        )
    reason = " ".join(str(error).split())
    return DataError(
        f"{what} cannot enlarge {width}x{height} pixels: {reason}",
        "Free memory, or use a smaller photograph.",
    )
