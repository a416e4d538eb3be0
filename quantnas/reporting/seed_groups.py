"""Runs that differ in their seed alone, and how far they are apart."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantnas.config.files import to_json

OWN = (re.compile(r"(?:(?<=/)|^|-)seed\d+(?=-|/|$)"), re.compile(r"-\d+$"))
"""Parts of names that are of the seed alone: what a sweep writes, or the number of a free name."""


@dataclass(frozen=True)
class Group:
    """Two runs or more with the same settings, but for the seed."""

    name: str
    """What their names have beside the seed; `base` where that is nothing."""
    members: tuple[int, ...]
    """Their places among the runs."""


def groups(names: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Those there are among runs of these names and settings, in order.

    `seed` is one of the settings; of two runs with the same one, the first counts.
    """
    found: dict[str, dict[int, int]] = {}
    for at, each in enumerate(settings):
        same = to_json({key: value for key, value in each.items() if key != "seed"})
        found.setdefault(same, {}).setdefault(each["seed"], at)
    several = [tuple(seeds.values()) for seeds in found.values() if len(seeds) > 1]
    return [Group(_name([names[at] for at in members]), members) for members in several]


def _name(names: Sequence[str]) -> str:
    for part in OWN:
        rest = {part.sub("", name).strip("-/") for name in names}
        if len(rest) == 1:
            return rest.pop() or "base"
    return f"{names[0]} and others"


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean and standard deviation of two values or more; `-` where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    return f"{statistics.mean(known):,.{digits}f} ± {statistics.stdev(known):,.{digits}f}"
