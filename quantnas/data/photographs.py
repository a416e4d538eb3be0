"""Photographs, with or without a low-resolution file of their own: finding, splitting, reading.

A low-resolution file may show any degradation; without one, the photograph is shrunk by bicubic
interpolation.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantnas.config import files
from quantnas.errors import DataError

from . import bicubic, folder_layouts, image_files
from .patches import Pair

LONGEST = 2048
"""Longer side, in pixels, to which larger photographs are shrunk for training: straight from a
camera they are soft, and their patches hold little detail."""

_MAX_HELD_OUT = 8
_LISTED = 3  # files that an error names


@dataclass(frozen=True)
class Photograph:
    """The files of one photograph."""

    high: Path
    """High-resolution file."""
    low: Path | None = None
    """Low-resolution file; None: low resolution is made by bicubic shrinking."""

    @property
    def name(self) -> str:
        """Name of the photograph in results."""
        return files.readable(self.high.stem)


def find(folder: str | Path, scale: int) -> list[Photograph]:
    """Find all photographs below `folder`, with their low-resolution files at `scale`.

    A high-resolution folder with low-resolution folders beside it is a layout (`folder_layouts`);
    other files beside them are left out. In a layout without files at `scale`, the photographs
    have no low-resolution files. Pictures in folders of runs and evaluations are left out.
    Raises DataError as `image_files.find`, for files without a partner or with two, and when
    `folder` holds low resolution, or pictures of runs alone.
    """
    root, photos, layout_folders = (
        folder_layouts.by_name(Path(folder)),
        list[Photograph](),
        set[Path](),
    )
    paths = _without_pictures_of_runs(root, image_files.find(root))
    folder_layouts.require_high(root)
    for high in folder_layouts.folders(root, paths):
        if not folder_layouts.matching_siblings(high, (folder_layouts.FAMILY,)):
            continue
        layout_folders |= {high, high.parent}
        own_paths = [path for path in paths if high in path.parents]
        low = _low_folder(high, own_paths, scale)
        photos += _paired(high, low, own_paths, scale) if low else map(Photograph, own_paths)
    photos += [Photograph(path) for path in paths if layout_folders.isdisjoint(path.parents)]
    return sorted(photos, key=lambda photo: photo.high.relative_to(root).as_posix())


def _without_pictures_of_runs(root: Path, paths: Sequence[Path]) -> list[Path]:
    """The paths that do not lie in the folder of a run, a sweep or an evaluation.

    Raises DataError when none is left.
    """
    made = {each for each in folder_layouts.folders(root, paths) if _is_of_run(each)}
    rest = [path for path in paths if made.isdisjoint(path.parents)]
    if not rest:
        raise DataError(
            f"All images in '{root}' are pictures of runs or evaluations, not photographs.",
            "Give a folder of photographs.",
        )
    return rest


def _is_of_run(folder: Path) -> bool:
    """Whether a folder is that of a run, a sweep or an evaluation."""
    begun = (folder / "env.json").is_file()
    settled = any((folder / name).is_file() for name in ("config.yaml", "sweep.yaml"))
    return (begun and settled) or (folder / "evaluation.json").is_file()


def _low_folder(high: Path, paths: Sequence[Path], scale: int) -> Path | None:
    """The low-resolution folder at `scale` for the files `paths` below `high`; None without one."""
    for low in folder_layouts.matching_siblings(high, folder_layouts.LOW.values(), scale):
        return low
    for low in folder_layouts.matching_siblings(high, (folder_layouts.FLAT,), scale):
        try:
            lows = image_files.find(low)
        except DataError:  # the folder holds no images
            continue
        pairs, _, _ = _matched(_stems(high, paths), _stems(low, lows), scale)
        if pairs and all(_fits(photo, scale) for photo in pairs):
            return low
    return None


def _paired(high: Path, low: Path, paths: Sequence[Path], scale: int) -> list[Photograph]:
    """Pair every file with its low resolution: `0001.png` with `0001x4.png` or `0001.png`.

    Raises DataError that names the files without a partner.
    """
    pairs, alone, unused = _matched(_stems(high, paths), _stems(low, image_files.find(low)), scale)
    problems = []
    if alone:
        verb = "have" if alone[1:] else "has"
        problems.append(
            f"{counted(len(alone), 'photograph')} in '{high}' {verb} no file in '{low}'"
            f"{_in_brackets(alone)}"
        )
    if unused:
        verb = "have" if unused[1:] else "has"
        problems.append(
            f"{counted(len(unused), 'file')} in '{low}' {verb} no photograph in '{high}'"
            f"{_in_brackets(unused)}"
        )
    if problems:
        raise DataError(
            f"{', and '.join(problems)}.",
            "Complete both folders, or give a folder of photographs alone.",
        )
    return pairs


def _matched(
    highs: Mapping[str, Path], lows: Mapping[str, Path], scale: int
) -> tuple[list[Photograph], list[str], list[str]]:
    """Match file names: the pairs, and the high and the low names without a partner.

    highs, lows: name without extension -> file, as from `_stems`.
    """
    names = {k: next((n for n in (f"{k}x{scale}", k) if n in lows), None) for k in highs}
    pairs = [Photograph(highs[key], lows[name]) for key, name in names.items() if name is not None]
    alone = [key for key, name in names.items() if name is None]
    return pairs, alone, sorted(lows.keys() - set(names.values()))


def _stems(root: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Path below `root` without extension -> file. Raises DataError for two files of one name."""
    files = dict[str, Path]()
    for path in paths:
        stem = path.relative_to(root).with_suffix("").as_posix()
        if stem in files:
            raise DataError(
                f"'{files[stem]}' and '{path}' have the same name, and only one of them can "
                "belong to a file of the other resolution.",
                "Take one of them away.",
            )
        files[stem] = path
    return files


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 photograph`, `2 photographs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _in_brackets(names: Sequence[str]) -> str:
    """The first names in brackets, with a space before them; an empty text for no names."""
    more = ", ..." if len(names) > _LISTED else ""
    return f" ({', '.join(names[:_LISTED])}{more})" if names else ""


