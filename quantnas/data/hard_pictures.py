"""Pictures in which networks reach their extremes: saturated colours, lights at night, text, lines.

They are made from bundled photographs or drawn, so that they take no room in the package. They
belong to the photographs on which ranges of activations are measured, and to nothing else.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from . import bicubic, image_files

Image = NDArray[np.uint8]

HEIGHT, WIDTH = 288, 432
"""Size of a drawn picture, high-resolution pixels."""
SATURATED = ("blue-periwinkle", "casa-mila", "beacon-street-sunset", "tea-gardens", "astronaut")
"""Bundled photographs whose colours are exaggerated."""
NIGHT = ("roman-colosseum", "casa-mila", "beacon-street-sunset")
"""Bundled photographs that are darkened and given lights."""
COLOURS = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
"""The corners of the colour cube, (8, 3)."""


@lru_cache(3)
def low_resolution(scale: int) -> tuple[Image, ...]:
    """All pictures, (H, W, 3), shrunk by `scale`, which divides their sides."""
    return tuple(bicubic.downscale(picture, scale) for picture in pictures())


def pictures() -> Iterator[Image]:
    """All pictures in high resolution, (H, W, 3); the same ones every time."""
    photographs = {path.stem: path for path in image_files.bundled().train}
    for name in SATURATED:
        yield _saturated(image_files.read(photographs[name]))
    for name in NIGHT:
        yield _night(image_files.read(photographs[name]))
    rng = np.random.default_rng(0)
    for ink, paper in ((0, 7), (7, 0), (4, 6), (1, 3)):
        yield _text(COLOURS[ink], COLOURS[paper], rng)
    yield _lines(rng)
    yield _chart()


def _saturated(image: Image) -> Image:
    """A photograph with three times as much colour."""
    grey = image.mean(2, keepdims=True)
    return bicubic.to_uint8(grey + 3 * (image - grey))


def _night(image: Image) -> Image:
    """A photograph darkened to a night, with round lights in saturated colours."""
    dark = 120 * (image / 255.0) ** 2.5
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-9:10, -9:10]
    for k in range(40):
        top, left = (rng.integers(side - 19) for side in image.shape[:2])
        glow = np.clip(rng.integers(2, 9) + 0.5 - np.hypot(y, x), 0, 1)[..., None]
        part = dark[top : top + 19, left : left + 19]
        part += glow * (COLOURS[1 + k % 7] - part)
    return bicubic.to_uint8(dark)


def _text(ink: Image, paper: Image, rng: np.random.Generator) -> Image:
    """Lines of random glyphs of 5x7 squares in several sizes, with gaps between words."""
    picture = np.broadcast_to(paper, (HEIGHT, WIDTH, 3)).copy()
    top, size = 6, 2
    while top + 7 * size < HEIGHT:
        for left in range(6, WIDTH - 6 * size, 6 * size):
            glyph = (rng.random((7, 5)) < 0.45) & (rng.random() < 0.85)
            area = picture[top : top + 7 * size, left : left + 5 * size]
            area[np.kron(glyph, np.ones((size, size), bool))] = ink
        top, size = top + 10 * size, size % 5 + 1
    return picture


def _lines(rng: np.random.Generator) -> Image:
    """Black lines and circles of several widths on white."""
    picture = np.full((HEIGHT, WIDTH), 255.0)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    for k in range(40):
        at_y, at_x, angle = rng.integers(HEIGHT), rng.integers(WIDTH), rng.random() * np.pi
        straight = np.abs((y - at_y) * np.cos(angle) - (x - at_x) * np.sin(angle))
        round_ = np.abs(np.hypot(y - at_y, x - at_x) - rng.integers(5, 90))
        distance = straight if k % 2 else round_
        picture *= np.clip(distance - k % 3, 0, 1)
    return bicubic.to_uint8(np.stack([picture] * 3, 2))


def _chart() -> Image:
    """Squares of all saturated colours, side by side, over ramps and stripes of each."""
    squares = COLOURS[np.random.default_rng(2).integers(8, size=(9, 18))].repeat(24, 1)
    top = squares.repeat(16, 0)
    ramp = np.linspace(0, 1, WIDTH)[:, None] * COLOURS[1:, None, :]
    middle = bicubic.to_uint8(ramp).repeat(8, 0)
    odd = (np.arange(WIDTH) // 6 % 2)[:, None] == 1
    stripes = np.where(odd, COLOURS[:, None, :], 255 - COLOURS[:, None, :]).repeat(11, 0)
    return np.ascontiguousarray(np.concatenate([top, middle, stripes]))
