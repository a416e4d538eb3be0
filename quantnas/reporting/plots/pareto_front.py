"""Plot of PSNR over BitOps of several models, optionally with published results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from . import label_placement
from .canvas import GRID, INK, SKIP, darker, drawable, save
from .label_placement import Box
from .search_curves import COLOURS

PUBLISHED: dict[str, tuple[tuple[float, float], ...]] = {
    "noise + AdaDM": ((1.91, 27.631), (2.61, 27.631), (4.61, 27.815), (16.62, 27.915)),
    "noise": ((2.10, 27.052), (2.66, 27.447), (4.46, 27.650), (8.79, 27.821)),
    "shared weights + AdaDM": ((2.41, 27.576), (2.60, 27.546), (4.11, 27.651), (7.18, 27.860)),
    "shared weights": ((2.58, 27.485), (4.69, 27.641), (9.45, 27.773), (11.15, 27.841)),
}
"""Search method of arXiv 2208.14839 -> (GBitOps at LR 32x32, PSNR-Y in dB) at x4."""
SOURCE = (
    "Published: arXiv 2208.14839, read off the figure in the README of its code "
    "(about 0.03 GBitOps and 0.003 dB uncertain); that it shows Set14 is inferred."
)
PUBLISHED_SET, PUBLISHED_SCALE = "set14", 4
"""Lower-case name of the set of the published results, and their scale."""
SHADES = ("#4d4d4d", "#7a7a7a", "#9c9c9c", "#b8b8b8")
MARKERS = ("s", "D", "^", "v")
SIDES = (5.6, 4.3)
"""Width and height of a panel, inches."""
DPI = 120
SIZE, WIDER = 8.0, 7.0
"""Diameter of a marker, and how much larger the next one around it is; 1/72 inch."""
NEAR = 7.0
"""Distance of two markers, pixels at DPI, below which the second is drawn around the first."""
STRIP, GAP = 0.62, 0.1
"""Height of the part below a broken axis, and the gap between its parts, inches."""


def beside_published(name: str, scale: int) -> bool:
    """Whether the published results are of the set with that name at that scale."""
    return (name.lower(), scale) == (PUBLISHED_SET, PUBLISHED_SCALE)


@dataclass(frozen=True)
class ParetoPoint:
    """A model measured on a set."""

    name: str
    """Name written beside the point; empty for none."""
    cost: float
    """BitOps at LR 32x32 (32 x 32 bits for a float network), or another cost of the panel."""
    psnr: float
    is_float: bool


@dataclass(frozen=True)
class Panel:
    """A plot of models on one set of photographs."""

    title: str
    bicubic: float
    """PSNR of bicubic upscaling, dB."""
    points: tuple[ParetoPoint, ...]
    published: bool = False
    cost: str = "GBitOps at LR 32x32"
    """Label of the horizontal axis."""
    unit: float = 1e9
    """Cost that corresponds to 1 on the axis."""
    joined: tuple[int, ...] = ()
    """Indices of the points that a line joins."""

    @property
    def spots(self) -> list[tuple[float, float]]:
        """Return cost on the axis and PSNR of every point."""
        return [(point.cost / self.unit, point.psnr) for point in self.points]

    @property
    def line(self) -> list[tuple[float, float]]:
        """Return the ends and corners of the line."""
        return [self.spots[i] for i in self.joined]


def draw(panels: Sequence[Panel], note: str, path: Path) -> None:
    """Write `front_figure` as PNG. Raises DataError when it cannot be written."""
    save(front_figure(panels, note), path)


def front_figure(
    panels: Sequence[Panel], note: str | None, sides: tuple[float, float] = SIDES, dpi: int = DPI
) -> Figure:
    """Draw a panel per set with cost on a logarithmic axis; `note` says how PSNR was measured.

    Without a note there is no caption. `sides` are the width and height of a panel in inches.
    Point i of a panel has the gid `point-<i>`, published search i has `published-<i>`.
    """
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    handles, caption = _legend(panels), _caption(panels, note, columns) if note is not None else ""
    lines = 0.17 * len(caption.splitlines())
    foot = lines + 0.24 * math.ceil(len(handles) / (2 * columns)) + (0.42 if caption else 0.1)
    size = (columns * sides[0] + 0.25, rows * sides[1] + foot)
    figure = Figure(figsize=size, dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        left = column * sides[0] + 0.75
        bottom = foot + (rows - 1 - row) * sides[1] + 0.45
        _panel(figure, panel, (left, bottom, sides[0] - 0.9, sides[1] - 0.8), canvas)
    figure.text(0.2 / size[0], 0.1 / size[1], caption, size=7.5, color=INK, va="bottom")
    if handles:
        height = lines + (0.16 if caption else 0.0)
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.15 / size[0], height / size[1]),
            ncols=2 * columns, frameon=False, fontsize=8, handlelength=2.2,
        )  # fmt: skip
    return figure


def _caption(panels: Sequence[Panel], note: str, columns: int) -> str:
    """Return what the axes mean, in lines as wide as the figure."""
    sentences = [
        "BitOps: sum over the convolutions of MACs x weight bits x activation bits, for a "
        "low-resolution image of 32x32."
    ]
    if any(point.is_float for panel in panels for point in panel.points):
        sentences.append("Hollow: in float, counted as 32 x 32 bits, that is MACs x 1024.")
    sentences.append(f"PSNR-Y: {note}.")
    if any(panel.published for panel in panels):
        sentences.append(SOURCE)
    lines, width = [""], int(104 * columns)
    for word in " ".join(sentences).split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _legend(panels: Sequence[Panel]) -> list[Line2D]:
    """Return entries for the published searches; models are named at their points."""
    if not any(panel.published for panel in panels):
        return []
    return [
        Line2D([], [], label=f"published: {name}", **_published_style(i))
        for i, name in enumerate(PUBLISHED)
    ]


def _published_style(index: int) -> dict[str, Any]:
    return {
        "color": SHADES[index], "marker": MARKERS[index], "markersize": 4.5, "linewidth": 0.9,
        "linestyle": "-" if index % 2 == 0 else (0, (3, 1.5)),
    }  # fmt: skip


def _panel(figure: Figure, panel: Panel, place: Box, canvas: FigureCanvasAgg) -> None:
    """Draw a panel in a rectangle (x, y, width, height; inches), broken where bicubic is far."""
    (x, y, width, height), (wide, tall) = place, figure.get_size_inches()
    strip = STRIP if _far(panel) else 0.0
    box = (x / wide, (y + strip) / tall, width / wide, (height - strip) / tall)
    axes = lowest = figure.add_axes(box)
    _limits(axes, panel)
    spots = [tuple(axes.transData.transform(spot)) for spot in panel.spots]
    sizes = [SIZE + WIDER * ring for ring in _rings(spots, NEAR * figure.dpi / DPI)]
    _points(axes, panel, sizes)
    if strip:
        lowest = _strip(figure, axes, panel, (box[0], y / tall, box[2], (strip - GAP) / tall))
    level: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 3)), "zorder": 1}
    lowest.axhline(panel.bicubic, **level)
    for part in {axes, lowest}:
        part.grid(color=GRID, linewidth=0.6)
        part.set_axisbelow(True)
        part.tick_params(labelsize=7.5, colors=INK, length=2)
        for spine in part.spines.values():
            spine.set(color=SKIP, linewidth=0.6)
    title: dict[str, Any] = {"size": 10, "weight": "bold", "color": INK, "loc": "left"}
    axes.set_title(drawable(panel.title), parse_math=False, **title)
    lowest.set_xlabel(panel.cost, size=8.5, color=INK)
    axes.set_ylabel("PSNR-Y, dB", size=8.5, color=INK)
    taken = [] if strip else [_level(axes, panel, canvas)]
    if strip:
        _level(lowest, panel, canvas)
    wide = [(s, size) for s, size in zip(spots, sizes, strict=True) if size > SIZE]
    taken += [label_placement.around(spot, 0.5 * size * figure.dpi / 72) for spot, size in wide]
    named = [i for i, point in enumerate(panel.points) if point.name]
    taken += [
        label_placement.around(spots[i], label_placement.MARKER)
        for i in set(range(len(spots))) - {*named}
    ]
    names = [(panel.points[i].name, darker(_colour(i))) for i in named]
    label_placement.write(axes, names, [spots[i] for i in named], [*taken, *_marked(axes, panel)])


def _rings(spots: Sequence[label_placement.Spot], near: float) -> list[int]:
    """Return how many nearby points each one has to be drawn around; 0 for the first."""
    rings: list[int] = []
    for spot in spots:
        below = [r for other, r in zip(spots, rings, strict=False) if math.dist(spot, other) < near]
        rings.append(max(below, default=-1) + 1)
    return rings


def _points(axes: Axes, panel: Panel, sizes: Sequence[float]) -> None:
    """Draw published and measured points; a larger marker lies under a smaller one."""
    for i, points in enumerate(PUBLISHED.values() if panel.published else ()):
        axes.plot(*zip(*points, strict=True), zorder=2, gid=f"published-{i}", **_published_style(i))
    if panel.joined:
        ends = zip(*panel.line, strict=True)
        axes.plot(*ends, color=SKIP, linewidth=1.2, zorder=2.5, gid="joined")
    for i, point in enumerate(panel.points):
        colour = _colour(i)
        edge = (colour, 1.6) if point.is_float else ("white", 0.8)
        axes.plot(
            *panel.spots[i], marker="o", markersize=sizes[i], linestyle="none", gid=f"point-{i}",
            markeredgecolor=edge[0], markeredgewidth=edge[1], zorder=4 - sizes[i] / 1000,
            markerfacecolor="white" if point.is_float else colour,
        )  # fmt: skip


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _shown(panel: Panel) -> tuple[list[float], list[float]]:
    """Return costs on the axis and PSNR of everything that the panel shows."""
    spots = panel.spots
    spots += [p for points in PUBLISHED.values() for p in points] if panel.published else []
    xs, ys = zip(*spots, strict=True)
    return list(xs), list(ys)


def _far(panel: Panel) -> bool:
    """Whether bicubic is so far below all points that they would lie on top of each other."""
    ys = _shown(panel)[1]
    return min(ys) - panel.bicubic > max(0.4, 0.5 * (max(ys) - min(ys)))


def _strip(figure: Figure, axes: Axes, panel: Panel, box: Box) -> Axes:
    """Return the axes below a broken vertical axis, which show only bicubic."""
    low = figure.add_axes(box, sharex=axes)
    low.set_ylim(panel.bicubic - 1, panel.bicubic + 1)
    low.set_yticks([panel.bicubic], [f"{panel.bicubic:.2f}"])
    axes.tick_params(labelbottom=False, bottom=False)
    axes.spines["bottom"].set_visible(False)
    low.spines["top"].set_visible(False)
    marks: dict[str, Any] = {
        "marker": [(-1, -0.6), (1, 0.6)],
        "markersize": 8,
        "linestyle": "none",
        "color": SKIP,
    }
    for part, end in ((axes, 0), (low, 1)):
        part.plot([0, 1], [end, end], transform=part.transAxes, clip_on=False, mew=0.8, **marks)
    return low


def _limits(axes: Axes, panel: Panel) -> None:
    """Set limits of the axes that leave room for names around the points."""
    xs, ys = _shown(panel)
    ys += [] if _far(panel) else [panel.bicubic]
    room = max(2.2, (max(xs) / min(xs)) ** 0.12)
    low, high = min(xs) / room, max(xs) * room
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    rise = max(max(ys) - min(ys), 0.1)
    axes.set_ylim(min(ys) - 0.12 * rise, max(ys) + 0.16 * rise)
    steps = (1, 2, 5) if high / low < 100 else (1, 3) if high / low < 3000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.xaxis.set_major_locator(FixedLocator([s * 10.0**p for p in powers for s in steps]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _level(axes: Axes, panel: Panel, canvas: FigureCanvasAgg) -> Box:
    """Label the line of bicubic, and return the box of the label, pixels."""
    text = axes.annotate(
        f"bicubic {panel.bicubic:.2f} dB", (0, panel.bicubic), (5, 3), size=7.5, color=INK,
        xycoords=("axes fraction", "data"), textcoords="offset points",
    )  # fmt: skip
    x0, y0, x1, y1 = text.get_window_extent(canvas.get_renderer()).extents
    return float(x0), float(y0), float(x1), float(y1)


def _marked(axes: Axes, panel: Panel) -> list[Box]:
    """Return boxes that published points, lines between points and bicubic's line cover."""
    boxes: list[Box] = []
    for points in (*(PUBLISHED.values() if panel.published else ()), panel.line):
        ends = [tuple(axes.transData.transform(point)) for point in points]
        boxes += [label_placement.around(end, 5) for end in ends]
        boxes += [
            label_placement.around(p, 2)
            for a, b in pairwise(ends)
            for p in label_placement.between(a, b)
        ]
    frame = axes.get_window_extent()
    level = float(axes.transData.transform((1.0, panel.bicubic))[1])
    return [*boxes, (frame.x0, level - 2, frame.x1, level + 2)]
