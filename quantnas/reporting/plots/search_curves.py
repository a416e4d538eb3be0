"""Plots of a gradient search from its `metrics.jsonl`: probabilities, cost and quality."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from quantnas.architectures import registry
from quantnas.config import schema
from quantnas.config.search_space import Precision, SearchSpace, Slot
from quantnas.errors import DataError
from quantnas.runs import step_results

from .canvas import GRID, INK, SKIP, drawable, save

Row = dict[str, Any]
Style = dict[str, Any]

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b5a400",
)  # fmt: skip
"""Colours that colour-blind readers can tell apart (Okabe and Ito); a ninth line gets a marker."""
MARKERS = (None, "o", "s", "^")
DASHES: tuple[Any, ...] = (
    "-", (0, (3.5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (7, 3)), (0, (3, 1, 1, 1, 1, 1))
)  # fmt: skip
COLUMNS = 6
"""Most panels in a row."""
SMALL = 7.5
"""Size of the smallest text, points."""


def draw(folder: Path, space: SearchSpace) -> list[Path]:
    """Write plots/alphas.png and plots/search.png of a run folder, and return their paths.

    Nothing is written for a run without a gradient search. Raises DataError when a picture cannot
    be written.
    """
    rows = read(folder / "metrics.jsonl")
    if not rows:
        return []
    path = folder / "config.yaml"
    config = step_results.settings(folder, partial=True).get("search", {}) if path.exists() else {}
    figures = {"search": search_figure(rows, config)}
    if rows[-1]["probabilities"]:
        figures["alphas"] = alphas_figure(rows, space)
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    for name, figure in figures.items():
        save(figure, plots / f"{name}.png")
    return [plots / f"{name}.png" for name in sorted(figures)]


def read(path: Path) -> list[Row]:
    """Return the rows of a gradient search in `metrics.jsonl`, in order.

    Raises DataError for rows that do not belong together.
    """
    rows = [row for row in step_results.records(path) if row["phase"] == "search"]
    found = [row for row in rows if "probabilities" in row]
    for row in found:
        schema.check(step_results.SearchRecord, row, str(path))
        if _shape(row) != _shape(found[0]):
            raise _damaged(f"{path} has steps with other choices than before.")
    return found


def _shape(row: Row) -> dict[str, int]:
    """Choice -> number of its options, in a row."""
    return {name: len(values) for name, values in row["probabilities"].items()}


def _damaged(what: str) -> DataError:
    return DataError(what, "The run folder is damaged: take these files from a copy.")


# The probabilities


def alphas_figure(rows: Sequence[Row], space: SearchSpace, most: int = COLUMNS) -> Figure:
    """Return a panel per edge: probability of every (operation, bit width) pair over the steps.

    At most `most` panels stand in a row. Raises DataError for rows of another search space.
    """
    decided = {slot.choice: slot for slot in reversed(registry.slots(space))}
    names = list(rows[-1]["probabilities"])
    fitting = {name: slot.options for name, slot in decided.items() if name in names}
    if _shape(rows[-1]) != fitting:
        raise _damaged("The choices in metrics.jsonl are not those of the search space.")
    chosen = [decided[name] for name in names]
    look = _Look(chosen)
    height = math.ceil(len(names) / most)
    columns = max(3, math.ceil(len(names) / height))
    size = (2.3 * columns, 1.55 * height + 0.6 + 0.2 * look.legend_rows(columns))
    figure = Figure(figsize=size, dpi=120, facecolor="white")
    grid = _margins(height, columns, size, look.legend_rows(columns))
    panels = figure.subplots(
        height, columns, squeeze=False, sharex=True, sharey=True, gridspec_kw=grid
    ).ravel()
    steps = [row["step"] for row in rows]
    for axes, name, slot in zip(panels, names, chosen, strict=False):
        table = [_numbers(row["probabilities"][name]) for row in rows]
        _panel(axes, look, slot, steps, list(zip(*table, strict=True)))
    for i, axes in enumerate(panels[: len(names)]):
        axes.tick_params(labelbottom=i + columns >= len(names))
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("step", size=9)
    figure.supylabel("probability", size=9)
    figure.legend(
        handles=look.legend(), loc="upper center", ncols=look.legend_columns(columns),
        frameon=False, fontsize=9, handlelength=2.6,
    )  # fmt: skip
    return figure


def _margins(
    rows: int, columns: int, size: tuple[float, float], legend_rows: int
) -> dict[str, float]:
    """Return `gridspec_kw` that leaves room for texts; a constrained layout takes far longer."""
    left, right, bottom, top = 0.55, 0.12, 0.5, 0.53 + 0.19 * legend_rows  # inches
    across, down = size[0] - left - right, size[1] - bottom - top
    beside, below = 0.18, 0.4  # gaps between panels, inches
    return {
        "left": left / size[0], "right": 1 - right / size[0],
        "bottom": bottom / size[1], "top": 1 - top / size[1],
        "wspace": beside * columns / (across - beside * (columns - 1)),
        "hspace": below * rows / (down - below * (rows - 1)),
    }  # fmt: skip


class _Look:
    """Line styles: a colour per operation, dashes per bit width."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        slots = list(slots)
        self.ops = list(dict.fromkeys(op for slot in slots for op in slot.ops))
        self.bit_widths = list(dict.fromkeys(w for slot in slots for w in slot.bit_widths))
        self.bit_widths.sort(key=lambda w: (-w.weights, -w.activations))

    def op(self, name: str) -> Style:
        again, colour = divmod(self.ops.index(name), len(COLOURS))
        marker = MARKERS[again % len(MARKERS)]
        return {"color": COLOURS[colour], "marker": marker, "markersize": 3.0}

    def width(self, width: Precision) -> Style:
        again, dashes = divmod(self.bit_widths.index(width), len(DASHES))
        return {"linestyle": DASHES[dashes], "linewidth": 1.5 if again == 0 else 0.7}

    def legend(self) -> list[Line2D]:
        """Return entries for the operations, then for the bit widths."""
        lines = [Line2D([], [], label=op, linewidth=2, **self.op(op)) for op in self.ops]
        for width in self.bit_widths:
            lines.append(Line2D([], [], color=INK, label=bits(width), **self.width(width)))
        return lines

    def legend_columns(self, columns: int) -> int:
        """Return how many entries fit in a row above that many panels."""
        longest = max(len(str(line.get_label())) for line in self.legend())
        return max(1, min(int(2.2 * columns / (0.65 + 0.075 * longest)), len(self.legend())))

    def legend_rows(self, columns: int) -> int:
        return math.ceil(len(self.legend()) / self.legend_columns(columns))


