"""What an imported network expects of an image, and gives: found out by trying, not guessed.

A photograph is shrunk, and enlarged by the network under every assumption; the one whose result is
closest to the photograph holds. What is not clear is said to be assumed.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from quantnas.data import bicubic, image_files

from .importer import OnnxImport

PEAKS = (1, 255)
"""Values that white may have."""
CLEAR = 0.1
"""dB by which one assumption must be better than another to be more than assumed."""
AGREED = 0.04
"""The same where all photographs agree."""
POOR = 6.0
"""dB below bicubic beyond which the result is no picture."""
MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128)
"""Of pixels that sides are tried to have."""
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
SMALL = 160
"""Pixels of a side up to which the smallest one is looked for."""
LARGE = (72, 108)
"""Height and width of the small photographs by which the order of colours is found, pixels."""
BT601 = (0.299, 0.587, 0.114)

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A small photograph (h, w, 3) and the large one (scale*h, scale*w, 3)."""


@dataclass(frozen=True)
class Conventions:
    """What a network expects and gives."""

    scale: int
    channels: int
    """1: brightness (Y) alone; 3: colours"""
    input_peak: int
    """Value of white: 1 or 255."""
    output_peak: int
    order: str
    """RGB or BGR; Y where there are no colours"""
    multiple: int | None
    """Both sides must be multiples of it, pixels; None where the file is fixed to one size."""
    smallest: int | None
    """Pixels of a side that it can enlarge, at least; None as above."""
    how: dict[str, str]
    """Field -> how it was found."""


def conventions(imported: OnnxImport) -> Conventions:
    """Try the network on the bundled photographs and, without numbers, at many sizes."""
    multiple, smallest, why_sizes = _sizes(imported)
    peaks, why_peaks, is_picture = _peaks(imported, _pairs(imported, imported.sizes[-1]))
    order, why_order = "RGB", why_peaks
    if imported.entry.channels == 1:
        order, why_order = "Y", "the file takes one channel"
    elif is_picture:
        order, why_order = _order(imported, _pairs(imported, _large(imported, multiple)), peaks)
    channels = imported.entry.channels
    how = {
        "scale": f"the file makes {imported.scale} times as many pixels along each side",
        "channels": f"the file takes {channels}",
        "input_peak": why_peaks,
        "output_peak": why_peaks,
        "order": why_order,
        "multiple": why_sizes,
        "smallest": why_sizes,
    }
    fields = imported.scale, channels, *peaks, order, multiple, smallest
    return Conventions(*fields, how)


# By photographs


def _pairs(imported: OnnxImport, size: tuple[int, int]) -> list[Pair]:
    """Photographs whose small ones have that height and width, not cut but resized as a whole."""
    height, width = (side * imported.scale for side in size)
    photographs = map(image_files.read, image_files.bundled().held_out)
    highs = (bicubic.resize(photo, height, width, antialias=True) for photo in photographs)
    return [(bicubic.downscale(high, imported.scale), high) for high in highs]


