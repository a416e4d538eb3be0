"""Photographs, with low-resolution versions of their own or without, and the folders they lie in.

A version of its own may hold any degradation; where there is none, it is made by bicubic shrinking.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import bicubic, images
from .errors import DataError
from .patches import Pair

LONGEST = 2048
"""Pixels of the longer side to which larger photographs are shrunk before anything learns from
them: straight from a camera they are soft, and their patches hold little to learn."""

HIGH = r"(?P<set>.*_)?(HR|GT(mod\d+)?)"
"""Name of a folder of high resolution, when folders of `FAMILY` lie beside it."""

FAMILY = r"{set}LR(_.*|bic.*|[Xx]\d+)?"
"""Name of a folder of low resolution, whatever its scale and however it was made."""

LOW = {
    "DIV2K, Flickr2K": r"{set}LR_bicubic/[Xx]{scale}",
    "the same, unpacked flat": r"{set}LR_bicubic_[Xx]{scale}",
    "Set5 and its like, for BasicSR": r"{set}LRbic[Xx]{scale}",
    "the plainest": r"{set}LR/[Xx]{scale}",
    "the plainest, flat": r"{set}LR_?[Xx]{scale}",
}
"""Where the layouts keep the low resolution; the first that is there is taken."""

_MAX_HELD_OUT = 8
_NAMED = 3  # files that an error names


@dataclass(frozen=True)
class Photograph:
    """A file to learn from or to measure on."""

    high: Path
    low: Path | None = None
    """Its low-resolution version; none: it is made by bicubic shrinking."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        return self.high.stem


def find(folder: str | Path, scale: int) -> list[Photograph]:
    """All photographs below `folder`, with their files of low resolution where a layout has them.

    A folder of high resolution with folders of low resolution beside it is a layout (`HIGH`,
    `LOW`), whatever else lies there is left out, and where it has no files at `scale` its
    photographs stand alone. Raises DataError as `images.find`, and for files without a partner.
    """
    root, found, layouts = Path(folder), list[Photograph](), set[Path]()
    paths = images.find(root)
    for high in _folders(root, paths):
        if not _beside(high, (FAMILY,), scale):
            continue
        layouts |= {high, high.parent}
        low = _beside(high, LOW.values(), scale)
        ours = [path for path in paths if high in path.parents]
        found += _paired(high, low[0], ours, scale) if low else map(Photograph, ours)
    found += [Photograph(path) for path in paths if layouts.isdisjoint(path.parents)]
    return sorted(found, key=lambda photo: photo.high.relative_to(root).as_posix())


def _folders(root: Path, paths: Sequence[Path]) -> list[Path]:
    """`root`, and the folders on the way to its images."""
    return [root, *sorted({p for path in paths for p in path.parents if root in p.parents})]


def _beside(high: Path, patterns: Iterable[str], scale: int) -> list[Path]:
    """The folders beside `high` that match, in the order of the patterns; none if it is no HIGH."""
    whole = Path(os.path.abspath(high))
    match = re.fullmatch(HIGH, whole.name)
    if match is None:
        return []
    parts = {"set": re.escape(match["set"] or ""), "scale": scale}
    return [low for p in patterns for low in _matching(whole.parent, p.format(**parts))]


def _matching(parent: Path, pattern: str) -> Iterator[Path]:
    """The folders below `parent` that match, name by name; none if it cannot be listed."""
    name, _, rest = pattern.partition("/")
    try:
        found = sorted(path for path in parent.iterdir() if re.fullmatch(name, path.name))
    except OSError:
        return
    for path in found:
        if path.is_dir():
            yield from _matching(path, rest) if rest else [path]


def _paired(high: Path, low: Path, paths: Sequence[Path], scale: int) -> list[Photograph]:
    """`0001.png` with `0001x4.png` or `0001.png`."""
    lows = {_stem(path, low): path for path in images.find(low)}
    highs = {_stem(path, high): path for path in paths}
    names = {k: next((n for n in (f"{k}x{scale}", k) if n in lows), None) for k in highs}
    alone = [key for key, name in names.items() if name is None]
    left = sorted(lows.keys() - set(names.values()))
    if alone or left:
        raise DataError(
            f"{len(alone)} photographs in '{high}' have no file in '{low}'{_few(alone)}, and "
            f"{len(left)} files there have no photograph{_few(left)}.",
            "Complete both folders, or give a folder of photographs alone.",
        )
    return [Photograph(highs[key], lows[name]) for key, name in names.items() if name is not None]


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _few(names: Sequence[str]) -> str:
    """The first names in brackets; nothing for none."""
    more = ", ..." if len(names) > _NAMED else ""
    return f" ({', '.join(names[:_NAMED])}{more})" if names else ""


