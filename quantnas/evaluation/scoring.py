"""PSNR and SSIM on the luma of photographs, with bicubic beside: protocol B of the field.

The photograph is cropped to a multiple of the scale, shrunk bicubically to uint8 (unless it comes
with a low-resolution file of its own), enlarged to uint8, and compared on BT.601 luma with a border
of `scale` pixels left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantnas.data import bicubic, photo_sets, photographs
from quantnas.data.photographs import Photograph
from quantnas.inference.upscaler import Upscaler

from .metrics import psnr_y, ssim_y

PROTOCOL = "uint8 bicubic LR, uint8 SR, BT.601 luma, border = scale, mean over images"
"""Where all low resolution is made here; see `protocol`."""

OWN = {True: "uint8 LR from files", False: "uint8 LR from files or, where there are none, bicubic"}
"""Whether all low resolution comes from files -> what stands in the protocol instead."""

MOST = 100.0
"""dB that equal images count as."""


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
        photo_sets.require_size(p.high, photo.high, scale)
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


def mean(scores: Sequence[Score]) -> Score:
    """The mean over the photographs."""
    names = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim")
    return Score("mean", *(float(np.mean([getattr(s, n) for s in scores])) for n in names))
