"""Image files: finding, reading and writing them.

An image is a uint8 array of shape (H, W, 3) in RGB order everywhere in the package.
"""

from __future__ import annotations

import errno
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from quantnas.config import files
from quantnas.errors import DataError, UsageError, missing

from . import bicubic, free_memory

FORMATS: dict[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
"""Extension -> PIL's name of the format."""
EXTENSIONS = ", ".join(FORMATS)

_SAVE_OPTIONS: dict[str, dict[str, int | bool]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "BMP": {},
}
# The exceptions that PIL's decoders are known to raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)
_BUNDLED_HELD_OUT = frozenset({"chelsea", "coffee", "perched-osprey", "singaporean-cityscape"})
PLAIN, CLEAR, DEEP = 16, 28, 44
"""Bytes that a pixel takes while an image is decoded and converted: in general, with transparency,
and with 16 bits."""
USUAL = 2**26
"""Bytes that are there without asking."""
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Bundled:
    """The photographs shipped with the package, sorted by name; the two parts are disjoint."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def find(folder: str | Path) -> list[Path]:
    """Find all images below `folder`, at any depth, sorted by their relative path.

    Files and folders whose name starts with a dot are skipped. Raises DataError when the folder
    does not exist, is not a folder, or holds no image.
    """
    root = Path(folder)
    if not root.exists():
        raise missing(root, "folder")
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder.", "Give the folder that holds the images.")
    images = [path for path in root.rglob("*") if _is_image(path, root)]
    if not images:
        raise DataError(
            f"The folder '{root}' holds no images.", f"Put images there ({EXTENSIONS})."
        )
    return sorted(images, key=lambda path: path.relative_to(root).as_posix())


def others(folder: Path) -> list[Path]:
    """The files below a folder that `find` leaves out, except hidden ones, sorted."""
    seen = (p for p in folder.rglob("*") if p.is_file() and not _is_image(p, folder))
    return sorted(p for p in seen if not _is_hidden(p, folder))


def read(path: str | Path) -> NDArray[np.uint8]:
    """Read a PNG, JPEG, WebP or BMP file as uint8 RGB of shape (H, W, 3).

    The EXIF orientation is applied (damaged EXIF data is ignored), transparency is composited over
    white, 16 bits are scaled to 8, and of an animation the first frame is taken. Colour
    profiles are not applied. Raises DataError when the file is missing, damaged, of another format
    or above PIL's size limit of about 179 million pixels.
    """
    with opened(Path(path)) as image:
        require_memory(image, Path(path))
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def require_memory(image: Image.Image, path: Path, each: int | None = None) -> None:
    """Raise DataError unless the pixels of an image that is not decoded yet fit into free memory.

    each: bytes that a pixel takes while the image is read; None: as `read` takes them.
    """
    if each is None:
        deep, clear = image.mode.startswith("I"), image.has_transparency_data
        each = DEEP if deep else CLEAR if clear else PLAIN
    height, width = image.height, image.width
    needed = height * width * each
    if needed > USUAL and needed > (free := free_memory.free_memory()):
        raise DataError(
            f"The image '{path}' of {width}x{height} pixels needs {needed / 1e9:.1f} GB of memory, "
            f"of which {free / 1e9:.1f} GB are free.",
            "Shrink it or cut it into parts.",
        )


def size(path: str | Path) -> tuple[int, int]:
    """Read the height and width of the image that `read` gives, without decoding its pixels.

    Raises DataError as `read`, as far as the beginning of the file tells.
    """
    with opened(Path(path)) as image:
        tagged = not {"exif", "Raw profile type exif"}.isdisjoint(image.info)
        turned = tagged and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return image.size if turned else image.size[::-1]


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file with PIL; any error of PIL, in the block too, becomes a DataError."""
    try:
        with warnings.catch_warnings():
            # PIL warns of damaged EXIF data and, at half of its size limit, of large photographs.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
                yield image
    except MemoryError as error:
        raise DataError(
            f"The memory is too small for the image '{path}'.", "Shrink it or cut it into parts."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"The image '{path}' has too many pixels to be decoded safely.",
            "Shrink it or cut it into parts.",
        ) from error
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error


def write(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write `image`, uint8 RGB of shape (H, W, 3), in the format that the extension names.

    PNG, WebP and BMP are lossless, JPEG has quality 95 without chroma subsampling. The file
    appears complete or not at all, and missing parent folders are created. Raises UsageError for
    an unknown extension, ValueError for another kind of array, DataError when writing fails.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected uint8 of shape (H, W, 3), got {image.dtype} {image.shape}")
    save(Path(path), Image.fromarray(image), {})


def save(path: Path, image: Image.Image, kept: Mapping[str, Any]) -> None:
    """Write a PIL image as `write` does; `kept` holds further options of PIL for the format.

    Raises UsageError for an unknown extension, DataError when writing fails.
    """
    kind = format_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as part:
            image.save(part, format=kind, **_SAVE_OPTIONS[kind], **kept)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"The image '{path}' cannot be written ({reason}).", remedy(error)
        ) from error


def remedy(error: Exception) -> str:
    """What helps against an error in writing an image."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "Make room on the disk, and try again."
    if number is not None:
        return "Choose a folder that can be written into."
    return "Choose PNG, which takes images of any size."


def format_of(path: Path) -> str:
    """PIL's format for the extension of an image file. Raises UsageError for an unknown one."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"'{path}' does not end in a known image extension.", f"Use one of {EXTENSIONS}."
        )
    return kind


def bundled() -> Bundled:
    """The 12 training and 4 held-out photographs shipped with the package (432 x 288 pixels)."""
    folder = Path(str(resources.files("quantnas") / "assets" / "photographs"))
    paths = find(folder)
    return Bundled(
        train=tuple(path for path in paths if path.stem not in _BUNDLED_HELD_OUT),
        held_out=tuple(path for path in paths if path.stem in _BUNDLED_HELD_OUT),
    )


def _is_image(path: Path, root: Path) -> bool:
    is_image = path.suffix.lower() in FORMATS and path.is_file()
    return is_image and not _is_hidden(path, root)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _unreadable(path: Path, error: Exception) -> DataError:
    """The error for a file that PIL could not open, with the system's reason if there is one."""
    if isinstance(error, FileNotFoundError):
        return missing(path, "image")
    reason = getattr(error, "strerror", None)
    if reason:
        return DataError(f"The image '{path}' cannot be opened ({reason}).", "Check the file.")
    return DataError(
        f"'{path}' is damaged or not a PNG, JPEG, WebP or BMP image.",
        "Replace, convert or remove the file.",
    )


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a PIL image to uint8 RGB (H, W, 3), composited over white, 16 bits scaled to 8."""
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image)
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return np.array(image.convert("RGB"))


def _grey16_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert 16-bit grey, 65535 = white, to 8-bit RGB; a transparent level becomes white."""
    values = np.asarray(image)
    grey = bicubic.to_uint8(values / 257)
    grey[values == image.info.get("transparency", -1)] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)
