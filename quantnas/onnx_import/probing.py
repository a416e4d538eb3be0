"""Runs a file on grey images, to find its scale and two sizes that it can take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from quantnas.errors import DataError

from .file_reader import line
from .image_entry import Entry
from .onnx_session import run_image

Size = tuple[int, int]
PAIRS: tuple[tuple[Size, Size], ...] = (
    ((37, 50), (46, 41)),
    ((24, 40), (32, 56)),
    ((48, 80), (64, 96)),
    ((96, 160), (128, 192)),
    ((128, 192), (192, 256)),
)
"""Pairs of (height, width) to try in this order; the sides of the first have no common factor."""
ALONE = 4
"""At a single size, at most so small a part of a side may be a lost border."""
ENLARGING = "Give a network that enlarges images by a whole number, as super-resolution does."
RUNNABLE = (
    "Check that other programs can run it; if it takes a single size, fix the sides of its input."
)


@dataclass(frozen=True)
class Probe:
    """Observed behaviour of a file."""

    entry: Entry
    """What the input of the file is."""
    scale: int
    channels: int
    """Channels of the output."""
    sizes: tuple[Size, ...]
    """(height, width) of the images on which the file has run."""
    lost: int = 0
    """Pixels of the output that are lacking along each side, both ends together."""


def probe(session: ort.InferenceSession, entries: Sequence[Entry], path: Path) -> Probe:
    """Run a file at two sizes, or at the single size that it is fixed to.

    entries: what its input may be; the first as which it runs is taken. Raises DataError when it
    runs at none of the tried sizes, and when it does not enlarge height and width by the same
    whole number, except for a border that it loses.
    """
    reason, remedy = "", RUNNABLE
    for entry, sizes in [(each, pair) for each in entries for pair in _pairs(each)]:
        try:
            shapes = [_shape(session, entry, size) for size in sizes]
        except Exception as error:  # ONNX Runtime has no common class of errors
            reason = reason or f"ONNX Runtime cannot run {path}: {line(error)}"
            continue
        problem = _problem(shapes, sizes)
        if problem is None:
            scale, lost = _scale(shapes, sizes)
            return Probe(entry, scale, shapes[0][1], sizes, lost)
        reason, remedy = f"{path} {problem}", ENLARGING
    raise DataError(f"{reason}.", remedy)


def _pairs(entry: Entry) -> Iterator[tuple[Size, ...]]:
    """The different pairs of sizes to try, with the sides that the file fixes."""
    pairs = []
    for pair in PAIRS:
        sizes = tuple(dict.fromkeys((entry.height or h, entry.width or w) for h, w in pair))
        if sizes not in pairs:
            pairs.append(sizes)
    yield from pairs


def _shape(session: ort.InferenceSession, entry: Entry, size: Size) -> tuple[int, ...]:
    """Shape of the file's output for a grey image of that size."""
    image = np.full((entry.batch or 1, entry.channels, *size), 0.5).astype(entry.dtype)
    shape: Any = run_image(session, image, entry.layout).shape
    return tuple(shape)


def _scale(shapes: list[tuple[int, ...]], sizes: tuple[Size, ...]) -> tuple[int, int]:
    """The scale, and the pixels of the output that are lacking along each side.

    They are 0 and 0 unless all sides are enlarged by the same whole number, but for the same
    lacking pixels.
    """
    sides = [side for size in sizes for side in size]
    pairs = sorted({*zip(sides, (side for shape in shapes for side in shape[2:]), strict=True)})
    (small, first), (large, last) = pairs[0], pairs[-1]
    scale = -(-first // small) if small == large else round((last - first) / (large - small))
    lacking = {scale * side - out for side, out in pairs}
    lost = lacking.pop()
    most = small * scale if small < large else small // ALONE
    return (scale, lost) if not lacking and 0 <= lost <= most else (0, 0)


def _problem(shapes: list[tuple[int, ...]], sizes: tuple[Size, ...]) -> str | None:
    """Why the output shapes are no enlargement of the input sizes, or None."""
    if any(len(shape) != 4 or shape[1] not in (1, 3) for shape in shapes):
        shape = " x ".join(map(str, shapes[0])) or "a number"
        return (
            f"does not turn an image into an image: it gives {shape} for one of {_text(sizes[0])}"
        )
    if _scale(shapes, sizes)[0] > 1:
        return None
    ratios = [
        out / side
        for shape, size in zip(shapes, sizes, strict=True)
        for out, side in zip(shape[2:], size, strict=True)
    ]
    if len({*ratios}) > 1:
        made = [
            f"{_text(shape[2:])} of {_text(size)}"
            for shape, size in zip(shapes, sizes, strict=True)
        ]
        return (
            f"does not enlarge all sides by the same factor: it makes {' and '.join(made)} pixels"
        )
    if ratios[0] == 1:
        return "gives images of the size that they have: it does not enlarge them"
    if ratios[0] < 2 or ratios[0] % 1:
        return f"changes the size by {ratios[0]:g}, which is no whole number above 1"
    return None


def _text(size: tuple[int, ...]) -> str:
    """The size (height, width) as text: width x height."""
    return f"{size[1]}x{size[0]}"
