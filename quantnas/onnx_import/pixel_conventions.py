"""Pixel conventions of an imported network, determined by running it on photographs.

Photographs are shrunk, and enlarged by the network under every assumption; the assumption whose
result is closest to the photographs holds. Closeness says little about a network that sharpens:
where bicubic enlargement is closer, the usual conventions, 0..1 and RGB, hold unless others are
better by several dB. A convention without a clear result is reported as assumed.
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

from quantnas.config.search_space import Pixels
from quantnas.data import bicubic, image_files

from . import pixel_conversion
from .importer import OnnxImport

PEAKS = (1, 255)
"""Values that white may have."""
CLEAR = 0.1
"""Difference of PSNR from which on one assumption is clearly better than another, dB."""
AGREED = 0.04
"""Difference of PSNR that is clear when all photographs agree, dB."""
SEVERAL = 3.0
"""Difference of PSNR that is clear where bicubic enlargement is better than the network, dB."""
POOR = 6.0
"""PSNR below bicubic enlargement beyond which a result is not a picture, dB."""
MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128)
"""Numbers of pixels that are tried as the common divisor of both sides."""
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
SMALL = 160
"""Largest side at which the smallest accepted side is looked for, pixels."""
LARGE = (72, 108)
"""Height and width of the shrunk photographs that determine the channel order, pixels."""
BT601 = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A shrunk photograph (h, w, 3) and the large one (scale*h, scale*w, 3)."""


@dataclass(frozen=True)
class Conventions:
    """Pixel conventions of a network, and how each was determined."""

    scale: int
    channels: int
    """Channels of the input. 1: luma (Y) alone; 3: colours."""
    input_peak: int
    """Value of white in the input: 1 or 255."""
    output_peak: int
    """Value of white in the output: 1 or 255."""
    order: str
    """Order of the channels: RGB, BGR, or Y without colours."""
    multiple: int | None
    """Pixels of which both sides must be a multiple; None if the file is fixed to one size."""
    smallest: int | None
    """Smallest side that it can enlarge, pixels; None if the file is fixed to one size."""
    how: dict[str, str]
    """Field -> how its value was determined."""


def conventions(imported: OnnxImport) -> Conventions:
    """Determine the conventions on bundled photographs and, with shapes alone, at many sizes."""
    multiple, smallest, why_sizes = _sizes(imported)
    peaks, why_peaks, is_picture = _peaks(imported, _pairs(imported, imported.sizes[-1]))
    order, why_order = "RGB", why_peaks  # its reason is that of the peaks where there is no picture
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


# Conventions determined on photographs


def _pairs(imported: OnnxImport, size: tuple[int, int]) -> list[Pair]:
    """Pairs whose shrunk photograph has `size`, (height, width), with the border that is added.

    Whole photographs are resized.
    """
    height, width = ((side - 2 * imported.border) * imported.scale for side in size)
    photographs = map(image_files.read, image_files.bundled().held_out)
    highs = (bicubic.resize(photo, height, width, antialias=True) for photo in photographs)
    return [(bicubic.downscale(high, imported.scale), high) for high in highs]


