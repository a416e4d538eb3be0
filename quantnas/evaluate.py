"""PSNR and SSIM on the luma of photographs, with bicubic beside: protocol B of the field.

The photograph is cropped to a multiple of the scale, shrunk bicubically to uint8 (unless it comes
with a low-resolution file of its own), enlarged to uint8, and compared on BT.601 luma with a border
of `scale` pixels left out.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from . import bicubic, elsewhere, images, layouts, photographs
from .errors import DataError
from .metrics import psnr_y, ssim_y
from .onnx_session import cannot_load, open_session
from .patches import to_image, to_tensor
from .photographs import Photograph
from .space import Pixels

PROTOCOL = "uint8 bicubic LR, uint8 SR, BT.601 luma, border = scale, mean over images"
"""Where all low resolution is made here; see `protocol`."""

OWN = {True: "uint8 LR from files", False: "uint8 LR from files or, where there are none, bicubic"}
"""Whether all low resolution comes from files -> what stands in the protocol instead."""

MOST = 100.0
"""dB that equal images count as."""

SMALL = 32
"""Pixels of a side below which a network that fails is taken to fail because of the size."""
QONNX = "qonnx.custom_op"
"""The domain of operators that only QONNX files have."""

Upscaler = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""uint8 RGB (H, W, 3) -> uint8 RGB (scale*H, scale*W, 3)"""


@dataclass(frozen=True)
class Score:
    """One photograph."""

    image: str
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float

    @property
    def gain(self) -> float:
        """Over bicubic, dB."""
        return self.psnr - self.bicubic_psnr


def compare(
    upscalers: Mapping[str, Upscaler], photos: Iterable[Photograph], scale: int
) -> Iterator[dict[str, Score]]:
    """Name -> score, photograph after photograph; equal images count as 100 dB.

    Raises DataError as `photographs.read`, and for a photograph that is too small.
    """
    for photo in photos:
        p = photographs.read(photo, scale)
        require_size(p.high, photo.high, scale)
        base = _measured(bicubic.upscale(p.low, scale), p.high, scale)
        yield {
            name: Score(p.name, *_measured(upscale(p.low), p.high, scale), *base)
            for name, upscale in upscalers.items()
        }


def score(upscale: Upscaler, photos: Iterable[Photograph], scale: int) -> Iterator[Score]:
    """The scores of one; see `compare`."""
    return (rows["it"] for rows in compare({"it": upscale}, photos, scale))


def _measured(image: NDArray[np.uint8], high: NDArray[np.uint8], scale: int) -> tuple[float, float]:
    return min(psnr_y(image, high, scale), MOST), ssim_y(image, high, scale)


def protocol(photos: Iterable[Photograph]) -> str:
    """How these photographs are measured, and where their low resolution comes from."""
    own = [photo.low is not None for photo in photos]
    return PROTOCOL.replace("uint8 bicubic LR", OWN[all(own)]) if any(own) else PROTOCOL


def worst(scores: Iterable[Score]) -> Score:
    """The photograph that is least above bicubic, or most below it."""
    return min(scores, key=lambda found: found.gain)


def require_sizes(photos: Iterable[Photograph], scale: int) -> None:
    """Raise DataError, before anything is computed, for a photograph that is too small.

    Only the beginnings of the files are read; damage behind them shows later.
    """
    for photo in photos:
        height, width = photographs.low_size(photo, scale)
        _require_side(min(height, width) * scale, photo.high, scale)


def measurable(photo: Photograph, scale: int) -> bool:
    """Whether its files are sound and large enough, as far as their beginnings tell."""
    try:
        if photo.low is not None:
            images.size(photo.low)
        return min(images.size(photo.high)) >= _least(scale)
    except DataError:
        return False


def require_size(image: NDArray[np.uint8], path: Path, scale: int) -> None:
    """Raise DataError when the image (H, W, 3) is too small for SSIM behind the border."""
    _require_side(min(image.shape[:2]), path, scale)


def _require_side(side: int, path: Path, scale: int) -> None:
    least = _least(scale)
    if side < least:
        raise DataError(
            f"The photograph {path} is too small to be measured at x{scale}.",
            f"Leave it out; both sides need {least} pixels.",
        )


def _least(scale: int) -> int:
    """Pixels that a side needs: SSIM has a window of 11 behind the border."""
    return math.ceil((11 + 3 * scale) / scale) * scale


def named_sets(folders: Sequence[str]) -> dict[str, str]:
    """Name of a set -> its folder: the folder's name, where that is free and unique."""
    names = [_set_name(Path(folder)) for folder in folders]
    taken = ("", "held-out", "bundled")
    return {
        folder if names.count(name) > 1 or name in taken else name: folder
        for name, folder in zip(names, folders, strict=True)
    }


def _set_name(folder: Path) -> str:
    """The folder's own name; of one that holds the high resolution of a set, the set's."""
    match = re.fullmatch(layouts.HIGH, folder.name)
    if match is None:
        return folder.name
    return (match["set"] or "").rstrip("_") or folder.resolve().parent.name


def mean(scores: Sequence[Score]) -> Score:
    """The mean over the photographs."""
    names = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim")
    return Score("mean", *(float(np.mean([getattr(s, n) for s in scores])) for n in names))


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
    image = elsewhere.array(x, pixels).numpy()
    (made,) = run.run(None, {entry.name: np.ascontiguousarray(image)})
    out = torch.from_numpy(np.asarray(made)).float()
    scale = out.shape[2] // image.shape[2]
    found: NDArray[np.float32] = elsewhere.given(out, x, pixels, scale).numpy()
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
