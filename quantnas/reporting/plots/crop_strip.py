"""Picture of the same crop of one photograph in several versions, for judging by eye."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from quantnas.data import bicubic
from quantnas.evaluation import metrics

from .canvas import Board, Image, save

ZOOM = 4
"""Factor by which the pixels of a crop are magnified."""


def crops(versions: dict[str, Image], scale: int, name: str, path: Path, side: int = 72) -> None:
    """Write the same region of equally large images (H, W, 3), magnified side by side, as PNG.

    The last image is the original: PSNR is measured against it, and the region is where the first
    image differs most from it. Raises DataError when the file cannot be written.
    """
    save(crops_figure(versions, scale, name, side), path)


def crops_figure(versions: dict[str, Image], scale: int, name: str, side: int = 72) -> Figure:
    """Return the figure that `crops` writes."""
    pictures = list(versions.values())
    original = pictures[-1]
    side = min(side, *original.shape[:2])
    top, left = region(pictures[0], original, side)
    size, gap, head, foot = max(ZOOM * side, 160), 14, 14, 58
    board = Board((size + gap) * (len(pictures) + 1) + gap, head + size + foot, dpi=100)
    _overview(board, original, (gap, head, size), (top, left, side))
    caption = head + size + 20
    board.text(gap + size / 2, caption, name, 16, width=size, bold=True)
    note = f"x{scale}, PSNR-Y of this picture"
    board.text(gap + size / 2, caption + 22, note, 14, width=size)
    for i, (key, picture) in enumerate(versions.items(), 1):
        x = gap + i * (size + gap)
        crop = picture[top : top + side, left : left + side]
        board.picture(x, head, crop.repeat(ZOOM, 0).repeat(ZOOM, 1))
        board.text(x + size / 2, caption, key, 16, width=size, bold=True)
        if picture is not original:
            psnr = metrics.psnr_y(picture, original, border=scale)
            value = f"{psnr:.2f} dB" if math.isfinite(psnr) else "equal to the original"
            board.text(x + size / 2, caption + 22, value, 14, width=size)
    return board.figure


def region(image: Image, original: Image, side: int, width: int | None = None) -> tuple[int, int]:
    """Return top and left of the rectangle in which the luma of two images differs most.

    The rectangle has `side` rows and `width` columns; without a width it is a square.
    """
    width = side if width is None else width
    error = np.square(metrics.luma(image) - metrics.luma(original))
    sums = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    box = sums[side:, width:] - sums[:-side, width:] - sums[side:, :-width] + sums[:-side, :-width]
    top, left = np.unravel_index(np.argmax(box), box.shape)
    return int(top), int(left)


def _overview(
    board: Board, image: Image, place: tuple[int, int, int], crop: tuple[int, int, int]
) -> None:
    """Draw `image` in the square `place` (x, y, side), with `crop` (top, left, side) framed."""
    (x, y, size), (top, left, side) = place, crop
    height, width = image.shape[:2]
    ratio = min(1.0, size / height, size / width)
    h, w = max(1, round(height * ratio)), max(1, round(width * ratio))
    x, y = x + (size - w) // 2, y + (size - h) // 2
    board.picture(x, y, bicubic.resize(image, h, w, antialias=True))
    corner = (x + left * w / width, y + top * h / height)
    for colour, thick in (("black", 4.0), ("#ffd500", 2.0)):
        frame = Rectangle(corner, side * w / width, side * h / height, fill=False, ec=colour)
        frame.set(linewidth=thick * 0.72, joinstyle="miter")
        board.axes.add_patch(frame)