def _large(imported: OnnxImport, multiple: int | None) -> tuple[int, int]:
    """A size at which photographs keep their colours, or the size that the file is fixed to."""
    if multiple is None:
        return imported.sizes[-1]
    height, width = (max(1, side // multiple) * multiple for side in LARGE)
    return height, width


def _peaks(imported: OnnxImport, pairs: list[Pair]) -> tuple[tuple[int, int], str, bool]:
    """White (in the input, in the output), the reason, and whether the result is a picture."""
    inputs = (255,) if imported.entry.dtype == "uint8" else PEAKS
    psnrs = {
        peaks: _mean(_psnrs(imported, pairs, peaks, False)) for peaks in product(inputs, PEAKS)
    }
    first = max(psnrs, key=psnrs.__getitem__)
    usual, plain = (inputs[0], inputs[0]), _bicubic(pairs, imported.scale)
    if psnrs[first] < plain - POOR:
        reason = f"under no assumption is the result a picture ({psnrs[first]:.1f} dB)"
        return usual, f"assumed: {reason}", False
    sharpens = psnrs[first] < plain
    if psnrs[first] - psnrs[usual] < (SEVERAL if sharpens else CLEAR):
        first = usual
    second = max((peaks for peaks in psnrs if peaks != first), key=psnrs.__getitem__)
    measured = f"{psnrs[first]:.1f} dB; with {_text(second)} {psnrs[second]:.1f} dB"
    unclear = sharpens and psnrs[first] - psnrs[second] < SEVERAL
    return first, f"assumed: {measured}" if unclear else measured, True


def _bicubic(pairs: list[Pair], scale: int) -> float:
    """Mean PSNR of bicubic enlargement, dB."""
    return _mean(
        [_psnr(bicubic.upscale(low, scale) / np.float32(255), high) for low, high in pairs]
    )


def _text(peaks: tuple[int, int]) -> str:
    """The ranges of input and output in words."""
    return f"0..{peaks[0]} in and 0..{peaks[1]} out"


def _order(imported: OnnxImport, pairs: list[Pair], peaks: tuple[int, int]) -> tuple[str, str]:
    """Order of the channels and the reason; all photographs must agree on it.

    It is assumed where bicubic enlargement is better, unless the difference is several dB.
    """
    rgb, bgr = (_psnrs(imported, pairs, peaks, turned) for turned in (False, True))
    measured = f"{_mean(rgb):.2f} dB as RGB, {_mean(bgr):.2f} dB as BGR"
    gains = [a - b for a, b in zip(rgb, bgr, strict=True)]
    sharpens = max(_mean(rgb), _mean(bgr)) < _bicubic(pairs, imported.scale)
    clear = abs(_mean(gains)) >= (SEVERAL if sharpens else AGREED)
    if not clear or not (min(gains) > 0 or max(gains) < 0):
        return "RGB", f"assumed: {measured}"
    return ("RGB" if gains[0] > 0 else "BGR"), measured


def _psnrs(
    imported: OnnxImport, pairs: list[Pair], peaks: tuple[int, int], turned: bool
) -> list[float]:
    """PSNR of every enlarged photograph, dB; on luma if the network gives luma alone.

    turned: whether to swap red and blue.
    """
    white, out_white = peaks
    psnrs = []
    for low, high in pairs:
        x = _planes(low, imported.entry.channels) * white
        x = x.flip(1) if turned else x
        x = x.round().to(torch.uint8) if imported.entry.dtype == "uint8" else x
        x = x.expand(imported.entry.batch or 1, *x.shape[1:]).contiguous()
        form = Pixels(border=imported.border)
        with torch.no_grad():
            out = imported.network(pixel_conversion.extended(x, form))[:1].float() / out_white
        out = pixel_conversion.cut(out, x, form, imported.scale)
        target = _planes(high, imported.channels)
        psnrs.append(_psnr((out.flip(1) if turned else out).numpy(), target.numpy() * 255))
    return psnrs


def _psnr(out: NDArray[Any], high: NDArray[Any]) -> float:
    """PSNR of an output in [0, 1] against bytes, dB; 0 if it contains NaN."""
    error = float(np.mean((np.clip(out, -1, 2) - high / 255.0) ** 2))
    return -10 * math.log10(max(error, 1e-10)) if math.isfinite(error) else 0.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _planes(image: NDArray[np.uint8], channels: int) -> Tensor:
    """Convert (H, W, 3) of uint8 to (1, channels, H, W) in [0, 1]; a single channel is luma."""
    x = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)).float()
    weights = torch.tensor(BT601).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True) if channels == 1 else x


# Conventions determined at many sizes


def _sizes(imported: OnnxImport) -> tuple[int | None, int | None, str]:
    """The multiple of both sides, the smallest side, and the reason."""
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
    """Two sides, at least `least` pixels, whose greatest common divisor is `multiple`."""
    first = next(k for k, prime in enumerate(PRIMES) if prime * multiple >= least)
    return PRIMES[first] * multiple, PRIMES[first + 1] * multiple


def _takes(imported: OnnxImport, shapes: fx.GraphModule, size: tuple[int, int]) -> bool:
    """Whether a network on the meta device enlarges images of that size without errors."""
    kind = torch.uint8 if imported.entry.dtype == "uint8" else torch.float32
    shape = (imported.entry.batch or 1, imported.entry.channels, *size)
    try:
        with torch.device("meta"), torch.no_grad():
            out = shapes(torch.empty(shape, dtype=kind))
    except (RuntimeError, ValueError, IndexError):  # torch raises these for shapes that do not fit
        return False
    return tuple(out.shape[2:]) == tuple(side * imported.scale - imported.lost for side in size)
