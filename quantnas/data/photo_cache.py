"""Pairs of both resolutions in a cache folder: an image is decoded and shrunk only once.

A key says what is in a file: the bytes of the images, the scale, and how they were shrunk. So
nothing in the cache is ever out of date, and the folder may be deleted at any time. It is never
cleaned here.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quantnas.config import files
from quantnas.errors import DataError

from . import photographs
from .patches import Pair
from .photographs import LONGEST, Photograph

VERSION = 1
"""Goes up when the same files would become other arrays."""
FREE = 1 << 30
"""Bytes of its disk that the cache leaves free."""
TOLERATED = 0.1
"""Share of damaged photographs up to which they are left out."""
_NAMED = 5  # damaged photographs that an error names


@dataclass(frozen=True)
class Reading:
    """How far the photographs are read."""

    done: int
    total: int
    small: int
    damaged: int

    def facts(self) -> dict[str, str]:
        """Why photographs are left out, and how many so far."""
        return {"too small": str(self.small), "damaged": str(self.damaged)}


@dataclass(frozen=True)
class Loaded:
    """What there is to learn from."""

    pairs: tuple[Pair, ...]
    small: int
    """Photographs left out since they hold no patch."""
    damaged: tuple[str, ...]
    """Why others were left out; each names its file."""
    cached: bool
    """Whether all pairs lie in the cache folder; the others are held in memory."""

    @property
    def left_out(self) -> int:
        """How many photographs are not among the pairs."""
        return self.small + len(self.damaged)

    def counts(self) -> dict[str, Any]:
        """What a step keeps of it."""
        return {
            "used": len(self.pairs),
            "too_small": self.small,
            "damaged": list(self.damaged),
            "cached": self.cached,
        }

    def remarks(self) -> list[str]:
        """What is worth a line each in the log."""
        lines = [f"photograph left out: {cause}" for cause in self.damaged]
        if self.small:
            lines.append(f"photographs left out, smaller than a patch: {self.small}")
        if not self.cached:
            lines.append(f"photographs are held in memory, since {folder()} takes no more files")
        return lines


def folder() -> Path:
    """Where the cache lies: $QUANTNAS_CACHE, or `quantnas` in the user's folder for caches."""
    chosen = os.environ.get("QUANTNAS_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(chosen or root + "/quantnas")


def load(photos: Sequence[Photograph], scale: int, size: int) -> Loaded:
    """`loading` without its records."""
    steps = loading(photos, scale, size)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            loaded: Loaded = end.value
            return loaded


def loading(
    photos: Sequence[Photograph], scale: int, size: int
) -> Generator[Reading, None, Loaded]:
    """Pairs of all photographs that hold a patch of `size` low-resolution pixels.

    A record after every photograph. Raises DataError when there is none, and when more than a
    tenth cannot be read.
    """
    pairs, damaged, small, cached = list[Pair](), list[str](), 0, True
    for done, photo in enumerate(photos, 1):
        try:
            if min(photographs.low_size(photo, scale, LONGEST)) < size:
                small += 1
            else:
                pair, kept = fetch(photo, scale)
                pairs.append(pair)
                cached = cached and kept
        except DataError as error:
            damaged.append(error.cause)
            _require_sound(damaged, len(photos))
        yield Reading(done, len(photos), small, len(damaged))
    if not pairs:
        raise DataError(
            f"No photograph is as large as a patch of {size * scale}x{size * scale} pixels.",
            "Add larger photographs, or make the patches smaller.",
        )
    return Loaded(tuple(pairs), small, tuple(damaged), cached)


def _require_sound(damaged: Sequence[str], total: int) -> None:
    if len(damaged) > TOLERATED * total:
        raise DataError(
            f"More than {TOLERATED:.0%} of {total} photographs cannot be used: "
            f"{' '.join(damaged[:_NAMED])}{' And more.' if len(damaged) > _NAMED else ''}",
            "Replace, convert or remove these files.",
        )


def any_holds(photos: Sequence[Photograph], scale: int, size: int) -> bool:
    """Whether `loading` will find a patch, as far as the beginnings of the files tell.

    Raises DataError when they tell that it would refuse them.
    """
    found, damaged = False, list[str]()
    for photo in photos:
        try:
            found = min(photographs.low_size(photo, scale, LONGEST)) >= size or found
        except DataError as error:
            damaged.append(error.cause)
            _require_sound(damaged, len(photos))
    return found


def fetch(photo: Photograph, scale: int) -> tuple[Pair, bool]:
    """The pair as `photographs.read` gives it for learning, and whether it lies in the cache.

    Raises DataError as `photographs.read`.
    """
    name = key(photo, scale)
    files = [folder() / f"{name}.{part}.npy" for part in ("low", "high")]
    found = _opened(photo.name, scale, files)
    if found is not None:
        return found, True
    pair = photographs.read(photo, scale, LONGEST)
    try:
        for file, array in zip(files, (pair.low, pair.high), strict=True):
            _write(file, array)
    except OSError:
        return pair, False
    found = _opened(photo.name, scale, files)
    return found or pair, found is not None


def key(photo: Photograph, scale: int) -> str:
    """The name of a pair in the cache: a hash of all that it depends on. Raises DataError."""
    rule = f"bicubic, at most {LONGEST}" if photo.low is None else "as given"
    parts = [f"version {VERSION}", f"x{scale}", rule]
    parts += [_digest(path) for path in (photo.high, photo.low) if path is not None]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"The image '{path}' cannot be opened ({error.strerror}).", "Check the file."
        ) from error


def _opened(name: str, scale: int, files: Sequence[Path]) -> Pair | None:
    """The pair in these files; none when one is missing or damaged."""
    try:
        low, high = (_mapped(file) for file in files)
    except (OSError, ValueError, RuntimeError):
        return None
    fits = high.shape == (scale * low.shape[0], scale * low.shape[1], 3)
    return Pair(name, low, high) if fits else None


def _mapped(path: Path) -> NDArray[np.uint8]:
    """The array (H, W, 3) of a file, read from the disk where it is touched.

    Mapped by torch, which closes the file: numpy keeps every one open, and a process may have no
    more than about a thousand. Raises OSError, ValueError or RuntimeError for a damaged file.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        start, length = file.tell(), os.fstat(file.fileno()).st_size
    sound = dtype == np.uint8 and not fortran and len(shape) == 3 and shape[-1] == 3
    if not sound or length != start + math.prod(shape):
        raise ValueError(f"{path} is damaged")
    whole = torch.from_file(str(path), shared=False, size=length, dtype=torch.uint8).numpy()
    whole.flags.writeable = False
    array: NDArray[np.uint8] = whole[start:].reshape(shape)
    return array


def _write(path: Path, array: NDArray[np.uint8]) -> None:
    """Write a file whole or not at all. Raises OSError, also when the disk would become full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < array.nbytes + FREE:
        raise OSError(f"no space for {path}")
    with files.replacing(path) as part, part.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0))
