"""PSNR and SSIM on the luma of photographs, with bicubic beside: protocol B of the field.

The photograph is cropped to a multiple of the scale, shrunk bicubically to uint8, enlarged to
uint8, and compared on BT.601 luma with a border of `scale` pixels left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from . import bicubic
from .errors import DataError
from .metrics import psnr_y, ssim_y
from .patches import pair, to_image, to_tensor

PROTOCOL = "uint8 bicubic LR, uint8 SR, BT.601 luma, border = scale, mean over images"

MOST = 100.0
"""dB that equal images count as."""

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


def score(upscale: Upscaler, paths: Sequence[Path], scale: int) -> Iterator[Score]:
    """The scores of photographs, one after another; equal images count as 100 dB.

    Raises DataError as `images.read`, and for a photograph that is too small.
    """
    for path in paths:
        p = pair(path, scale)
        require_size(p.high, path, scale)
        ours, base = upscale(p.low), bicubic.upscale(p.low, scale)
        yield Score(
            p.name,
            min(psnr_y(ours, p.high, scale), MOST),
            ssim_y(ours, p.high, scale),
            min(psnr_y(base, p.high, scale), MOST),
            ssim_y(base, p.high, scale),
        )


def require_size(image: NDArray[np.uint8], path: Path, scale: int) -> None:
    """Raise DataError when the image (H, W, 3) is too small for SSIM behind the border."""
    least = 11 + 3 * scale
    if min(image.shape[:2]) < least:
        raise DataError(
            f"The photograph {path} is too small to be measured at x{scale}.",
            f"Leave it out; both sides need {least} pixels.",
        )


def named_sets(folders: Sequence[str]) -> dict[str, str]:
    """Name of a set -> its folder: the folder's own name where that is unique and free."""
    names = [Path(folder).name for folder in folders]
    taken = ("", "held-out", "bundled")
    return {
        folder if names.count(name) > 1 or name in taken else name: folder
        for name, folder in zip(names, folders, strict=True)
    }


def mean(scores: Sequence[Score]) -> Score:
    """The mean over the photographs."""
    names = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim")
    return Score("mean", *(float(np.mean([getattr(s, n) for s in scores])) for n in names))


def session(path: Path, threads: int = 0) -> ort.InferenceSession:
    """The file in ONNX Runtime at its default optimisation level. Raises what it raises."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_upscaler(path: Path) -> Upscaler:
    """An exported file as a function. Raises DataError when it cannot be loaded."""
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Check the path.")
    try:
        run = session(path)
    except Exception as error:
        raise DataError(
            f"ONNX Runtime {ort.__version__} cannot load {path}: {error}.",
            "Check that it is a complete ONNX file, or update ONNX Runtime.",
        ) from error

    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        (out,) = run.run(None, {"lr": to_tensor(low[None]).numpy()})
        return to_image(torch.from_numpy(np.asarray(out)[0]))

    return upscale


def torch_upscaler(network: nn.Module) -> Upscaler:
    """A network as a function."""
    device = next(network.parameters()).device
    network.eval()

    @torch.no_grad()
    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return to_image(network(to_tensor(low[None]).to(device))[0])

    return upscale
