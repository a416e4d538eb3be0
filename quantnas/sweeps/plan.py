"""What a sweep does: its points, each with the settings of a whole run."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantnas.config import quantities, schema
from quantnas.config.files import to_json
from quantnas.config.run_config import RunConfig
from quantnas.errors import UsageError
from quantnas.runs import run_settings

QUANTITIES = ("search.target_bitops", "quantize.target_bitops", "quantize.target_size")
"""Settings that may be written as 1.0G."""
SEARCHED = "searched"
"""Instead of bits: those that the search has found."""
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


def points(sweep: Sweep, source: str) -> list[Point]:
    """Every point, the setting that varies first being the slowest to change.

    Raises UsageError for a setting that cannot be, for one that varies in two ways or none, and
    for two points that are the same.
    """
    rows = []
    for given in sweep.points or ({},):
        flat = _flat(given)
        double = sorted(flat.keys() & sweep.vary.keys())
        if double:
            raise UsageError(
                f"{source}: '{double[0]}' varies, and stands in a point too.", "Leave one out."
            )
        for values in itertools.product(*sweep.vary.values()):
            rows.append(flat | dict(zip(sweep.vary, values, strict=True)))
    if len(rows) < 2:
        _config(sweep.base, rows[0], source)  # says what is misspelt
        raise UsageError(
            "Nothing varies in this sweep: it is a single run.",
            "Give several --target-bitops, --bits, --seed or SPACE, or --vary KEY=VALUE,VALUE.",
        )
    order = [key for given in sweep.points for key in _flat(given)] + list(sweep.vary)
    names = _names(rows, list(dict.fromkeys(order)))
    made = [
        Point(name, row, _config(sweep.base, row, source))
        for name, row in zip(names, rows, strict=True)
    ]
    _require_different(made)
    return made


def _flat(given: Settings, section: str = "") -> dict[str, Any]:
    """{search: {epochs: 3}} -> {search.epochs: 3}"""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{section}{key}.")
        else:
            found[f"{section}{key}"] = value
    return found


def _config(base: Settings, row: Settings, source: str) -> RunConfig:
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for name, value in {**_written(data), **row}.items():
        for setting, meant in _meant(name, value).items():
            section, _, key = setting.rpartition(".")
            where = data.setdefault(section, {}) if section else data
            if not isinstance(where, dict):
                raise UsageError(f"{source}: '{section}' is no section.", "Check its name.")
            where[key] = meant
    return run_settings.settled(schema.parse(RunConfig, data, source))


def _written(data: Settings) -> dict[str, Any]:
    """Those of the settings that are written as text, and mean something else."""
    flat = _flat(data)
    return {name: flat[name] for name in ("bits", *QUANTITIES) if isinstance(flat.get(name), str)}


def _meant(name: str, value: Any) -> dict[str, Any]:
    """A setting as it may be written in a sweep -> settings of a run."""
    if name == "bits" and value == SEARCHED:
        return {name: None}
    if name == "bits" and isinstance(value, str):
        return dict(quantities.widths(value, name))
    if name in QUANTITIES and isinstance(value, str):
        return {name: quantities.number(value, name)}
    return {name: value}


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
