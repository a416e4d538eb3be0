"""Groups of runs that differ only in their seed, and the spread of their results."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantnas.config.files import to_json

OWN = (re.compile(r"(?:(?<=/)|^|-)seed\d+(?=-|/|$)"), re.compile(r"-\d+$"))
"""Parts of run names that depend only on the seed: a sweep's `seed<n>`, or a trailing number."""


@dataclass(frozen=True)
class Group:
    """At least two runs with equal settings except for the seed."""

    name: str
    """Common name of the runs without the seed; `base` where nothing is left."""
    members: tuple[int, ...]
    """Indices of the runs."""


def groups(names: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Return the groups among runs with these names and settings, in order.

    `seed` is one of the settings; of two runs with equal seeds, the first counts.
    """
    seeds_of: dict[str, dict[int, int]] = {}
    for at, each in enumerate(settings):
        same = to_json({key: value for key, value in each.items() if key != "seed"})
        seeds_of.setdefault(same, {}).setdefault(each["seed"], at)
    several = [tuple(seeds.values()) for seeds in seeds_of.values() if len(seeds) > 1]
    return [Group(_name([names[at] for at in members]), members) for members in several]


def _name(names: Sequence[str]) -> str:
    for part in OWN:
        rest = {part.sub("", name).strip("-/") for name in names}
        if len(rest) == 1:
            return rest.pop() or "base"
    return f"{names[0]} and others"


def spread(values: Sequence[float | None], digits: int) -> str:
    """Return mean ± standard deviation of at least two values, or `-` where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    return f"{statistics.mean(known):,.{digits}f} ± {statistics.stdev(known):,.{digits}f}"
