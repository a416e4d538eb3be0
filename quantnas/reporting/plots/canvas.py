"""Drawing board for boxes, wires, texts and pictures, written as PNG without a screen."""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from numpy.typing import NDArray

from quantnas.config.files import readable
from quantnas.data import image_files

Image = NDArray[np.uint8]
Point = tuple[float, float]
Colour = str | tuple[float, float, float, float]

INK, SKIP, FAINT, BAR = "#2b2b2b", "#8c8c8c", "#f4f4f2", "#e66101"
GRID = "#e4e4e4"
PLUS = 10
"""Radius of the sign of a sum or product."""
ARROW = "-|>,head_length=4.5,head_width=2.2"


UNDRAWN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that neither a font nor SVG has."""


def drawable(text: str) -> str:
    """Return text of a file or a name of a file as a figure can hold it."""
    return UNDRAWN.sub("\ufffd", readable(text))


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises DataError when it cannot be written."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # in the name of a photograph
        canvas.draw()
    image_files.write(path, np.asarray(canvas.buffer_rgba())[:, :, :3])


def darker(colour: str) -> str:
    """Return the colour, dark enough for text on white."""
    red, green, blue = (0.65 * part for part in to_rgb(colour))
    return to_hex((red, green, blue))


class Board:
    """A figure to draw on in units of 1/100 inch, with y pointing down."""

    def __init__(self, width: float, height: float, dpi: int = 150) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=dpi, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def text(
        self, x: float, y: float, text: str, size: float = 13, *,
        width: float = math.inf, bold: bool = False, **style: Any,
    ) -> None:  # fmt: skip
        """Write `text` around (x, y), smaller than `size` where it would be wider than `width`."""
        estimate = (0.71 if bold else 0.63) * max(1, len(text))
        style = {"color": INK, "ha": "center", "va": "center_baseline"} | style
        self.axes.text(
            x, y, drawable(text), size=0.72 * min(size, width / estimate), parse_math=False,
            weight="bold" if bold else "normal", family="DejaVu Sans", **style,
        )  # fmt: skip

    def box(
        self, x: float, y: float, w: float, h: float, *,
        face: Colour = "white", edge: Colour = INK, radius: float = 9,
    ) -> None:  # fmt: skip
        style = f"round,pad=0,rounding_size={min(radius, w / 2, h / 2)}"
        depth = 1 if face == FAINT else 3  # wires are 2
        patch = FancyBboxPatch((x, y), w, h, style, fc=face, ec=edge, lw=0.9, zorder=depth)
        self.axes.add_patch(patch)

    def plain(self, x: float, y: float, w: float, text: str) -> None:
        """Draw a box of something other than a convolution, centred at y."""
        self.box(x, y - 24, w, 48, edge=SKIP)
        lines = text.split("\n")
        for i, line in enumerate(lines):
            self.text(x + w / 2, y + 17 * (i - (len(lines) - 1) / 2), line, width=w - 8)

    def wire(self, *points: Point, skip: bool = False, head: bool = True) -> None:
        """Draw an arrow (a line without `head`) through `points`, with rounded corners."""
        vertices, codes = [points[0]], [Curve.MOVETO]
        for before, here, after in zip(points, points[1:], points[2:], strict=False):
            vertices += [_towards(here, before), here, _towards(here, after)]
            codes += [Curve.LINETO, Curve.CURVE3, Curve.CURVE3]
        curve = Curve([*vertices, points[-1]], [*codes, Curve.LINETO])
        colour = SKIP if skip else INK
        arrow = FancyArrowPatch(
            path=curve, arrowstyle=ARROW if head else "-", mutation_scale=1.0,
            fc=colour, ec=colour, lw=1.1, capstyle="butt", joinstyle="miter", zorder=2,
        )  # fmt: skip
        self.axes.add_patch(arrow)

    def dot(self, x: float, y: float) -> None:
        """Mark the fork of a wire."""
        self.axes.add_patch(Circle((x, y), 3.2, fc=INK, ec="none", zorder=4))

    def sign(self, x: float, y: float, is_product: bool = False) -> None:
        """Draw the sign of a sum or product around (x, y)."""
        self.axes.add_patch(Circle((x, y), PLUS, fc="white", ec=INK, lw=1.0, zorder=4))
        half = PLUS - 4.0
        ends = ((half, half), (half, -half)) if is_product else ((half, 0.0), (0.0, half))
        for dx, dy in ends:
            self.axes.plot([x - dx, x + dx], [y - dy, y + dy], color=INK, lw=1.1, zorder=5)

    def picture(self, x: int, y: int, image: Image) -> None:
        """Draw `image` with its top left corner at (x, y); a unit is a pixel at 100 dpi."""
        self.figure.figimage(
            image, x, round(self.height) - y - len(image), origin="upper", zorder=-1
        )


def _towards(here: Point, there: Point, radius: float = 8) -> Point:
    """Return the point `radius` from `here` towards `there`, at most half way."""
    distance = math.dist(here, there)
    share = min(radius, distance / 2) / distance if distance else 0.0
    return here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1])
