"""Images with what a plain array leaves out: transparency, grey, 16 bits, colour profile.

For photographs that go through a network and out again; all else in the package uses `images`.
EXIF data is applied where it turns the image, and otherwise left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from quantnas.errors import UsageError

from . import image_files
from .image_files import format_of

CLEAR = ("PNG", "WEBP")
"""Formats that hold transparency here."""
DEEP = ("PNG",)
"""Formats of 16 bits."""
SIDES = {"JPEG": 65535, "WEBP": 16383}
"""Pixels that a side has at most."""
MOST_DPI = 1e5
_LUMA = (0.299, 0.587, 0.114)  # as PIL makes grey of colours


@dataclass(frozen=True)
class Picture:
    """An image with all that its file holds of it; what differs from plain RGB says how."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    grey: bool = False
    """Whether it is one, to be written as one; its three colours are about equal."""
    alpha: NDArray[np.uint8] | None = None
    """(H, W), 255 = opaque; the colours are as they are in the file, not composited."""
    deep: NDArray[np.float32] | None = None
    """(H, W), of 16-bit grey what it is more than 257 times its 8 bits."""
    icc: bytes | None = None
    """Colour profile."""
    dpi: tuple[float, float] | None = None
    cut: bool = False
    """Whether the file has 16 bits per colour, of which 8 were read."""


def read(path: str | Path) -> Picture:
    """As `image_files.read`, with transparency, 16 bits of grey, colour profile and resolution kept.

    Of 16 bits per colour, and of 16-bit grey with transparency, the upper 8 are read. Raises
    DataError as `image_files.read`.
    """
    with image_files.opened(Path(path)) as file:
        image, info = ImageOps.exif_transpose(file), file.info
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


def _png_bits(path: str | Path) -> int:
    """Bits per colour of a PNG file; 8 for other files."""
    with open(path, "rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(b"\x89PNG") else 8


def _dpi(info: Mapping[str | tuple[int, int], Any]) -> tuple[float, float] | None:
    try:
        x, y = map(float, info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if min(x, y) > 0 and max(x, y) < MOST_DPI else None


def write(path: str | Path, picture: Picture) -> None:
    """As `image_files.write`, with all of the picture that the format can hold; see `losses`."""
    path = Path(path)
    kind = format_of(path)
    image, kept = _drawn(picture, kind), dict[str, Any]()
    space = b"GRAY" if image.mode in ("L", "LA", "I;16") and kind != "WEBP" else b"RGB "
    if picture.icc is not None and picture.icc[16:20] == space:
        kept["icc_profile"] = picture.icc
    if picture.dpi is not None and kind != "WEBP":
        kept["dpi"] = picture.dpi
    image_files.save(path, image, kept)


def _drawn(picture: Picture, kind: str) -> Image.Image:
    """The picture in the mode that it is to be written in."""
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
    """What the file's format cannot hold of a picture, in words."""
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
    """Raise UsageError when an image of that size does not fit into the file's format."""
    kind = format_of(path)
    if max(height, width) > SIDES.get(kind, max(height, width)):
        raise UsageError(
            f"{path} would have {width}x{height} pixels, but a side of {kind} has {SIDES[kind]} "
            "at most.",
            "Use PNG.",
        )