def _large(imported: OnnxImport, multiple: int | None) -> tuple[int, int]:
    """A size at which colours differ as in photographs, or the one that the file is fixed to."""
    if multiple is None:
        return imported.sizes[-1]
    height, width = (max(1, side // multiple) * multiple for side in LARGE)
    return height, width


def _peaks(imported: OnnxImport, pairs: list[Pair]) -> tuple[tuple[int, int], str, bool]:
    """(of the input, of the output), how they were found, and whether the result is a picture."""
    inputs = (255,) if imported.entry.dtype == "uint8" else PEAKS
    found = {
        peaks: _mean(_psnrs(imported, pairs, peaks, False)) for peaks in product(inputs, PEAKS)
    }
    first, *others = sorted(found, key=found.__getitem__, reverse=True)
    usual = inputs[0], inputs[0]
    plain = (bicubic.upscale(low, imported.scale) / np.float32(255) for low, _ in pairs)
    least = (
        _mean([_psnr(image, high) for image, (_, high) in zip(plain, pairs, strict=True)]) - POOR
    )
    if found[first] < least:
        told = f"under no assumption is the result a picture ({found[first]:.1f} dB)"
        return usual, f"assumed: {told}", False
    if found[first] - found[usual] < CLEAR:
        first, others = usual, [peaks for peaks in found if peaks != usual]
    second = max(others, key=found.__getitem__)
    return first, f"{found[first]:.1f} dB; with {_text(second)} {found[second]:.1f} dB", True


def _text(peaks: tuple[int, int]) -> str:
    return f"0..{peaks[0]} in and 0..{peaks[1]} out"


def _order(imported: OnnxImport, pairs: list[Pair], peaks: tuple[int, int]) -> tuple[str, str]:
    """Which colour comes first, and how that was found: all photographs must agree."""
    rgb, bgr = (_psnrs(imported, pairs, peaks, turned) for turned in (False, True))
    measured = f"{_mean(rgb):.2f} dB as RGB, {_mean(bgr):.2f} dB as BGR"
    gains = [a - b for a, b in zip(rgb, bgr, strict=True)]
    if abs(_mean(gains)) < AGREED or not (min(gains) > 0 or max(gains) < 0):
        return "RGB", f"assumed: {measured}"
    return ("RGB" if gains[0] > 0 else "BGR"), measured


def _psnrs(
    imported: OnnxImport, pairs: list[Pair], peaks: tuple[int, int], turned: bool
) -> list[float]:
    """Of every photograph, dB; against its brightness where that is all that comes out."""
    white, out_white = peaks
    found = []
    for low, high in pairs:
        x = _planes(low, imported.entry.channels) * white
        x = x.flip(1) if turned else x
        x = x.round().to(torch.uint8) if imported.entry.dtype == "uint8" else x
        x = x.expand(imported.entry.batch or 1, *x.shape[1:]).contiguous()
        with torch.no_grad():
            out = imported.network(x)[:1].float() / out_white
        wanted = _planes(high, imported.channels)
        found.append(_psnr((out.flip(1) if turned else out).numpy(), wanted.numpy() * 255))
    return found


def _psnr(found: NDArray[Any], high: NDArray[Any]) -> float:
    """dB, of what should be in [0, 1] and of bytes; 0 for what is no number."""
    error = float(np.mean((np.clip(found, -1, 2) - high / 255.0) ** 2))
    return -10 * math.log10(max(error, 1e-10)) if math.isfinite(error) else 0.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _planes(image: NDArray[np.uint8], channels: int) -> Tensor:
    """(H, W, 3) -> (1, channels, H, W) in [0, 1]; one channel is the brightness."""
    x = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)).float()
    weights = torch.tensor(BT601).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True) if channels == 1 else x


# By sizes


def _sizes(imported: OnnxImport) -> tuple[int | None, int | None, str]:
    """Multiple and smallest side, and how they were found."""
    entry = imported.entry
    if entry.height or entry.width:
        return None, None, "the file is fixed to a size"
    shapes = copy.deepcopy(imported.network).to("meta")
    least = min(min(size) for size in imported.sizes)
    multiple = next((m for m in MULTIPLES if _takes(imported, shapes, _coprime(m, least))), None)
    if multiple is None:
        return None, None, f"assumed: no multiple up to {MULTIPLES[-1]} fits"
    sides = range(multiple, SMALL + multiple, multiple)
    small = next((n for n in sides if _takes(imported, shapes, (n, n + multiple))), None)
    return multiple, small, "tried at sizes that have no other factor in common"


def _coprime(multiple: int, least: int) -> tuple[int, int]:
    """Two sides with no factor in common but this one."""
    first = next(k for k, prime in enumerate(PRIMES) if prime * multiple >= least)
    return PRIMES[first] * multiple, PRIMES[first + 1] * multiple


def _takes(imported: OnnxImport, shapes: fx.GraphModule, size: tuple[int, int]) -> bool:
    """Whether the shapes of a network without numbers fit together for images of that size."""
    kind = torch.uint8 if imported.entry.dtype == "uint8" else torch.float32
    shape = (imported.entry.batch or 1, imported.entry.channels, *size)
    try:
        with torch.device("meta"), torch.no_grad():
            out = shapes(torch.empty(shape, dtype=kind))
    except (RuntimeError, ValueError, IndexError):  # as torch refuses shapes
        return False
    return tuple(out.shape[2:]) == tuple(side * imported.scale for side in size)
