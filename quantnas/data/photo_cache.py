"""A cache folder of image pairs, so that every photograph is decoded and shrunk only once.

The key of a pair is a hash of the bytes of the images, the scale and the way of shrinking. So
nothing in the cache is ever out of date, and the folder may be deleted at any time. The program
never cleans it.
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
"""Version of the stored arrays; raise it when the same files would give other arrays."""
FREE = 1 << 30
"""Bytes that the cache leaves free on its disk."""
TOLERATED = 0.1
"""Largest share of damaged photographs that are left out without an error."""
GONE = "does not exist."
"""End of the cause of an error about a missing file (`errors.missing`)."""
_LISTED = 5  # damaged photographs that an error names


@dataclass(frozen=True)
class Reading:
    """Progress of reading the photographs, in numbers of photographs."""

    done: int
    total: int
    small: int
    """Photographs left out so far because they are smaller than a patch."""
    damaged: int
    """Photographs left out so far because they cannot be read."""

    def facts(self) -> dict[str, str]:
        """Reason -> number of photographs left out so far, as text."""
        return {"too small": str(self.small), "damaged": str(self.damaged)}


@dataclass(frozen=True)
class Loaded:
    """The pairs to train on, and what was left out."""

    pairs: tuple[Pair, ...]
    small: int
    """Number of photographs left out because they are smaller than a patch."""
    damaged: tuple[str, ...]
    """Why each damaged photograph was left out; every text names its file."""
    cached: bool
    """Whether all pairs lie in the cache folder; if not, some are held in memory."""

    @property
    def left_out(self) -> int:
        """Number of photographs that are not among the pairs."""
        return self.small + len(self.damaged)

    def counts(self) -> dict[str, Any]:
        """The record that a step of a run keeps, as JSON."""
        return {
            "used": len(self.pairs),
            "too_small": self.small,
            "damaged": list(self.damaged),
            "cached": self.cached,
        }

    def remarks(self) -> list[str]:
        """Lines for the log about photographs left out or held in memory."""
        lines = [f"photograph left out: {cause}" for cause in self.damaged]
        if self.small:
            lines.append(f"photographs left out, smaller than a patch: {self.small}")
        if not self.cached:
            lines.append(f"photographs are held in memory, since {folder()} takes no more files")
        return lines


def folder() -> Path:
    """The cache folder: $QUANTNAS_CACHE, or `quantnas` in the user's folder for caches."""
    configured = os.environ.get("QUANTNAS_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(configured or root + "/quantnas")


def load(photos: Sequence[Photograph], scale: int, size: int) -> Loaded:
    """Load the pairs of all photographs as `loading` does, without progress records."""
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
    """Load the pairs of all photographs that hold a patch of `size` x `size` low-resolution pixels.

    Yields a record after every photograph. Raises DataError when no photograph is large enough,
    and when more than a tenth of them cannot be read.
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
    """Raise DataError when more than the tolerated share of the photographs is damaged."""
    if len(damaged) > TOLERATED * total:
        remedy = "Replace, convert or remove these files."
        if all(cause.endswith(GONE) for cause in damaged):
            remedy = (
                "If their folder was moved, move it back or leave a link there, or begin a new run "
                "with --data and its new place."
            )
        raise DataError(
            f"More than {TOLERATED:.0%} of {total} photographs cannot be used: "
            f"{' '.join(damaged[:_LISTED])}{' And more.' if len(damaged) > _LISTED else ''}",
            remedy,
        )


def any_holds(photos: Sequence[Photograph], scale: int, size: int) -> bool:
    """Whether any photograph holds a patch of `size` low-resolution pixels.

    Only the beginnings of the files are read. Raises DataError when they show already that
    `loading` would refuse the photographs.
    """
    holds, damaged = False, list[str]()
    for photo in photos:
        try:
            holds = min(photographs.low_size(photo, scale, LONGEST)) >= size or holds
        except DataError as error:
            damaged.append(error.cause)
            _require_sound(damaged, len(photos))
    return holds


def fetch(photo: Photograph, scale: int) -> tuple[Pair, bool]:
    """Read the pair of a photograph, shrunk for training, and tell whether it lies in the cache.

    Raises DataError as `photographs.read`.
    """
    name = key(photo, scale)
    files = [folder() / f"{name}.{part}.npy" for part in ("low", "high")]
    cached = _opened(photo.name, scale, files)
    if cached is not None:
        return cached, True
    pair = photographs.read(photo, scale, LONGEST)
    try:
        for file, array in zip(files, (pair.low, pair.high), strict=True):
            _write(file, array)
    except OSError:
        return pair, False
    cached = _opened(photo.name, scale, files)
    return cached or pair, cached is not None


def key(photo: Photograph, scale: int) -> str:
    """Name of a pair in the cache: a hash of everything it depends on. Raises DataError."""
    rule = f"bicubic, at most {LONGEST}" if photo.low is None else "as given"
    parts = [f"version {VERSION}", f"x{scale}", rule]
    parts += [_digest(path) for path in (photo.high, photo.low) if path is not None]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest(path: Path) -> str:
    """SHA-256 hash of a file, in hexadecimal. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"The image '{path}' cannot be opened ({error.strerror}).", "Check the file."
        ) from error


def _opened(name: str, scale: int, files: Sequence[Path]) -> Pair | None:
    """The pair stored in two cache files; None when one of them is missing or damaged."""
    try:
        low, high = (_mapped(file) for file in files)
    except (OSError, ValueError, RuntimeError):
        return None
    fits = high.shape == (scale * low.shape[0], scale * low.shape[1], 3)
    return Pair(name, low, high) if fits else None


def _mapped(path: Path) -> NDArray[np.uint8]:
    """Memory-map the array (H, W, 3) of a cache file; its pixels are read when they are used.

    Torch maps it because it closes the file: numpy would keep every file open, and a process may
    open only about a thousand. Raises OSError, ValueError or RuntimeError for a damaged file.
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
    """Write an array to a file, whole or not at all.

    Raises OSError when that fails, and when the disk would become full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < array.nbytes + FREE:
        raise OSError(f"no space for {path}")
    with files.replacing(path) as part, part.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0))
