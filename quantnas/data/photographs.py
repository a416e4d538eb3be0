"""Photographs, with low-resolution versions of their own or without, and the folders they lie in.

A version of its own may hold any degradation; where there is none, it is made by bicubic shrinking.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantnas.errors import DataError

from . import bicubic, folder_layouts, image_files
from .patches import Pair

LONGEST = 2048
"""Pixels of the longer side to which larger photographs are shrunk before anything learns from
them: straight from a camera they are soft, and their patches hold little to learn."""

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

    A folder of high resolution with folders of low resolution beside it is a layout (`layouts`),
    whatever else lies there is left out, and where it has no files at `scale` its
    photographs stand alone. Raises DataError as `image_files.find`, for files without a partner or
    with two, and for a folder of low resolution.
    """
    root, found, known = folder_layouts.by_name(Path(folder)), list[Photograph](), set[Path]()
    paths = image_files.find(root)
    folder_layouts.require_high(root)
    for high in folder_layouts.folders(root, paths):
        if not folder_layouts.beside(high, (folder_layouts.FAMILY,)):
            continue
        known |= {high, high.parent}
        ours = [path for path in paths if high in path.parents]
        low = _low(high, ours, scale)
        found += _paired(high, low, ours, scale) if low else map(Photograph, ours)
    found += [Photograph(path) for path in paths if known.isdisjoint(path.parents)]
    return sorted(found, key=lambda photo: photo.high.relative_to(root).as_posix())


def _low(high: Path, paths: Sequence[Path], scale: int) -> Path | None:
    """The folder with the low resolution at `scale` of the files `paths` below `high`."""
    for low in folder_layouts.beside(high, folder_layouts.LOW.values(), scale):
        return low
    for low in folder_layouts.beside(high, (folder_layouts.FLAT,), scale):
        try:
            lows = image_files.find(low)
        except DataError:  # there is none
            continue
        pairs, _, _ = _matched(_stems(high, paths), _stems(low, lows), scale)
        if pairs and all(_fits(photo, scale) for photo in pairs):
            return low
    return None


def _paired(high: Path, low: Path, paths: Sequence[Path], scale: int) -> list[Photograph]:
    """`0001.png` with `0001x4.png` or `0001.png`."""
    pairs, alone, left = _matched(_stems(high, paths), _stems(low, image_files.find(low)), scale)
    told = []
    if alone:
        verb = "have" if alone[1:] else "has"
        told.append(
            f"{counted(len(alone), 'photograph')} in '{high}' {verb} no file in '{low}'"
            f"{_few(alone)}"
        )
    if left:
        verb = "have" if left[1:] else "has"
        told.append(
            f"{counted(len(left), 'file')} in '{low}' {verb} no photograph in '{high}'{_few(left)}"
        )
    if told:
        raise DataError(
            f"{', and '.join(told)}.",
            "Complete both folders, or give a folder of photographs alone.",
        )
    return pairs


def _matched(
    highs: Mapping[str, Path], lows: Mapping[str, Path], scale: int
) -> tuple[list[Photograph], list[str], list[str]]:
    """Pairs, and the stems without a partner: high ones, low ones."""
    names = {k: next((n for n in (f"{k}x{scale}", k) if n in lows), None) for k in highs}
    pairs = [Photograph(highs[key], lows[name]) for key, name in names.items() if name is not None]
    alone = [key for key, name in names.items() if name is None]
    return pairs, alone, sorted(lows.keys() - set(names.values()))


