"""Functions that enlarge one image: with a torch network, or an ONNX file in ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from quantnas.config.search_space import Pixels
from quantnas.data.patches import to_image, to_tensor
from quantnas.errors import DataError, missing
from quantnas.onnx_import import pixel_conversion
from quantnas.onnx_import.onnx_session import cannot_load, fixed_sides, open_session, run_image

SMALL = 32
"""Length of a side below which a failure of a network is explained by the image's size, pixels."""
QONNX = "qonnx.custom_op"
"""Domain of the operators that only QONNX files have."""

Upscaler = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Function uint8 RGB (H, W, 3) -> uint8 RGB (scale*H, scale*W, 3)."""


def onnx_upscaler(path: Path, pixels: Pixels | None = None) -> Upscaler:
    """Return a function that enlarges images with an ONNX file, as `session_upscaler`.

    Raises DataError when the file cannot be loaded.
    """
    return session_upscaler(load_session(path), path.name, pixels)


def load_session(path: Path) -> ort.InferenceSession:
    """Open an ONNX file in ONNX Runtime. Raises DataError when it cannot be loaded."""
    if not path.is_file():
        raise missing(path)
    try:
        return open_session(path)
    except Exception as error:
        if QONNX in str(error):
            raise DataError(
                f"{path} is a QONNX file, for FPGA toolchains: ONNX Runtime does not run it.",
                "Give the model.onnx of the same run.",
            ) from error
        raise cannot_load(path, error) from error


def session_upscaler(
    session: ort.InferenceSession, name: str, pixels: Pixels | None = None
) -> Upscaler:
    """Return a function that enlarges images with a session, of float or uint8 pixels.

    name: name of the file, for errors; pixels: pixel conventions of an imported file, None for a
    file that quantnas exported. The function raises DataError for an image that the file cannot
    enlarge, such as one of another size than the file is fixed to.
    """

    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        _require_shape(name, low, fixed_size(session, pixels), pixels is not None)
        try:
            return run_session(session, low, pixels=pixels)
        except Exception as error:  # ONNX Runtime has no exception class for unsuitable images
            raise enlarge_error(name, low, error) from error

    return upscale


def fixed_size(
    session: ort.InferenceSession, pixels: Pixels | None
) -> tuple[int | None, int | None]:
    """The (height, width) of images to which a session is fixed, pixels; None = any.

    pixels: pixel conventions of an imported file.
    """
    if pixels is None:
        return fixed_sides(session)
    height, width = fixed_sides(session, pixels.layout)
    lost = 2 * pixels.border
    return height and height - lost, width and width - lost


def run_session(
    session: ort.InferenceSession,
    low: NDArray[np.uint8],
    extra_inputs: Mapping[str, NDArray[np.float32]] | None = None,
    pixels: Pixels | None = None,
) -> NDArray[np.uint8]:
    """Enlarge low (H, W, 3) in ONNX Runtime -> uint8 RGB (scale*H, scale*W, 3).

    extra_inputs: inputs besides the image, by name; pixels: pixel conventions of an imported file.
    Raises the exceptions of ONNX Runtime.
    """
    if pixels is not None:
        return to_image(torch.from_numpy(run_imported(session, low, pixels))[0])
    entry = session.get_inputs()[0]
    in_bytes = entry.type == "tensor(uint8)"
    image = low.transpose(2, 0, 1)[None] if in_bytes else to_tensor(low[None]).numpy()
    (out,) = session.run(None, {entry.name: np.ascontiguousarray(image), **(extra_inputs or {})})
    large = np.asarray(out)[0]
    if large.dtype == np.uint8:
        return np.ascontiguousarray(large.transpose(1, 2, 0))
    return to_image(torch.from_numpy(large))


def run_imported(
    session: ort.InferenceSession, low: NDArray[np.uint8], pixels: Pixels
) -> NDArray[np.float32]:
    """Enlarge low (H, W, 3) with an imported file -> RGB (1, 3, scale*H, scale*W), white is 1."""
    x = to_tensor(low[None])
    image = pixel_conversion.taken(x, pixels).numpy()
    out = torch.from_numpy(run_image(session, image, pixels.layout)).float()
    scale = out.shape[2] // (image.shape[2] - 2 * pixels.border)
    large: NDArray[np.float32] = pixel_conversion.given(out, x, pixels, scale).numpy()
    return large


def _require_shape(
    name: str, low: NDArray[np.uint8], sides: Sequence[int | None], imported: bool
) -> None:
    """Raise DataError for an image of another height or width than a file is fixed to."""
    height, width = low.shape[:2]
    if any(n is not None and n != m for n, m in zip(sides, (height, width), strict=True)):
        other = "cut larger ones into tiles" if imported else "export the run without a size"
        raise DataError(
            f"{name} only takes images of {sides[0] or 'any number of'} rows and "
            f"{sides[1] or 'any number of'} columns; this one has {height} and {width}.",
            f"Use such images, or {other}.",
        )


def torch_upscaler(network: nn.Module) -> Upscaler:
    """Return a function that enlarges images with a torch network, on the network's device.

    The function raises DataError for an image that the network cannot enlarge.
    """
    device = next(network.parameters()).device
    network.eval()

    @torch.no_grad()
    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            return to_image(network(to_tensor(low[None]).to(device))[0])
        except RuntimeError as error:
            raise enlarge_error("The network", low, error) from error

    return upscale


def enlarge_error(what: str, low: NDArray[np.uint8], error: Exception) -> DataError:
    """The DataError to raise when `what`, a network or file, fails on an image."""
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
