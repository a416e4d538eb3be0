"""Random architectures within the same budget: the baseline of every search (arXiv 1902.07638)."""

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
"""Greatest number of draws per architecture within the budget."""


def draw(
    slots: Sequence[Slot], space: SearchSpace, config: SearchConfig, count: int, seed: int
) -> list[Genotype]:
    """Draw `count` architectures, uniform over the space or, with a target, within 5 % of it.

    To meet a target, pairs are drawn with p ~ exp(-beta BitOps), beta such that the mean is the
    target: of all distributions with that mean this one has the largest entropy. Raises UsageError
    when too few draws meet the target.
    """
    rng = np.random.default_rng(seed)
    bitops = cost.choice_bitops(slots, space.scale, config.resolution)
    tables = {name: table.numpy().ravel() for name, table in bitops.items()}
    target = config.target_bitops
    beta = _tilt(list(tables.values()), target)
    odds = [_odds(table, beta) for table in tables.values()]
    genotypes: list[Genotype] = []
    for _ in range(TRIES * count):
        picks = {n: int(rng.choice(len(p), p=p)) for n, p in zip(tables, odds, strict=True)}
        total = sum(float(tables[n][i]) for n, i in picks.items())
        if target is None or abs(total / target - 1) <= bitops_budget.TOLERANCE:
            chosen = {
                s.name: choice_of(s, *divmod(picks[s.choice], len(s.bit_widths))) for s in slots
            }
            genotypes.append(Genotype(space.name, chosen))
        if len(genotypes) == count:
            return genotypes
    raise UsageError(
        f"Random drawing met the target only {len(genotypes)} times in {TRIES * count} tries.",
        "Set another target of BitOps: `quantnas info` shows the range of a space.",
    )


def _odds(bitops: Any, beta: float) -> Any:
    """Probabilities p ~ exp(-beta BitOps), in the shape of `bitops`."""
    exponent = -beta * bitops
    p = np.exp(exponent - exponent.max())
    return p / p.sum()


def _tilt(tables: Sequence[Any], target: float | None) -> float:
    """The beta for which the expected BitOps equal the target; 0 without a target."""
    if target is None:
        return 0.0
    high = 200 / max(1.0, *(float(np.ptp(t)) for t in tables))
    low = -high
    for _ in range(80):
        beta = (low + high) / 2
        expected = sum(float((_odds(t, beta) * t).sum()) for t in tables)
        low, high = (beta, high) if expected > target else (low, beta)
    return (low + high) / 2