def split(
    photos: Sequence[Photograph], every: int = 4
) -> tuple[tuple[Photograph, ...], tuple[Photograph, ...]]:
    """`photos` as (train, held out): every `every`-th in the order of their paths is held out.

    At least 1 and at most 8 are held out; of larger sets the 8 are spread over the whole order.
    The same photographs always give the same split. Raises DataError for fewer than 2.
    """
    ordered = sorted(photos, key=lambda photo: photo.high)
    count = len(ordered)
    if count < 2:
        raise DataError(
            "At least 2 images are needed to hold one out.",
            "Add photographs, or give a separate evaluation folder.",
        )
    step = min(count, max(every, count // _MAX_HELD_OUT))
    held_out = tuple(ordered[step - 1 :: step][:_MAX_HELD_OUT])
    return tuple(photo for photo in ordered if photo not in held_out), held_out


def read(photo: Photograph, scale: int, longest: int | None = None) -> Pair:
    """The photograph at both resolutions.

    Without a low-resolution file of its own it is shrunk first, so that its longer side has at
    most `longest` pixels. Raises DataError as `images.read` and `low_size`, and for a photograph
    smaller than one low-resolution pixel.
    """
    high = images.read(photo.high)
    if photo.low is not None:
        low = images.read(photo.low)
        height, width = _fitting(photo, high.shape[:2], low.shape[:2], scale)
        return Pair(photo.name, low, _cut(high, height, width, scale))
    if min(high.shape[:2]) < scale:
        raise DataError(
            f"The photograph '{photo.high}' of {high.shape[1]}x{high.shape[0]} pixels is too "
            f"small for x{scale}.",
            "Leave it out, or use a larger one.",
        )
    size = _shrunk(high.shape[:2], longest)
    if size != high.shape[:2]:
        high = bicubic.resize(high, *size, antialias=True)
    high = bicubic.crop_to_multiple(high, scale)
    return Pair(photo.name, bicubic.downscale(high, scale), high)


def low_size(photo: Photograph, scale: int, longest: int | None = None) -> tuple[int, int]:
    """Height and width of the low resolution that `read` gives; no pixels are decoded.

    Raises DataError as `images.size`, and for a pair of which one file is not `scale` times as
    large as the other; up to `scale` - 1 pixels more are allowed, they will be cut off.
    """
    high = images.size(photo.high)
    if photo.low is not None:
        return _fitting(photo, high, images.size(photo.low), scale)
    height, width = _shrunk(high, longest)
    return height // scale, width // scale


def require_fitting(photos: Sequence[Photograph], scale: int) -> None:
    """Raise DataError, naming some, for pairs of which one is not `scale` times the other.

    No pixels are decoded. What cannot even be opened is left to those who read it.
    """
    wrong = [photo.high.name for photo in photos if not _fits(photo, scale)]
    if wrong:
        raise DataError(
            f"{len(wrong)} photographs are not {scale} times as large as the low resolution that "
            f"belongs to them{_few(wrong)}.",
            "Replace one file of each pair, or take both away.",
        )


def _fits(photo: Photograph, scale: int) -> bool:
    if photo.low is None:
        return True
    try:
        high, low = images.size(photo.high), images.size(photo.low)
    except DataError:
        return True
    return low == (high[0] // scale, high[1] // scale)


def middle(pair: Pair, side: int) -> Pair:
    """The middle of a pair, at most about `side` high-resolution pixels wide and high."""
    scale = pair.high.shape[0] // pair.low.shape[0]
    height, width = (min(n, max(1, side // scale)) for n in pair.low.shape[:2])
    y, x = (pair.low.shape[0] - height) // 2, (pair.low.shape[1] - width) // 2
    low = pair.low[y : y + height, x : x + width]
    return Pair(pair.name, low, _cut(pair.high[y * scale :, x * scale :], height, width, scale))


def _shrunk(size: tuple[int, ...], longest: int | None) -> tuple[int, int]:
    height, width = size
    if longest is None or max(size) <= longest:
        return height, width
    return max(1, round(height * longest / max(size))), max(1, round(width * longest / max(size)))


def _fitting(
    photo: Photograph, high: tuple[int, ...], low: tuple[int, ...], scale: int
) -> tuple[int, int]:
    """The size of the low resolution, if it is that of the high one divided by `scale`."""
    height, width = (side // scale for side in high)
    if low != (height, width):
        raise DataError(
            f"'{photo.high}' has {high[1]}x{high[0]} pixels, which is not {scale} times the "
            f"{low[1]}x{low[0]} of '{photo.low}'.",
            "Replace one of the two files, or take both away.",
        )
    return height, width


def _cut(high: NDArray[np.uint8], height: int, width: int, scale: int) -> NDArray[np.uint8]:
    return high[: height * scale, : width * scale]