def bits(width: Precision) -> str:
    """Return `4 bits` for equal weight and activation bits, otherwise a form such as `w2a8`."""
    same = width.weights == width.activations
    return f"{width.weights} bits" if same else f"w{width.weights}a{width.activations}"


def _panel(
    axes: Axes, look: _Look, slot: Slot, steps: list[int], curves: list[tuple[float, ...]]
) -> None:
    pairs = [(op, width) for op in slot.ops for width in slot.bit_widths]
    best = max(range(len(pairs)), key=lambda i: curves[i][-1])
    for i, ((op, width), curve) in enumerate(zip(pairs, curves, strict=True)):
        style = look.op(op) | look.width(width)
        axes.plot(steps, curve, markevery=max(1, len(steps) // 6), zorder=3 + (i == best), **style)
    (op, width), last = pairs[best], curves[best][-1]
    axes.set_title(slot.choice, size=8.5, weight="bold", color=INK, loc="left", pad=13)
    label = f"{op}, {bits(width)}: {last:.2f}"
    axes.text(0, 1.03, label, size=SMALL, color=INK, transform=axes.transAxes)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.locator_params(axis="x", nbins=3, integer=True)
    _plain(axes)


# Cost and quality


def search_figure(rows: Sequence[Row], config: dict[str, Any], across: bool = False) -> Figure:
    """Return plots of entropy and share decided, expected and decided BitOps, and PSNR over steps.

    `config` is the section `search` of the run's configuration. The three panels stand side by
    side with `across`, below each other without.
    """
    size, shape = ((11, 3.4), (1, 3)) if across else ((8, 8), (3, 1))
    figure = Figure(figsize=size, dpi=120, facecolor="white", layout="constrained")
    top, middle, bottom = figure.subplots(*shape, sharex=True)
    _curve(top, rows, "entropy", "mean entropy, 1 = uniform", 0)
    _curve(top, rows, "decided", "share of choices decided (p > 0.9)", 1, "--")
    top.set_ylim(-0.03, 1.03)
    top.set_ylabel("share")
    _curve(middle, rows, "bitops", "expected", 0, unit=1e9)
    _curve(middle, rows, "decided_bitops", "of the most probable pairs", 1, "--", unit=1e9)
    at = f" at LR {drawable(config['at'])}" if "at" in config else ""
    middle.set_ylabel(f"GBitOps{at}", parse_math=False)
    if config.get("target_bitops"):
        target = float(config["target_bitops"]) / 1e9
        middle.axhline(target, color=INK, linewidth=1, linestyle=":", label=f"target {target:.3g}")
    middle.set_ylim(bottom=0)
    _curve(bottom, rows, "psnr", "supernet, on one batch", 0)
    checks = [row for row in rows if row["check"] is not None]
    psnr = _numbers(row["check"]["psnr"] for row in checks)
    if checks:
        label = "decided network, on validation patches"
        bottom.plot([row["step"] for row in checks], psnr, color=COLOURS[1], marker="o",
                    markersize=4, linewidth=1.5, label=label)  # fmt: skip
    bottom.set_ylabel("PSNR, dB")
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "fontsize": 8}
    for axes in (top, middle, bottom):
        _plain(axes)
        _begin(axes, config, "alphas begin to learn" if axes is top else None)
        axes.legend(frameon=False, **(above if across else {"loc": "best", "fontsize": 9}))
        axes.locator_params(axis="x", nbins=6, integer=True)
        if across or axes is bottom:
            axes.set_xlabel("step")
    return figure


def _curve(
    axes: Axes, rows: Sequence[Row], key: str, label: str, colour: int, dashes: str = "-",
    unit: float = 1.0,
) -> None:  # fmt: skip
    values = [value / unit for value in _numbers(row[key] for row in rows)]
    steps = [row["step"] for row in rows]
    axes.plot(steps, values, color=COLOURS[colour], linestyle=dashes, linewidth=1.5, label=label)


def _begin(axes: Axes, config: dict[str, Any], label: str | None) -> None:
    """Draw a line at the step at which the alphas begin to learn."""
    if {"warmup_epochs", "steps_per_epoch"} <= config.keys():
        step = config["warmup_epochs"] * config["steps_per_epoch"]
        axes.axvline(step, color=SKIP, linewidth=0.8, zorder=0, label=label)


def _plain(axes: Axes) -> None:
    """Style axes with a thin frame, a faint grid and small ticks."""
    axes.grid(color=GRID, linewidth=0.6)
    axes.tick_params(labelsize=SMALL, colors=INK, length=2)
    for spine in axes.spines.values():
        spine.set(color=SKIP, linewidth=0.6)


def _numbers(values: Iterable[float | None]) -> list[float]:
    """Return values as floats; null stands for a number that JSON cannot hold."""
    return [math.nan if value is None else float(value) for value in values]
