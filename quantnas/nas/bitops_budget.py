"""A budget of BitOps: what pushes a search towards it, and the decision that keeps within it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quantnas.errors import UsageError

TOLERANCE = 0.05
"""Share of the target by which the found network may differ from it."""
BINS = 4000

Table = NDArray[np.float64]
Pick = tuple[int, int]


@dataclass
class Multiplier:
    """The price of BitOps, raised while they are too many and lowered while they are too few.

    The method of multipliers on x = ln(F / target): the term is price x + rate / 2 over(x)^2, and
    every step adds gain over(x) to the price, over(x) being what x exceeds +-slack by. Without
    slack one choice would stay a mixture for ever, to meet the target exactly.
    """

    target: float
    price: float = 0.0
    rate: float = 5e-2
    gain: float = 1e-3
    slack: float = 0.03

    def term(self, bitops: Tensor) -> Tensor:
        """(), to be added to the loss; `bitops` is what is expected now."""
        x = (bitops / self.target).log()
        over = x - x.clamp(-self.slack, self.slack)
        return self.price * x + self.rate / 2 * over.square()

    def update(self, bitops: float) -> None:
        """After a step in which so many were expected."""
        x = math.log(bitops / self.target)
        self.price += self.gain * (x - min(max(x, -self.slack), self.slack))

    def state_dict(self) -> dict[str, Any]:
        return {"price": self.price}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.price = state["price"]


def check(costs: Mapping[str, Table], target: float, at: str) -> None:
    """Raise UsageError, naming what there is, for a target that no network of the space meets.

    costs: what is decided -> BitOps of its pairs, (ops, widths).
    """
    picks = decide({name: np.zeros_like(table) for name, table in costs.items()}, costs, target)
    nearest = sum(float(costs[name][pick]) for name, pick in picks.items())
    if abs(nearest / target - 1) <= TOLERANCE:
        return
    least, most = (sum(float(end(t)) for t in costs.values()) for end in (np.min, np.max))
    raise UsageError(
        f"No network of this space comes within {TOLERANCE:.0%} of {target / 1e9:.3g} GBitOps at "
        f"LR {at}.",
        f"They have {least / 1e9:.3g}G to {most / 1e9:.3g}G; the nearest one {nearest / 1e9:.3g}G.",
    )


def decide(
    scores: Mapping[str, Table], costs: Mapping[str, Table], target: float
) -> dict[str, Pick]:
    """What is decided -> (operation, width): the best sum of scores within 5 % of the target.

    A knapsack solved by dynamic programming over costs in 1/4000 of the target, with the true
    cost of each cell beside it; where no combination comes within 5 %, the nearest one.
    scores: ln p of every pair, (ops, widths); costs: their BitOps.
    """
    unit = target / BINS
    least = sum(float(table.min()) for table in costs.values())
    if least > 1.5 * target:  # nothing is near: the cheapest
        return {name: _cheapest(table) for name, table in costs.items()}
    limit = math.ceil(max(1.5 * BINS, least / unit + len(costs) + 1))
    best = np.full(limit + 1, -np.inf)
    true = np.zeros(limit + 1)
    best[0] = 0.0
    trail: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]] = []
    for name, score in scores.items():
        best, true, chosen, origin = _extend(best, true, score.ravel(), costs[name].ravel(), unit)
        trail.append((name, chosen, origin))
    off = np.abs(true / target - 1)
    off[np.isneginf(best)] = np.inf
    fits = off <= TOLERANCE
    at = int(np.where(fits, best, -np.inf).argmax()) if fits.any() else int(off.argmin())
    picks: dict[str, Pick] = {}
    for name, chosen, origin in reversed(trail):
        row, column = divmod(int(chosen[at]), scores[name].shape[1])
        picks[name] = (row, column)
        at = int(origin[at])
    return dict(reversed(picks.items()))


def _cheapest(table: Table) -> Pick:
    row, column = np.unravel_index(int(table.argmin()), table.shape)
    return int(row), int(column)


def _extend(
    best: Table, true: Table, score: Table, cost: Table, unit: float
) -> tuple[Table, Table, NDArray[np.int64], NDArray[np.int64]]:
    """Add one choice to every cell of the table: (scores, true costs, option, cell before)."""
    n = len(best)
    new = np.full(n, -np.inf)
    new_true = np.zeros(n)
    chosen, origin = np.zeros(n, np.int64), np.zeros(n, np.int64)
    reached = np.flatnonzero(~np.isneginf(best))
    for option, (gain, price) in enumerate(zip(score, cost, strict=True)):
        cells = np.rint((true[reached] + price) / unit).astype(np.int64)
        kept, cells = reached[cells < n], cells[cells < n]
        order = np.argsort(best[kept], kind="stable")  # of those meeting in a cell, the best last
        kept, cells = kept[order], cells[order]
        value = np.full(n, -np.inf)
        before = np.zeros(n, np.int64)
        value[cells], before[cells] = best[kept] + gain, kept
        better = value > new
        new[better], chosen[better], origin[better] = value[better], option, before[better]
        new_true[better] = true[before[better]] + price
    return new, new_true, chosen, origin
