"""What a sweep does: its points, each with the settings of a whole run."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantnas.config import quantities, schema
from quantnas.config.files import to_json
from quantnas.config.layered_settings import (
    QUANTITIES,
    SEARCHED,
    flat,
    layered,
    together,
    without_rivals,
)
from quantnas.config.run_config import RunConfig
from quantnas.errors import UsageError
from quantnas.runs import run_settings

LONGEST = 120
"""Characters of a point's name, without a number behind it."""
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    varied: dict[str, Any]
    """Setting -> its value here, of those that differ between points."""
    config: RunConfig


@dataclass(frozen=True)
class Sweep:
    """What is asked for: settings of all points, and what varies."""

    base: dict[str, Any]
    """Settings of every run, as a run's config.yaml has them; sections are mappings."""
    vary: dict[str, list[Any]]
    """Setting (section.key) -> its values; every combination is a point."""
    points: tuple[dict[str, Any], ...] = ()
    """Or settings that go together, each with all that varies."""


def read(path: Path) -> Sweep:
    """The file of a sweep: the settings of a run, and `vary` or `points`.

    Raises DataError or UsageError as `schema.read_yaml`, and for what is of another form.
    """
    data = schema.read_yaml(path)
    vary, given = data.pop("vary", None) or {}, data.pop("points", None) or []
    if not isinstance(vary, dict):
        raise UsageError(f"{path}: `vary` is no mapping.", "Write `setting: [values]` lines.")
    if not isinstance(given, list) or not all(isinstance(point, dict) for point in given):
        raise UsageError(f"{path}: `points` is no list of mappings.", "Write `- {setting: value}`.")
    for name, values in vary.items():
        if not isinstance(values, list) or not values:
            raise UsageError(
                f"{path}: `vary.{name}` is no list of values.", "Write it as [0.5G, 1.0G]."
            )
    return Sweep(data, {str(name): list(values) for name, values in vary.items()}, tuple(given))


def points(sweep: Sweep, source: str, typed: Sweep | None = None) -> list[Point]:
    """Every point, the setting that varies first being the slowest to change.

    `sweep` is that of a file, `typed` what is asked for over it. The settings of a point are layers
    as in `layered_settings`: those of the file, what varies in it, and what is typed, where values
    that vary win over the one of all points. Points that differ by nothing but replaced settings
    are one.

    Raises UsageError for a setting that cannot be, for one that varies in two ways or none, and
    for two points that are the same.
    """
    over = typed or Sweep({}, {})
    rows = _rows(sweep, over, source)
    made = [(row.varied, _config(sweep, over, row, source)) for row in rows]
    if len(rows) < 2:
        raise UsageError(
            "Nothing varies in this sweep: it is a single run.",
            "Give several --target-bitops, --bits, --seed or SPACE, or --vary KEY=VALUE,VALUE.",
        )
    order = [key for given in sweep.points for key in flat(given)] + [*sweep.vary, *over.vary]
    names = _names([row.varied for row in rows], list(dict.fromkeys(order)))
    found = [Point(name, *each) for name, each in zip(names, made, strict=True)]
    _require_different(found)
    return found


@dataclass(frozen=True)
class _Row:
    """What varies at one point; all as `layered_settings.flat`."""

    varied: dict[str, Any]
    """The two others together, in the order in which they were given."""
    below: dict[str, Any]
    """Of the file, without what the typed settings replace."""
    typed: dict[str, Any]


def _rows(sweep: Sweep, typed: Sweep, source: str) -> list[_Row]:
    """What varies at every point. Of the rows of the file that are alike once the typed settings
    have replaced their rivals, the first one is kept."""
    rows, origins = list[_Row](), dict[str, str]()
    for given in sweep.points or ({},):
        _require_once(flat(given), sweep.vary, source)
        grid = sweep.vary | typed.vary
        for values in itertools.product(*grid.values()):
            whole = flat(given) | dict(zip(grid, values, strict=True))
            mine = {name: value for name, value in whole.items() if name in typed.vary}
            theirs = whole | {k: _replaced(sweep.vary[k], mine[k]) for k in mine if k in sweep.vary}
            theirs = {k: v for k, v in theirs.items() if k in sweep.vary} | flat(given)
            kept = without_rivals(theirs, together(typed.base, mine))
            varied = {k: v for k, v in whole.items() if k in mine or k in kept}
            origin = origins.setdefault(to_json(varied), to_json(theirs))
            if origin == to_json(theirs):  # else what differed has been replaced
                rows.append(_Row(varied, kept, mine))
    return rows


def _replaced(values: Sequence[Any], value: Any) -> Any:
    """The value in a file for which a typed one stands: the same, or the first."""
    return value if value in values else values[0]


def _require_once(given: Settings, vary: Settings, source: str) -> None:
    """Raise UsageError where a setting of a point varies beside it."""
    double = sorted(given.keys() & vary.keys())
    if double:
        raise UsageError(
            f"{source}: '{double[0]}' varies, and stands in a point too.", "Leave one out."
        )


def _config(sweep: Sweep, typed: Sweep, row: _Row, source: str) -> RunConfig:
    layers = (sweep.base, row.below, together(typed.base, row.typed))
    return run_settings.settled(layered(RunConfig(), *layers, source=source))


def _names(rows: Sequence[Settings], order: Sequence[str]) -> list[str]:
    """Short, of what differs, and unique."""
    shown = [key for key in order if len({to_json(row.get(key)) for row in rows}) > 1]
    names = [_plain("-".join(_label(k, row[k]) for k in shown if k in row)) for row in rows]
    found: list[str] = []
    for name in (name[:LONGEST] or "point" for name in names):
        free = (f"{name}-{number}" for number in itertools.count(2))
        found.append(name if name not in found else next(n for n in free if n not in found))
    return found


def _label(key: str, value: Any) -> str:
    """0.5G, w2a8, seed1, rfdn_small; other settings with their name."""
    last = key.rpartition(".")[2]
    if key == "space":
        return Path(str(value)).stem
    if key == "bits":
        return f"w{value}" if str(value).isdigit() else str(value or SEARCHED)
    if key in QUANTITIES and value is not None:
        number = float(quantities.number(value, key) if isinstance(value, str) else value)
        unit, size = ("G", 1e9) if number >= 1e8 else ("M", 1e6) if number >= 1e5 else ("", 1.0)
        return f"{number / size:.12g}{unit}"
    return f"{last}{value}" if isinstance(value, int | float) else f"{last}-{value}"


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in name).strip("._")


def _require_different(made: Sequence[Point]) -> None:
    seen: dict[str, str] = {}
    for point in made:
        key = to_json(asdict(point.config))
        if key in seen:
            raise UsageError(
                f"The points {seen[key]} and {point.name} are the same.", "Give each value once."
            )
        seen[key] = point.name
