"""The plan of a sweep: its points, each with the settings of a whole run."""

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
"""Maximum number of characters of a point's name, without an appended number."""
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A point of a sweep, which is one run."""

    name: str
    varied: dict[str, Any]
    """Setting -> its value at this point, for settings that vary between points."""
    config: RunConfig


@dataclass(frozen=True)
class Sweep:
    """A requested sweep: common settings of all points, and the settings that vary."""

    base: dict[str, Any]
    """Settings of every run, as a run's config.yaml has them; sections are mappings."""
    vary: dict[str, list[Any]]
    """Setting (section.key) -> its values; every combination is a point."""
    points: tuple[dict[str, Any], ...] = ()
    """Settings that vary together; each entry is combined with every combination of `vary`."""


def read(path: Path) -> Sweep:
    """Read the YAML file of a sweep: the settings of a run, and `vary` or `points`.

    Raises DataError or UsageError as `schema.read_yaml`, and UsageError for another structure.
    """
    data = schema.read_yaml(path)
    vary, listed = data.pop("vary", None) or {}, data.pop("points", None) or []
    if not isinstance(vary, dict):
        raise UsageError(f"{path}: `vary` is no mapping.", "Write `setting: [values]` lines.")
    if not isinstance(listed, list) or not all(isinstance(point, dict) for point in listed):
        raise UsageError(f"{path}: `points` is no list of mappings.", "Write `- {setting: value}`.")
    for name, values in vary.items():
        if not isinstance(values, list) or not values:
            raise UsageError(
                f"{path}: `vary.{name}` is no list of values.", "Write it as [0.5G, 1.0G]."
            )
    return Sweep(data, {str(name): list(values) for name, values in vary.items()}, tuple(listed))


def points(sweep: Sweep, source: str, typed: Sweep | None = None) -> list[Point]:
    """All points of a sweep; the setting that is listed first changes slowest.

    sweep: the sweep of a file, which errors call `source`; typed: a sweep of the command line,
    which takes precedence. The settings of a point are layers as in `layered_settings`: common
    settings of the file, its varied ones, and the typed ones, where varied settings win over common
    ones. Points that differ in replaced settings alone are merged.

    Raises UsageError for an impossible setting, for a setting that varies in two ways, for a sweep
    in which nothing varies, and for two equal points.
    """
    typed = typed or Sweep({}, {})
    rows = _rows(sweep, typed, source)
    configured = [(row.varied, _config(sweep, typed, row, source)) for row in rows]
    if len(rows) < 2:
        raise UsageError(
            "Nothing varies in this sweep: it is a single run.",
            "Give several --target-bitops, --bits, --seed or SPACE, or --vary KEY=VALUE,VALUE.",
        )
    order = [key for point in sweep.points for key in flat(point)] + [*sweep.vary, *typed.vary]
    names = _names([row.varied for row in rows], list(dict.fromkeys(order)))
    named = [Point(name, *each) for name, each in zip(names, configured, strict=True)]
    _require_different(named)
    return named


@dataclass(frozen=True)
class _Row:
    """The settings that vary at one point, in the form of `layered_settings.flat`."""

    varied: dict[str, Any]
    """The settings of `below` and `typed`, in the order in which they were given."""
    below: dict[str, Any]
    """Settings of the file, without those that typed settings replace."""
    typed: dict[str, Any]
    """Settings of the command line."""


def _rows(sweep: Sweep, typed: Sweep, source: str) -> list[_Row]:
    """The varying settings of every point.

    Rows of the file that become equal when typed settings replace their rivals count once.
    """
    rows, origins = list[_Row](), dict[str, str]()
    for point in sweep.points or ({},):
        _require_once(flat(point), sweep.vary, source)
        grid = sweep.vary | typed.vary
        for values in itertools.product(*grid.values()):
            combined = flat(point) | dict(zip(grid, values, strict=True))
            own_typed = {name: value for name, value in combined.items() if name in typed.vary}
            of_file = combined | {
                k: _replaced(sweep.vary[k], own_typed[k]) for k in own_typed if k in sweep.vary
            }
            of_file = {k: v for k, v in of_file.items() if k in sweep.vary} | flat(point)
            kept = without_rivals(of_file, together(typed.base, own_typed))
            varied = {k: v for k, v in combined.items() if k in own_typed or k in kept}
            origin = origins.setdefault(to_json(varied), to_json(of_file))
            if origin == to_json(of_file):  # else the difference was replaced
                rows.append(_Row(varied, kept, own_typed))
    return rows


def _replaced(values: Sequence[Any], value: Any) -> Any:
    """The value of a file that a typed one replaces: the equal one, or the first."""
    return value if value in values else values[0]


def _require_once(point: Settings, vary: Settings, source: str) -> None:
    """Raise UsageError for a setting that stands both in a point and in `vary`."""
    double = sorted(point.keys() & vary.keys())
    if double:
        raise UsageError(
            f"{source}: '{double[0]}' varies, and stands in a point too.", "Leave one out."
        )


def _config(sweep: Sweep, typed: Sweep, row: _Row, source: str) -> RunConfig:
    layers = (sweep.base, row.below, together(typed.base, row.typed))
    return run_settings.settled(layered(RunConfig(), *layers, source=source))


def _names(rows: Sequence[Settings], order: Sequence[str]) -> list[str]:
    """Short unique names of points, made of the settings that differ."""
    shown = [key for key in order if len({to_json(row.get(key)) for row in rows}) > 1]
    names = [_plain("-".join(_label(k, row[k]) for k in shown if k in row)) for row in rows]
    unique: list[str] = []
    for name in (name[:LONGEST] or "point" for name in names):
        free = (f"{name}-{number}" for number in itertools.count(2))
        unique.append(name if name not in unique else next(n for n in free if n not in unique))
    return unique


def _label(key: str, value: Any) -> str:
    """The label of a setting, such as 0.5G, w2a8, seed1 or rfdn_small; others bear their key."""
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


def _require_different(points: Sequence[Point]) -> None:
    seen: dict[str, str] = {}
    for point in points:
        key = to_json(asdict(point.config))
        if key in seen:
            raise UsageError(
                f"The points {seen[key]} and {point.name} are the same.", "Give each value once."
            )
        seen[key] = point.name
