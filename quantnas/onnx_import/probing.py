"""Runs a file on images without content, to find its scale and sizes that it can take."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from quantnas.errors import DataError

from .file_reader import Entry, line

Size = tuple[int, int]
PAIRS: tuple[tuple[Size, Size], ...] = (
    ((37, 50), (46, 41)),
    ((24, 40), (32, 56)),
    ((48, 80), (64, 96)),
    ((96, 160), (128, 192)),
    ((128, 192), (192, 256)),
)
"""Heights and widths that are tried, the first without common factors."""
ENLARGING = "Give a network that enlarges images by a whole number, as super-resolution does."
RUNNABLE = (
    "Check that it runs elsewhere; one that works at one size alone must say so: fix its sides."
)


@dataclass(frozen=True)
class Probe:
    """What a file does."""

    scale: int
    channels: int
    """Of the output."""
    sizes: tuple[Size, ...]
    """At which it has run."""


def probe(run: ort.InferenceSession, entry: Entry, path: Path) -> Probe:
    """Run a file at two sizes, or at the one that it is fixed to.

    Raises DataError where it runs at none of those that are tried, and where it is no enlargement
    of height and width by the same whole number.
    """
    reason, remedy = "", RUNNABLE
    for sizes in _pairs(entry):
        try:
            shapes = [_shape(run, entry, size) for size in sizes]
        except Exception as error:  # ONNX Runtime has no class for what it cannot run
            reason = reason or f"ONNX Runtime cannot run {path}: {line(error)}"
            continue
        problem = _problem(shapes, sizes)
        if problem is None:
            return Probe(shapes[0][2] // sizes[0][0], shapes[0][1], sizes)
        reason, remedy = f"{path} {problem}", ENLARGING
    raise DataError(f"{reason}.", remedy)


def _pairs(entry: Entry) -> Iterator[tuple[Size, ...]]:
    """Without those sides that the file has fixed."""
    known = []
    for pair in PAIRS:
        sizes = tuple(dict.fromkeys((entry.height or h, entry.width or w) for h, w in pair))
        if sizes not in known:
            known.append(sizes)
    yield from known


def _shape(run: ort.InferenceSession, entry: Entry, size: Size) -> tuple[int, ...]:
    image = np.full((entry.batch or 1, entry.channels, *size), 0.5).astype(entry.dtype)
    (out,) = run.run(None, {entry.name: image})
    shape: Any = np.asarray(out).shape
    return tuple(shape)


def _problem(shapes: list[tuple[int, ...]], sizes: tuple[Size, ...]) -> str | None:
    """What makes it no enlargement."""
    if any(len(shape) != 4 or shape[1] not in (1, 3) for shape in shapes):
        shape = " x ".join(map(str, shapes[0])) or "a number"
        return f"is no network from image to image: it gives {shape} for one of {_text(sizes[0])}"
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
    """(height, width) -> width x height"""
    return f"{size[1]}x{size[0]}"
