"""Images with transparency, grey, 16 bits and colour profile, which a plain array leaves out.

Photographs that a network enlarges are read and written here; everything else in the package uses
`image_files`. EXIF data is applied where it turns the image, and otherwise left out.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from quantnas.errors import DataError, UsageError

from . import image_files
from .image_files import format_of

CLEAR = ("PNG", "WEBP")
"""Formats that are written with transparency."""
DEEP = ("PNG",)
"""Formats that are written with 16 bits."""
SIDES = {"JPEG": 65535, "WEBP": 16383}
"""Format -> largest side of an image, pixels."""
PLAIN = 5
"""Bytes that a pixel takes while an image is decoded by `rows`."""
TOGETHER = 256
"""Rows that are written to the temporary file at a time."""
MOST_DPI = 1e5
"""Resolution from which on the entry of a file is taken for an error, dots per inch."""
_LUMA = (0.299, 0.587, 0.114)  # PIL's weights of red, green and blue in grey


@dataclass(frozen=True)
class Picture:
    """An image with everything that its file says about its pixels."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    grey: bool = False
    """Whether the file is grey and shall be written so; the three colours are about equal."""
    alpha: NDArray[np.uint8] | None = None
    """(H, W), 255 = opaque; `rgb` then holds the colours of the file, not composited."""
    deep: NDArray[np.float32] | None = None
    """(H, W), for 16-bit grey: the values minus 257 times their upper 8 bits, which `rgb` holds."""
    icc: bytes | None = None
    """ICC colour profile."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical resolution, dots per inch."""
    cut: bool = False
    """Whether the file has 16 bits per colour, of which only the upper 8 were read."""


def read(path: str | Path) -> Picture:
    """Read an image file with its transparency, 16 bits of grey, colour profile and resolution.

    Of 16 bits per colour, and of 16-bit grey with transparency, the upper 8 are read. Raises
    DataError as `image_files.read`.
    """
    with image_files.opened(Path(path)) as file:
        image_files.require_memory(file, Path(path))
        ImageOps.exif_transpose(file, in_place=True)
        image, info = file, file.info
        deep, clear = image.mode.startswith("I"), image.has_transparency_data
        rgb, alpha, rest = image_files.to_rgb(image), None, None
        if deep:
            values = np.asarray(image)
            if "transparency" in info:
                alpha = np.where(values == info["transparency"], 0, 255).astype(np.uint8)
            else:
                rest = (values - 257.0 * rgb[:, :, 0]).astype(np.float32)
        elif clear:
            whole = np.array(image.convert("RGBA"))
            rgb, alpha = np.ascontiguousarray(whole[:, :, :3]), whole[:, :, 3]
        grey = deep or file.mode in ("1", "L", "LA", "La")
        cut = (_png_bits(path) == 16) and rest is None
        return Picture(rgb, grey, alpha, rest, info.get("icc_profile"), _dpi(info), cut)


@dataclass(frozen=True)
class PictureRows:
    """An opaque picture of 8 bits whose rows are read part by part."""

    height: int
    width: int
    grey: bool
    icc: bytes | None
    dpi: tuple[float, float] | None
    read: Callable[[int, int], NDArray[np.uint8]]
    """(first, last) -> those rows, (n, W, 3)."""


@contextmanager
def rows(path: Path, folder: Path) -> Iterator[PictureRows | None]:
    """Decode a picture into a temporary file in `folder`; None where it is not opaque with 8 bits.

    A quarter of the memory of `read` is needed, and in the context about none. Raises DataError as
    `read`, and when the temporary file cannot be written.
    """
    with ExitStack() as left:
        with _writing(folder):
            spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        left.callback(_close, spool)
        yield _spooled(path, spool, folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn an error in writing a temporary file in `folder` into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot take a temporary file ({error.strerror}).",
            image_files.remedy(error),
        ) from error


def _close(spool: IO[bytes]) -> None:
    """Close a temporary file; what could not be written to it is of no use any more."""
    with suppress(OSError):
        spool.close()


