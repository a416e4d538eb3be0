"""Error maps of a model and of bicubic on one photograph.

They show the same pixels that the metrics measure: luma, without the border.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from quantnas.evaluation import metrics

from .canvas import INK, SKIP, Image, drawable, save
from .crop_strip import region

SIDE = 64
"""Side of the magnified part, pixels."""
WIDE = 3.9
"""Width of a panel, inches."""
FAINTEST = 16
"""Least grey levels that the colours span, so that negligible errors look negligible."""
FRAME = "#35c9ff"


def draw(views: dict[str, Image], scale: int, title: str, path: Path) -> None:
    """Write `difference_figure` as PNG. Raises DataError when it cannot be written."""
    save(difference_figure(views, scale, title), path)


def difference_figure(views: dict[str, Image], scale: int, title: str) -> Figure:
    """Return error maps |image - original| on luma, equally amplified, and the worst region.

    `views` holds bicubic, the model's image and the original (H, W, 3), in this order.
    """
    *names, last = views
    inside = {name: _inside(view, scale) for name, view in views.items()}
    errors = {name: _error(inside[name], inside[last]) for name in names}
    top = _span(list(errors.values()))
    height, width = inside[last].shape[:2]
    side = min(SIDE, height, width)
    y, x = region(inside[names[-1]], inside[last], side)
    figure, panels, bar = _layout(height / width)
    panels[0][0].imshow(inside[last])
    shown = None
    for axes, name in zip(panels[0][1:], names, strict=True):
        shown = axes.imshow(errors[name], cmap="inferno", vmin=0, vmax=top)
    for axes in panels[0]:
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, fill=False, ec=FRAME, lw=1.3))
    for axes, name in zip(panels[1], (last, *names), strict=True):
        axes.imshow(inside[name][y : y + side, x : x + side], interpolation="nearest")
    figure.colorbar(shown, cax=bar, extend="max")  # type: ignore[arg-type]
    bar.tick_params(labelsize=8, colors=INK, length=2)
    bar.set_ylabel(f"|image - original| on luma, of 255; amplified x{255 / top:.0f}", size=8.5)
    _caption(panels[0][0], last, f"{width}x{height} pixels, framed: the part below")
    for axes, name in zip(panels[0][1:], names, strict=True):
        psnr, ssim = (m(views[name], views[last], scale) for m in (metrics.psnr_y, metrics.ssim_y))
        worth = f"{psnr:.2f} dB" if math.isfinite(psnr) else "equal"
        _caption(axes, name, f"{worth}, SSIM {ssim:.4f}")
    size = min(11.0, 112 * figure.get_figwidth() / len(title or "-"))
    style: dict[str, Any] = {"size": size, "weight": "bold", "color": INK, "parse_math": False}
    figure.suptitle(drawable(title), y=0.99, va="top", **style)
    return figure


def _inside(image: Image, border: int) -> Image:
    height, width = image.shape[:2]
    return image[border : height - border, border : width - border]


def _error(image: Image, original: Image) -> NDArray[np.float64]:
    return np.abs(metrics.luma(image) - metrics.luma(original))


def _span(errors: list[NDArray[np.float64]]) -> float:
    """Return the grey levels of the brightest colour: a multiple of 4 above nearly all errors."""
    most = max(float(np.quantile(error, 0.998)) for error in errors)
    return float(min(255, max(FAINTEST, 4 * math.ceil(most / 4))))


def _layout(ratio: float) -> tuple[Figure, list[list[Axes]], Axes]:
    """Return two rows of three panels for images of a ratio (height / width), and a colour bar."""
    wide = WIDE if ratio <= 1.2 else max(2.4, 1.2 * WIDE / ratio)
    tall = min(wide * ratio, 2 * WIDE)
    gap, head, foot, right = 0.14, 0.84, 0.14, 0.95
    size = (3 * wide + 3 * gap + right, head + tall + gap + wide + foot)
    figure = Figure(figsize=size, dpi=110, facecolor="white")

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / size[0], y / size[1], w / size[0], h / size[1]))

    rows = [(foot + wide + gap, tall), (foot, wide)]
    panels = [[place(gap + i * (wide + gap), y, wide, h) for i in range(3)] for y, h in rows]
    for axes in (*panels[0], *panels[1]):
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=SKIP, linewidth=0.6)
    long = max(tall, 3.2)  # for what is written beside it
    return figure, panels, place(3 * (wide + gap) + gap, rows[0][0] + tall - long, 0.16, long)


def _caption(axes: Axes, name: str, note: str) -> None:
    inches = axes.get_position().width * axes.figure.get_figwidth()  # type: ignore[union-attr]
    lines: tuple[dict[str, Any], ...] = ({"size": 10.0, "weight": "bold"}, {"size": 9.0})
    for line, text, height in zip(lines, (name, note), (20, 5), strict=True):
        line["size"] = min(line["size"], 115 * inches / len(text))
        axes.annotate(
            drawable(text), (0, 1), (0, height), xycoords="axes fraction",
            textcoords="offset points", color=INK, parse_math=False, annotation_clip=False, **line,
        )  # fmt: skip
