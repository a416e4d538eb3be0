"""Predicted damage of a bit allocation, slot by slot, as a picture and as a table."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from quantnas.config.search_space import Precision
from quantnas.quantization.bit_allocation import Damage

from .canvas import FAINT, INK, SKIP, save

COLOURS = {2: "#d55e00", 3: "#e69f00", 4: "#009e73", 8: "#0072b2", 32: "#000000"}
"""Weight bits -> colour that colour-blind readers can tell apart (after Okabe and Ito)."""
MARKERS = {2: "v", 3: "^", 4: "s", 8: "o", 32: "D"}
"""Activation bits -> marker."""
ROW = 0.19
"""Height of a slot's row, inches."""


def damage(rows: Sequence[Damage], chosen: Mapping[str, Precision], path: Path) -> None:
    """Write `damage_figure` as PNG. Raises DataError when the file cannot be written."""
    save(damage_figure(rows, chosen), path)


def damage_figure(rows: Sequence[Damage], chosen: Mapping[str, Precision]) -> Figure:
    """Return a figure with a row of markers per slot, in which the chosen ones are filled.

    Bit widths without any damage stand at the left edge.
    """
    height = ROW * len(rows) + 1.8
    figure = Figure(figsize=(8.5, height), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    found = [mse for row in rows for mse in row.mse if mse > 0] or [1.0]
    low, high = min(found) / 3, max(found) * 3
    axes.set(xscale="log", xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))
    for y, row in enumerate(rows):
        _row(axes, y, row, chosen[row.slot], low)
    _frame(axes, rows)
    _names(axes, [chosen[row.slot] for row in rows])
    total = sum(row.at(chosen[row.slot]) for row in rows)
    label = "predicted mean squared error of the output (pixels in 0..1), and its PSNR\n"
    label += f"sum over the chosen: {total:.2e}, {psnr(total):.1f} dB"
    axes.set_xlabel(label, size=9, color=INK)
    figure.legend(
        handles=_legend(rows), loc="outside upper center", ncols=8, frameon=False, fontsize=8.5
    )
    return figure


def _row(axes: Axes, y: int, row: Damage, chosen: Precision, low: float) -> None:
    """Draw the markers of one slot."""
    places = [max(mse, low) for mse in row.mse]
    axes.plot([min(places), max(places)], [y, y], color=SKIP, linewidth=0.7, zorder=2)
    for x, width in zip(places, row.options, strict=True):
        colour, filled = COLOURS[width.weights], width == chosen
        axes.plot(
            [x], [y], MARKERS[width.activations], markersize=6.5 if filled else 4.5, color=colour,
            markerfacecolor=colour if filled else "white", zorder=3 + filled, clip_on=False,
        )  # fmt: skip


def _names(axes: Axes, chosen: Sequence[Precision]) -> None:
    """Write the chosen bit widths at the right edge, in their colours."""
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(chosen)), [f"w{w.weights} a{w.activations}" for w in chosen])
    right.tick_params(labelsize=8, length=0)
    for text, width in zip(right.get_yticklabels(), chosen, strict=True):
        text.set(color=COLOURS[width.weights], weight="bold")


def _frame(axes: Axes, rows: Sequence[Damage]) -> None:
    """Draw slot names, errors in both units, and a faint background under every other cell."""
    axes.set_yticks(range(len(rows)), [row.slot for row in rows])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda mse, _: f"{mse:.0e}\n{psnr(mse):.0f} dB"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color="#d8d8d8", linewidth=0.6)
    axes.tick_params(labelsize=8, colors=INK, length=2, labeltop=True, top=True)
    for spine in axes.spines.values():
        spine.set(color=SKIP, linewidth=0.6)
    start = 0
    for i, (_, cell) in enumerate(groupby(rows, lambda row: row.slot.partition("_")[0])):
        end = start + len(list(cell))
        if i % 2:
            axes.axhspan(start - 0.5, end - 0.5, color=FAINT, zorder=0)
        start = end


def _legend(rows: Sequence[Damage]) -> list[Line2D]:
    """Return legend entries for weight bits, activation bits and the chosen marker."""
    widths = [width for row in rows for width in row.options]
    weights, inputs = sorted({w.weights for w in widths}), sorted({w.activations for w in widths})
    return [
        *(_mark("o", COLOURS[bits], f"weights {bits}") for bits in weights),
        *(_mark(MARKERS[bits], INK, f"inputs {bits}") for bits in inputs),
        _mark("o", INK, "chosen", INK),
    ]


def _mark(mark: str, colour: str, label: str, face: str = "white") -> Line2D:
    return Line2D(
        [], [], marker=mark, color=colour, markerfacecolor=face, linestyle="none", label=label
    )


def psnr(mse: float) -> float:
    """Return the PSNR in dB of a mean squared error of pixels in [0, 1]; infinite for zero."""
    return -10 * math.log10(mse) if mse else math.inf


def table(rows: Sequence[Damage], chosen: Mapping[str, Precision]) -> list[list[str]]:
    """Return rows of slot, bit widths, predicted MSE and PSNR of the output if only it is rounded.

    The first row is the header.
    """
    lines = [["slot", "weights", "inputs", "output MSE", "PSNR to float"]]
    for row in rows:
        width, mse = chosen[row.slot], row.at(chosen[row.slot])
        bits = [str(width.weights), str(width.activations)]
        lines.append([row.slot, *bits, f"{mse:.2e}", f"{psnr(mse):.1f}"])
    return lines