def _spooled(path: Path, spool: IO[bytes], folder: Path) -> PictureRows | None:
    """The rows of a picture, which are written to the file `spool` in `folder`."""
    with image_files.opened(path) as image:
        if image.mode not in ("RGB", "L") or _png_bits(path) == 16:
            return None
        if image.has_transparency_data:
            return None
        image_files.require_memory(image, path, PLAIN)
        info, grey = image.info, image.mode == "L"
        ImageOps.exif_transpose(image, in_place=True)
        width, height = image.size
        for top in range(0, height, TOGETHER):
            part = image.crop((0, top, width, min(height, top + TOGETHER)))
            content = part.convert("RGB").tobytes()
            with _writing(folder):
                spool.write(content)
        with _writing(folder):
            spool.flush()

    def read_rows(first: int, last: int) -> NDArray[np.uint8]:
        spool.seek(3 * width * first)
        content = spool.read(3 * width * (last - first))
        return np.frombuffer(content, np.uint8).reshape(last - first, width, 3)

    return PictureRows(height, width, grey, info.get("icc_profile"), _dpi(info), read_rows)


def _png_bits(path: str | Path) -> int:
    """Bits per colour of a PNG file; 8 for other files."""
    with open(path, "rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(b"\x89PNG") else 8


def _dpi(info: Mapping[str | tuple[int, int], Any]) -> tuple[float, float] | None:
    """The resolution in PIL's information about a file; None where it is missing or implausible."""
    try:
        x, y = map(float, info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if min(x, y) > 0 and max(x, y) < MOST_DPI else None


def write(path: str | Path, picture: Picture) -> None:
    """Write a picture with everything that the file's format can hold; see `losses`.

    Raises errors as `image_files.write`.
    """
    path = Path(path)
    kind = format_of(path)
    image, kept = _drawn(picture, kind), dict[str, Any]()
    grey = image.mode in ("L", "LA", "I;16") and kind != "WEBP"
    if picture.icc is not None and is_profile(picture.icc, grey):
        kept["icc_profile"] = picture.icc
    if picture.dpi is not None and kind != "WEBP":
        kept["dpi"] = picture.dpi
    image_files.save(path, image, kept)


def is_profile(icc: bytes, grey: bool) -> bool:
    """Whether an ICC profile is one of grey, or else of red, green and blue."""
    return icc[16:20] == (b"GRAY" if grey else b"RGB ")


def _drawn(picture: Picture, kind: str) -> Image.Image:
    """The picture as a PIL image, in the mode that the format `kind` is written in."""
    image = Image.fromarray(picture.rgb)
    if picture.deep is not None and kind in DEEP:
        values = 257 * (picture.rgb @ np.array(_LUMA)) + picture.deep
        return Image.fromarray(np.clip(np.round(values), 0, 65535).astype(np.uint16))
    if picture.alpha is not None:
        alpha = Image.fromarray(picture.alpha)
        if kind in CLEAR:
            image = image.convert("L") if picture.grey else image
            image.putalpha(alpha)
            return image
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image.convert("L") if picture.grey else image


def losses(picture: Picture, path: Path) -> list[str]:
    """Sentences on what the format of the file `path` cannot hold of a picture."""
    kind = format_of(path)
    lost = []
    if picture.alpha is not None and kind not in CLEAR:
        lost.append(f"{kind} has no transparency: the background becomes white")
    if picture.deep is not None and kind not in DEEP:
        lost.append(f"{kind} has 8 bits: the others of this 16-bit photograph are lost")
    if picture.cut:
        lost.append("of 16 bits per colour only 8 are read: finer steps are lost")
    return lost


def require_side(height: int, width: int, path: Path) -> None:
    """Raise UsageError when an image of `height` x `width` pixels exceeds the file's format."""
    kind = format_of(path)
    if max(height, width) > SIDES.get(kind, max(height, width)):
        raise UsageError(
            f"{path} would have {width}x{height} pixels, but a side of {kind} has {SIDES[kind]} "
            "at most.",
            "Use PNG.",
        )