def _stems(root: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Name without extension -> file. Raises DataError for two files of one name."""
    found = dict[str, Path]()
    for path in paths:
        stem = path.relative_to(root).with_suffix("").as_posix()
        if stem in found:
            raise DataError(
                f"'{found[stem]}' and '{path}' have the same name, and only one of them can "
                "belong to a file of the other resolution.",
                "Take one of them away.",
            )
        found[stem] = path
    return found


def counted(count: int, noun: str) -> str:
    """`1 photograph`, `2 photographs`"""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _few(names: Sequence[str]) -> str:
    """The first names in brackets; nothing for none."""
    more = ", ..." if len(names) > _NAMED else ""
    return f" ({', '.join(names[:_NAMED])}{more})" if names else ""


def split(
    photos: Sequence[Photograph], every: int = 4, barred: Collection[Photograph] = ()
) -> tuple[tuple[Photograph, ...], tuple[Photograph, ...]]:
    """`photos` as (train, held out): every `every`-th in the order of their paths is held out.

    At least 1 and at most 8 are held out; of larger sets the 8 are spread over the whole order.
    They are as many, but closer together, when those of `barred` cannot be among them. The same
    photographs always give the same split. Raises DataError for fewer than 2, and when all are
    barred.
    """
    ordered = sorted(photos, key=lambda photo: photo.high)
    free = [photo for photo in ordered if photo not in barred]
    if len(ordered) < 2:
        raise DataError(
            "At least 2 images are needed to hold one out.",
            "Add photographs, or give a separate evaluation folder.",
        )
    if not free:
        raise DataError(
            f"None of {len(ordered)} photographs can be held out: they are damaged, too small, or "
            "were learned from before.",
            "Add photographs, or give a separate evaluation folder with --eval-data.",
        )
    step = min(len(ordered), max(every, len(ordered) // _MAX_HELD_OUT))
    count = min(len(free), len(ordered) // step, _MAX_HELD_OUT)
    step = min(step, len(free) // count)
    held_out = tuple(free[step - 1 :: step][:count])
    return tuple(photo for photo in ordered if photo not in held_out), held_out


def require_apart(
    held_out: Iterable[Photograph],
    learned: Collection[Path],
    why: str,
    option: str = "--eval-data",
) -> None:
    """Raise DataError for files to evaluate on that are among those `learned`, and `why` so.

    option: where other photographs can be given.
    """
    both = [photo.high for photo in held_out if photo.high.resolve() in learned]
    if both:
        raise DataError(
            f"{counted(len(both), 'photograph')} to evaluate on {'are' if both[1:] else 'is'} "
            f"{why} ({both[0]}).",
            f"Give {option} a folder of other photographs.",
        )


def read(photo: Photograph, scale: int, longest: int | None = None) -> Pair:
    """The photograph at both resolutions.

    Without a low-resolution file of its own it is shrunk first, so that its longer side has at
    most `longest` pixels. Raises DataError as `image_files.read` and `low_size`, and for a photograph
    smaller than one low-resolution pixel.
    """
    high = image_files.read(photo.high)
    if photo.low is not None:
        low = image_files.read(photo.low)
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

    Raises DataError as `image_files.size`, and for a pair of which one file is not `scale` times as
    large as the other; up to `scale` - 1 pixels more are allowed, they will be cut off.
    """
    high = image_files.size(photo.high)
    if photo.low is not None:
        return _fitting(photo, high, image_files.size(photo.low), scale)
    height, width = _shrunk(high, longest)
    return height // scale, width // scale


def patch_of(photos: Sequence[Photograph], scale: int) -> int:
    """Side in low-resolution pixels of the largest patch that can be learned from and measured on.

    Raises DataError as `low_size`.
    """
    sides = [sorted(low_size(photo, scale, LONGEST)) for photo in photos]
    if len(sides) == 1:  # two regions of it, each twice the side of a patch
        return min(sides[0][0], sides[0][1] // 4)
    return max(short for short, _ in sides)


def require_fitting(photos: Sequence[Photograph], scale: int) -> None:
    """Raise DataError, naming some, for pairs of which one is not `scale` times the other.

    No pixels are decoded. What cannot even be opened is left to those who read it.
    """
    wrong = [photo.high.name for photo in photos if not _fits(photo, scale)]
    if wrong:
        verb, it = ("are", "them") if wrong[1:] else ("is", "it")
        raise DataError(
            f"{counted(len(wrong), 'photograph')} {verb} not {scale} times as large as the low "
            f"resolution that belongs to {it}{_few(wrong)}.",
            "Replace one file of each pair, or take both away.",
        )


def _fits(photo: Photograph, scale: int) -> bool:
    if photo.low is None:
        return True
    try:
        high, low = image_files.size(photo.high), image_files.size(photo.low)
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
