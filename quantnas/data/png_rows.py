"""Writes a PNG file row by row, for images that are larger than the memory."""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quantnas.config import files
from quantnas.errors import DataError

from .image_files import remedy

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {1: 0, 3: 2}
"""Number of channels -> colour type of PNG: grey, or red, green and blue."""
LEVEL = 6
"""Level of compression, that of PIL."""
TOGETHER = 64
"""Rows that are filtered at a time."""

Rows = NDArray[np.uint8]
"""(n, W, C) rows of an image."""


@contextmanager
def writing(
    path: Path,
    size: tuple[int, int],
    channels: int,
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> Iterator[Callable[[Rows], None]]:
    """Yield a function that appends rows to a new PNG file of 8 bits; the last one completes it.

    size: (height, width). channels: 1 or 3. icc: colour profile; dpi: dots per inch. The file
    appears complete or not at all. Raises DataError when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as part, part.open("wb") as file:
            file.write(SIGNATURE)
            header = struct.pack(">IIBBBBB", size[1], size[0], 8, COLOURS[channels], 0, 0, 0)
            _chunk(file, b"IHDR", header)
            if icc is not None:
                _chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
            if dpi is not None:
                _chunk(file, b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in dpi), 1))
            packer, above = zlib.compressobj(LEVEL), np.zeros((1, size[1], channels), np.uint8)

            def add(rows: Rows) -> None:
                nonlocal above
                for start in range(0, len(rows), TOGETHER):
                    some = rows[start : start + TOGETHER]
                    _chunk(file, b"IDAT", packer.compress(_filtered(some, above)))
                    above = some[-1:].copy()

            yield add
            _chunk(file, b"IDAT", packer.flush())
            _chunk(file, b"IEND", b"")
    except OSError as error:
        raise DataError(
            f"The image '{path}' cannot be written ({error.strerror}).", remedy(error)
        ) from error


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    """Append a chunk with its length and checksum; an empty part of the pixels is left out."""
    if content or kind == b"IEND":
        checksum = zlib.crc32(content, zlib.crc32(kind))
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))


def _filtered(rows: Rows, above: Rows) -> bytes:
    """The bytes of rows, each behind the number of the filter that leaves the least to code.

    above: the row before them, (1, W, C).
    """
    up = np.concatenate([above, rows[:-1]]).astype(np.int16)
    here = rows.astype(np.int16)
    left, corner = np.zeros_like(here), np.zeros_like(here)
    left[:, 1:], corner[:, 1:] = here[:, :-1], up[:, :-1]
    guesses = {1: left, 2: up, 4: _paeth(left, up, corner)}
    options = [(here - guess).astype(np.uint8).reshape(len(rows), -1) for guess in guesses.values()]
    costs = [np.abs(option.view(np.int8).astype(np.int16)).sum(1) for option in options]
    best = np.argmin(costs, axis=0)
    numbers = np.array([*guesses], np.uint8)[best]
    chosen = np.choose(best[:, None], options)
    return np.concatenate([numbers[:, None], chosen], axis=1).tobytes()


def _paeth(
    left: NDArray[np.int16], up: NDArray[np.int16], corner: NDArray[np.int16]
) -> NDArray[np.int16]:
    """The neighbour that is nearest to left + up - corner (PNG, filter type 4)."""
    over, across = np.abs(up - corner), np.abs(left - corner)
    both = np.abs(left + up - 2 * corner)
    nearest = np.where(across <= both, up, corner)
    return np.where((over <= across) & (over <= both), left, nearest)
