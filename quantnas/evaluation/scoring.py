"""PSNR and SSIM on the luma of photographs, next to those of bicubic upscaling.

The protocol is the usual one of super-resolution: a photograph is cropped to a multiple of the
scale, downscaled bicubically to uint8 (unless it has a low-resolution file of its own), upscaled to
uint8, and compared on BT.601 luma with a border of `scale` pixels left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantnas.data import bicubic, photo_sets, photographs
from quantnas.data.photographs import Photograph
from quantnas.inference.upscaler import Upscaler

from .metrics import psnr_y, ssim_y

PROTOCOL = "uint8 bicubic LR, uint8 SR, BT.601 luma, border = scale, mean over images"
"""The protocol where all low-resolution images are made bicubically; see `protocol`."""

OWN = {True: "uint8 LR from files", False: "uint8 LR from files or, where there are none, bicubic"}
"""Whether all low-resolution images come from files -> what replaces their part of `PROTOCOL`."""

NONE: Mapping[str, Upscaler] = {}
"""No float networks."""
MOST = 100.0
"""PSNR of equal images, dB."""


@dataclass(frozen=True)
class Score:
    """PSNR-Y in dB and SSIM-Y on one photograph, of an upscaler and of bicubic."""

    image: str
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    to_float: float | None = None
    """PSNR-Y of a quantized network against the float one, dB; None where that is not at hand."""

    @property
    def gain(self) -> float:
        """PSNR-Y above bicubic, dB."""
        return self.psnr - self.bicubic_psnr


def compare(
    upscalers: Mapping[str, Upscaler],
    photos: Iterable[Photograph],
    scale: int,
    references: Mapping[str, Upscaler] = NONE,
) -> Iterator[dict[str, Score]]:
    """Name of the upscaler -> score, for one photograph after the other; equal images count 100 dB.

    references: name of a quantized network -> its float network.

    Raises DataError as `photographs.read`, and for a photograph that is too small.
    """
    for photo in photos:
        p = photographs.read(photo, scale)
        photo_sets.require_size(p.high, photo.high, scale)
        base = _measured(bicubic.upscale(p.low, scale), p.high, scale)
        used = dict.fromkeys([*upscalers.values(), *references.values()])
        images: dict[Upscaler | None, NDArray[np.uint8]] = {up: up(p.low) for up in used}
        yield {
            name: Score(
                p.name,
                *_measured(images[upscale], p.high, scale),
                *base,
                to_float=_closeness(images[upscale], images.get(references.get(name)), scale),
            )
            for name, upscale in upscalers.items()
        }


def score(upscale: Upscaler, photos: Iterable[Photograph], scale: int) -> Iterator[Score]:
    """The scores of a single upscaler, as `compare` gives them."""
    return (rows["it"] for rows in compare({"it": upscale}, photos, scale))


def _closeness(
    image: NDArray[np.uint8], target: NDArray[np.uint8] | None, scale: int
) -> float | None:
    """PSNR-Y of an image against that of the float network, dB; None without the latter."""
    return None if target is None else min(psnr_y(image, target, scale), MOST)


def _measured(image: NDArray[np.uint8], high: NDArray[np.uint8], scale: int) -> tuple[float, float]:
    return min(psnr_y(image, high, scale), MOST), ssim_y(image, high, scale)


def protocol(photos: Iterable[Photograph]) -> str:
    """The protocol of these photographs, which tells where their low resolution comes from."""
    own = [photo.low is not None for photo in photos]
    return PROTOCOL.replace("uint8 bicubic LR", OWN[all(own)]) if any(own) else PROTOCOL


def worst(scores: Iterable[Score]) -> Score:
    """The score with the smallest gain over bicubic, or the largest loss."""
    return min(scores, key=lambda score: score.gain)


def mean(scores: Sequence[Score]) -> Score:
    """The mean of the scores, as a score named `mean`."""
    names = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim")
    means = (float(np.mean([getattr(s, n) for s in scores])) for n in names)
    close = [score.to_float for score in scores if score.to_float is not None]
    return replace(Score("mean", *means), to_float=float(np.mean(close)) if close else None)