def split(
    photos: Sequence[Photograph], every: int = 4, barred: Collection[Photograph] = ()
) -> tuple[tuple[Photograph, ...], tuple[Photograph, ...]]:
    """Split photographs into (training set, held-out set).

    In the order of their paths, every `every`-th photograph is held out: at least 1, and at most
    8, which are spread over the whole order. Photographs in `barred` are never held out; the number
    of held-out ones stays the same, but they lie closer together. The same photographs always give
    the same split. Raises DataError for fewer than 2 photographs, and when all are barred.
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
    """Raise DataError when held-out photographs are among the `learned` files.

    why: their relation to the training set, for the message. option: the command-line option that
    takes a folder of other photographs, for the remedy.
    """
    both = [photo.high for photo in held_out if photo.high.resolve() in learned]
    if both:
        raise DataError(
            f"{counted(len(both), 'photograph')} to evaluate on {'are' if both[1:] else 'is'} "
            f"{why} ({both[0]}).",
            f"Give {option} a folder of other photographs.",
        )


def read(photo: Photograph, scale: int, longest: int | None = None) -> Pair:
    """Read a photograph at both resolutions.

    A photograph without a low-resolution file is first shrunk so that its longer side has at most
    `longest` pixels; None leaves it as it is. Raises DataError as `image_files.read` and
    `low_size`, and for a photograph smaller than one low-resolution pixel.
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
    """Height and width of the low resolution that `read` gives, found without decoding pixels.

    Raises DataError as `image_files.size`, and for a photograph that is not `scale` times as large
    as its low resolution; up to `scale` - 1 pixels more are allowed, since `read` cuts them off.
    """
    high = image_files.size(photo.high)
    if photo.low is not None:
        return _fitting(photo, high, image_files.size(photo.low), scale)
    height, width = _shrunk(high, longest)
    return height // scale, width // scale


def patch_of(photos: Sequence[Photograph], scale: int) -> int:
    """Side of the largest patch for training and validation, low-resolution pixels.

    Raises DataError as `low_size`.
    """
    sides = [sorted(low_size(photo, scale, LONGEST)) for photo in photos]
    if len(sides) == 1:  # it is cut into two regions, each twice as long as a patch
        return min(sides[0][0], sides[0][1] // 4)
    return max(short for short, _ in sides)


def require_fitting(photos: Sequence[Photograph], scale: int) -> None:
    """Raise DataError when photographs are not `scale` times as large as their low resolution.

    The message names some of them. No pixels are decoded. Files that cannot be opened are reported
    later, when they are read.
    """
    wrong = [photo.high.name for photo in photos if not _fits(photo, scale)]
    if wrong:
        verb, it = ("are", "them") if wrong[1:] else ("is", "it")
        raise DataError(
            f"{counted(len(wrong), 'photograph')} {verb} not {scale} times as large as the low "
            f"resolution that belongs to {it}{_in_brackets(wrong)}.",
            "Replace one file of each pair, or take both away.",
        )


def _fits(photo: Photograph, scale: int) -> bool:
    """Whether the two files of a photograph have sizes that fit `scale`; True if unreadable."""
    if photo.low is None:
        return True
    try:
        high, low = image_files.size(photo.high), image_files.size(photo.low)
    except DataError:
        return True
    return low == (high[0] // scale, high[1] // scale)


def middle(pair: Pair, side: int) -> Pair:
    """Crop the middle of a pair to about `side` high-resolution pixels or less on each side."""
    scale = pair.high.shape[0] // pair.low.shape[0]
    height, width = (min(n, max(1, side // scale)) for n in pair.low.shape[:2])
    y, x = (pair.low.shape[0] - height) // 2, (pair.low.shape[1] - width) // 2
    low = pair.low[y : y + height, x : x + width]
    return Pair(pair.name, low, _cut(pair.high[y * scale :, x * scale :], height, width, scale))


def _shrunk(size: tuple[int, ...], longest: int | None) -> tuple[int, int]:
    """(height, width) after shrinking so that no side has more than `longest` pixels."""
    height, width = size
    if longest is None or max(size) <= longest:
        return height, width
    return max(1, round(height * longest / max(size))), max(1, round(width * longest / max(size)))


def _fitting(
    photo: Photograph, high: tuple[int, ...], low: tuple[int, ...], scale: int
) -> tuple[int, int]:
    """(height, width) of the low resolution.

    high, low: sizes of the two files. Raises DataError unless `high` divided by `scale` is `low`.
    """
    height, width = (side // scale for side in high)
    if low != (height, width):
        raise DataError(
            f"'{photo.high}' has {high[1]}x{high[0]} pixels, which is not {scale} times the "
            f"{low[1]}x{low[0]} of '{photo.low}'.",
            "Replace one of the two files, or take both away.",
        )
    return height, width


def _cut(high: NDArray[np.uint8], height: int, width: int, scale: int) -> NDArray[np.uint8]:
    """Crop the high resolution to `scale` times a low-resolution `height` and `width`."""
    return high[: height * scale, : width * scale]
