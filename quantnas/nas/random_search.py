"""The baseline of every search: random architectures of the same budget (see arXiv 1902.07638)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from quantnas.architectures import cost
from quantnas.config.genotype import Genotype, choice_of
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import SearchSpace, Slot
from quantnas.errors import UsageError

from . import bitops_budget

TRIES = 20_000
"""Draws for one architecture within the budget."""


def draw(
    slots: Sequence[Slot], space: SearchSpace, config: SearchConfig, count: int, seed: int
) -> list[Genotype]:
    """Architectures, uniform over the space; with a target, those within 5 % of it.

    To meet a target, pairs are drawn with p ~ exp(-beta BitOps), beta such that the mean meets
    it: of all distributions with that mean the least biased one.
    Raises UsageError when none is found.
    """
    rng = np.random.default_rng(seed)
    bitops = cost.choice_bitops(slots, space.scale, config.resolution)
    tables = {name: table.numpy().ravel() for name, table in bitops.items()}
    target = config.target_bitops
    beta = _tilt(list(tables.values()), target)
    odds = [_odds(table, beta) for table in tables.values()]
    found: list[Genotype] = []
    for _ in range(TRIES * count):
        picks = {n: int(rng.choice(len(p), p=p)) for n, p in zip(tables, odds, strict=True)}
        total = sum(float(tables[n][i]) for n, i in picks.items())
        if target is None or abs(total / target - 1) <= bitops_budget.TOLERANCE:
            chosen = {s.name: choice_of(s, *divmod(picks[s.choice], len(s.widths))) for s in slots}
            found.append(Genotype(space.name, chosen))
        if len(found) == count:
            return found
    raise UsageError(
        f"Random drawing met the target only {len(found)} times in {TRIES * count} tries.",
        "Ask for other BitOps: `quantnas info` tells the range of a space.",
    )


def _odds(bitops: Any, beta: float) -> Any:
    exponent = -beta * bitops
    p = np.exp(exponent - exponent.max())
    return p / p.sum()


def _tilt(tables: Sequence[Any], target: float | None) -> float:
    """beta for which the expected BitOps are the target; 0 without one."""
    if target is None:
        return 0.0
    high = 200 / max(1.0, *(float(np.ptp(t)) for t in tables))
    low = -high
    for _ in range(80):
        beta = (low + high) / 2
        expected = sum(float((_odds(t, beta) * t).sum()) for t in tables)
        low, high = (beta, high) if expected > target else (low, beta)
    return (low + high) / 2
