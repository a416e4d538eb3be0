"""A budget of BitOps: the loss term that drives a search to it, and the decision that meets it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quantnas.errors import UsageError

TOLERANCE = 0.05
"""Largest relative distance of the decided network's BitOps from the target."""
BINS = 4000
"""Cells per target in which `decide` counts costs."""

Table = NDArray[np.float64]
"""A value for every pair of operation and bit width, (ops, widths)."""
Pick = tuple[int, int]
"""The indices of an operation and of a pair of bit widths."""


@dataclass
class Multiplier:
    """A Lagrange multiplier, the price of BitOps, which rises while the network is too expensive.

    The method of multipliers on x = ln(F / target): the loss term is price x + rate / 2 over(x)^2,
    and every step adds gain over(x) to the price, where over(x) is what x exceeds +-slack by.
    Without slack one choice would stay a mixture for ever, in order to meet the target exactly.
    """

    target: float
    price: float = 0.0
    rate: float = 5e-2
    gain: float = 1e-3
    slack: float = 0.03

    def term(self, bitops: Tensor) -> Tensor:
        """The loss term () for the expected BitOps () of the supernet."""
        x = (bitops / self.target).log()
        over = x - x.clamp(-self.slack, self.slack)
        return self.price * x + self.rate / 2 * over.square()

    def update(self, bitops: float) -> None:
        """Adapt the price after a step in which this number of BitOps was expected."""
        x = math.log(bitops / self.target)
        self.price += self.gain * (x - min(max(x, -self.slack), self.slack))

    def state_dict(self) -> dict[str, Any]:
        return {"price": self.price}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.price = state["price"]


def check(costs: Mapping[str, Table], target: float, at: str) -> None:
    """Raise UsageError, with the possible range, for a target that no network of the space meets.

    costs: choice -> BitOps of its pairs, (ops, widths); at: the resolution, as it is named in the
    message.
    """
    picks = decide({name: np.zeros_like(table) for name, table in costs.items()}, costs, target)
    nearest = sum(float(costs[name][pick]) for name, pick in picks.items())
    if abs(nearest / target - 1) <= TOLERANCE:
        return
    least, most = (sum(float(bound(t)) for t in costs.values()) for bound in (np.min, np.max))
    raise UsageError(
        f"No network of this space comes within {TOLERANCE:.0%} of {target / 1e9:.3g} GBitOps at "
        f"LR {at}.",
        f"They have {least / 1e9:.3g}G to {most / 1e9:.3g}G; the nearest one {nearest / 1e9:.3g}G.",
    )


def decide(
    scores: Mapping[str, Table], costs: Mapping[str, Table], target: float
) -> dict[str, Pick]:
    """Pick one pair per choice so that the sum of scores is largest within 5 % of the target.

    Returns choice -> (operation, bit width). The knapsack is solved by dynamic programming over
    cells of 1/4000 of the target, each of which keeps its true cost; where no combination comes
    within 5 %, the nearest one is picked. scores: choice -> ln p of its pairs, (ops, widths);
    costs: choice -> their BitOps.
    """
    unit = target / BINS
    least = sum(float(table.min()) for table in costs.values())
    if least > 1.5 * target:  # no combination is near the target
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
    """The pair with the fewest BitOps."""
    row, column = np.unravel_index(int(table.argmin()), table.shape)
    return int(row), int(column)


def _extend(
    best: Table, true: Table, score: Table, cost: Table, unit: float
) -> tuple[Table, Table, NDArray[np.int64], NDArray[np.int64]]:
    """Add one choice to the cells; return their scores, true costs, options and previous cells."""
    n = len(best)
    new = np.full(n, -np.inf)
    new_true = np.zeros(n)
    chosen, origin = np.zeros(n, np.int64), np.zeros(n, np.int64)
    reached = np.flatnonzero(~np.isneginf(best))
    for option, (gain, price) in enumerate(zip(score, cost, strict=True)):
        cells = np.rint((true[reached] + price) / unit).astype(np.int64)
        kept, cells = reached[cells < n], cells[cells < n]
        order = np.argsort(best[kept], kind="stable")  # the best of a cell is assigned last
        kept, cells = kept[order], cells[order]
        value = np.full(n, -np.inf)
        before = np.zeros(n, np.int64)
        value[cells], before[cells] = best[kept] + gain, kept
        better = value > new
        new[better], chosen[better], origin[better] = value[better], option, before[better]
        new_true[better] = true[before[better]] + price
    return new, new_true, chosen, origin
