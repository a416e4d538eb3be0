"""Named sets of photographs to evaluate on, and checks that their sizes can be measured."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantnas.config import files
from quantnas.errors import DataError

from . import folder_layouts, image_files, photographs
from .photographs import Photograph


def require_sizes(photos: Iterable[Photograph], scale: int) -> None:
    """Raise DataError for a photograph that is too small to be measured or cannot be opened.

    Only the beginnings of the files are read; damage further behind shows when they are decoded.
    """
    for photo in photos:
        height, width = photographs.low_size(photo, scale)
        _require_side(min(height, width) * scale, photo.high, scale)


def measurable(photo: Photograph, scale: int) -> bool:
    """Whether a photograph is large enough to be measured, as the beginnings of its files tell.

    A damaged photograph is not measurable.
    """
    try:
        if photo.low is not None:
            image_files.size(photo.low)
        return min(image_files.size(photo.high)) >= _least(scale)
    except DataError:
        return False


def require_size(image: NDArray[np.uint8], path: Path, scale: int) -> None:
    """Raise DataError when an image (H, W, 3) is too small for SSIM once its border is cut off."""
    _require_side(min(image.shape[:2]), path, scale)


def _require_side(side: int, path: Path, scale: int) -> None:
    """Raise DataError when the shorter side of a photograph has too few pixels."""
    least = _least(scale)
    if side < least:
        raise DataError(
            f"The photograph {path} is too small to be measured at x{scale}.",
            f"Leave it out; both sides need {least} pixels.",
        )


def _least(scale: int) -> int:
    """Pixels that a side needs at least: SSIM has a window of 11 pixels inside of the border."""
    return math.ceil((11 + 3 * scale) / scale) * scale


def named_sets(folders: Sequence[str]) -> dict[str, str]:
    """Name of a set -> its folder.

    A set has the name of its folder unless that is taken or ambiguous; then it has the whole path.
    """
    names = [files.readable(_set_name(Path(folder))) for folder in folders]
    taken = ("", "held-out", "bundled")
    return {
        files.readable(folder) if names.count(name) > 1 or name in taken else name: folder
        for name, folder in zip(names, folders, strict=True)
    }


def _set_name(folder: Path) -> str:
    """Name of the set in a folder, which for a high-resolution folder is that of the data set."""
    match = re.fullmatch(folder_layouts.HIGH, folder.name)
    if match is None:
        return folder.name
    return (match["set"] or "").rstrip("_") or folder.resolve().parent.name
