"""Charts of a page, drawn by matplotlib and inserted by the template as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from quantnas.reporting.plots import damage_pairs, inline_svg, pareto_front, search_curves
from quantnas.reporting.plots.canvas import GRID, INK, SKIP, darker
from quantnas.reporting.plots.inline_svg import Mark
from quantnas.reporting.plots.pareto_front import Panel, ParetoPoint
from quantnas.reporting.plots.search_curves import COLOURS

from .html_data import AT, Scores, Shown

THEME = {
    **{darker(c): f"color-mix(in srgb,var(--c{i}) 65%,var(--ink))" for i, c in enumerate(COLOURS)},
    **{colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)},
    **dict.fromkeys(pareto_front.SHADES, "var(--soft)"),
    "#ffffff": "var(--paper)", INK: "var(--ink)", SKIP: "var(--soft)", GRID: "var(--line)",
}  # fmt: skip
"""Colour of a figure -> colour of the page's style sheet, which has a light and a dark form."""
SIDES = (7.0, 4.2)
"""Width and height of a chart of PSNR over cost, inches."""
PANELS = 4
"""Panels per row in the chart of a search's probabilities."""
NAMED = 16
"""Most runs that are all named in a chart; of more, only the Pareto front is named."""
LONGEST = 26
"""Most letters of a name in a chart."""
AXES = {"bitops": (f"GBitOps at {AT}", 1e9), "bytes": ("file size, kB", 1e3)}
"""Attribute of a run -> label of the axis and its unit."""


@dataclass(frozen=True)
class Chart:
    """A chart of PSNR over one cost on one set of photographs."""

    place: int
    """Index of the set."""
    axis: str
    """Key in AXES."""
    svg: str


@dataclass(frozen=True)
class Set:
    """Runs that were measured on the same photographs."""

    label: str
    runs: tuple[tuple[int, Shown, Scores], ...]
    """Index in the page, run, and its scores on this set."""
    published: bool


def fronts(sets: Sequence[Set]) -> Iterator[Chart]:
    """Yield a chart per set and cost."""
    for place, group in enumerate(sets):
        for axis in AXES:
            yield Chart(place, axis, _front(group, axis, f"front-{place}-{axis}"))


def _front(group: Set, axis: str, prefix: str) -> str:
    label, unit = AXES[axis]
    bitops = axis == "bitops"
    costs = [run.bitops if bitops else run.bytes for _, run, _ in group.runs]
    psnrs = [scores.mean[2][0] for _, _, scores in group.runs]
    best = unbeaten(list(zip(costs, psnrs, strict=True)))
    named = best if len(costs) > NAMED else range(len(costs))
    points = tuple(
        ParetoPoint(_short(run.name) if i in named else "", costs[i], psnrs[i], False)
        for i, (_, run, _) in enumerate(group.runs)
    )
    bicubic, published = group.runs[0][2].mean[0][0], group.published and bitops
    panel = Panel("", bicubic, points, published, label, unit, tuple(best))
    marks = {f"point-{i}": _mark(*one) for i, one in enumerate(group.runs)}
    if published:
        marks |= {f"published-{i}": Mark(title) for i, title in enumerate(_published())}
    figure = pareto_front.front_figure([panel], None, SIDES, inline_svg.DPI)
    return _inline(figure, prefix, f"PSNR over {label} on {group.label}", marks)


def unbeaten(spots: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the Pareto front of (cost, PSNR) points, by rising cost."""
    best: list[int] = []
    for i in sorted(range(len(spots)), key=lambda k: (spots[k][0], -spots[k][1])):
        if not best or spots[i][1] > spots[best[-1]][1]:
            best.append(i)
    return best


def _inline(figure: Figure, prefix: str, label: str, marks: Mapping[str, Mark]) -> str:
    return inline_svg.inline(figure, prefix, label, marks, THEME)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _mark(place: int, run: Shown, scores: Scores) -> Mark:
    """Return tooltip and link of a run's point."""
    (plain, _), (full, _), (ours, _) = scores.mean
    title = (
        f"{run.name}\n{ours:.2f} dB (bicubic {plain:.2f} dB, float {full:.2f} dB)\n"
        f"{run.bitops / 1e9:.3g} GBitOps, {run.bytes / 1e3:.3g} kB"
    )
    return Mark(title, f"#run-{place}")


def _published() -> Iterator[str]:
    for name, points in pareto_front.PUBLISHED.items():
        rows = (f"{psnr:.2f} dB at {cost:.3g} GBitOps" for cost, psnr in points)
        yield "\n".join([f"published: {name}", *rows])


def of_run(run: Shown, prefix: str) -> dict[str, str | None]:
    """Return the charts of a run: its search, probabilities and damage; None for a missing one."""
    return {
        "curves": _curves(run, f"{prefix}-search"),
        "alphas": _alphas(run, f"{prefix}-alphas"),
        "damage": _damage(run, f"{prefix}-damage"),
    }


def _curves(run: Shown, prefix: str) -> str | None:
    if run.search is None:
        return None
    figure = search_curves.search_figure(run.search.rows, run.search.settings, across=True)
    label = "Entropy, cost and quality over the steps of the search"
    return _inline(figure, prefix, label, {})


def _alphas(run: Shown, prefix: str) -> str | None:
    if run.search is None or not run.search.rows[-1]["probabilities"]:
        return None
    figure = search_curves.alphas_figure(run.search.rows, run.search.space, PANELS)
    label = "Probabilities of operations and bits over the steps of the search"
    return _inline(figure, prefix, label, {})


def _damage(run: Shown, prefix: str) -> str | None:
    if run.damages is None or not run.damages.slots:
        return None
    rows = run.damages.slots
    marks = {}
    for i, row in enumerate(rows):
        predicted = "" if row.predicted is None else f"predicted {row.predicted:.1e}, "
        title = (
            f"{row.slot}, weights {row.weights} bits, inputs {row.activations} bits\n"
            f"{predicted}measured {row.measured:.1e}, on fitted grids {row.fitted:.1e}"
        )
        marks[f"row-{i}"] = Mark(title)
    label = f"Predicted and measured error of {len(rows)} layers; the table of layers has them too"
    return _inline(damage_pairs.figure(rows), prefix, label, marks)
