"""Predicted and measured damage of every layer of a run, side by side in one figure."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from quantnas.evaluation.layer_damage import Measured

from .canvas import GRID, INK, SKIP, drawable
from .damage_chart import ROW, psnr
from .search_curves import COLOURS

HIDDEN: dict[str, float] = {"alpha": 0.0, "zorder": 0}
"""Style of the invisible background of a row, which only carries the row's gid."""


def figure(rows: Sequence[Measured]) -> Figure:
    """Draw a row of markers per slot, the first slot on top, over the mean squared error.

    Zero damage stands at the left edge. The background of row i has the gid `row-<i>`.
    """
    found = Figure(figsize=(7, ROW * len(rows) + 1.4), dpi=120, layout="constrained")
    axes = found.add_subplot()
    positive = [mse for row in rows for mse in _errors(row) if mse > 0] or [1.0]
    low, high = min(positive) / 2, max(positive) * 2
    axes.set(xscale="log", xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))
    for y, row in enumerate(rows):
        axes.axhspan(y - 0.5, y + 0.5, gid=f"row-{y}", **HIDDEN)
        if row.predicted is not None:
            ends = [max(row.predicted, low), max(row.measured, low)]
            axes.plot(ends, [y, y], color=SKIP, linewidth=1, zorder=2)
    _marks(axes, rows, low)
    _frame(axes, rows)
    found.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    return found


def _errors(row: Measured) -> list[float]:
    return [mse for mse in (row.predicted, row.measured, row.fitted) if mse is not None]


def _marks(axes: Axes, rows: Sequence[Measured], low: float) -> None:
    """Draw a hollow dot for the prediction, a filled dot and a stroke for the measurements."""
    styles: dict[str, dict[str, Any]] = {
        "predicted": {"marker": "o", "mfc": "white", "mec": COLOURS[0], "mew": 1.4, "ms": 5.5},
        "measured": {"marker": "o", "mfc": COLOURS[1], "mec": COLOURS[1], "ms": 5.5},
        "measured on fitted grids": {"marker": "|", "color": COLOURS[1], "mew": 1.8, "ms": 9},
    }
    columns = zip(*((row.predicted, row.measured, row.fitted) for row in rows), strict=True)
    for (label, style), column in zip(styles.items(), columns, strict=False):
        spots = [(max(mse, low), y) for y, mse in enumerate(column) if mse is not None]
        xs, ys = [x for x, _ in spots], [y for _, y in spots]
        axes.plot(xs, ys, label=label, linestyle="none", zorder=3, clip_on=False, **style)


def _frame(axes: Axes, rows: Sequence[Measured]) -> None:
    """Draw slots at the left, bit widths at the right, the error below and as PSNR above."""
    names = [drawable(row.slot) for row in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    right, top = axes.secondary_yaxis("right"), axes.secondary_xaxis("top")
    right.set_yticks(range(len(rows)), [f"w{row.weights} a{row.activations}" for row in rows])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda mse, _: f"{mse:.0e}"))
    top.xaxis.set_major_formatter(FuncFormatter(lambda mse, _: f"{psnr(mse):.0f} dB"))
    for part in (axes, right, top):
        part.xaxis.set_minor_locator(NullLocator())
        part.tick_params(labelsize=8, colors=INK, length=2)
        for spine in part.spines.values():
            spine.set(color=SKIP, linewidth=0.6)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    label = "mean squared error of the output, pixels in 0..1; above: as PSNR to the float network"
    axes.set_xlabel(label, size=8.5, color=INK)
