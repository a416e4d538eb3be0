"""Layers of settings, and the one rule that combines them into the configuration of a run.

The rule: a setting of a later layer replaces its rivals in the layers below. It applies to all
layers alike: the settings of an earlier run, of a configuration file, of the command line or the
arguments of a function, and of the points of a sweep. Two settings are rivals when they are
alternatives, such as two ways to choose bit widths, or when one hinders the other, such as
`steps: 0` when a later layer asks for retraining.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from quantnas.errors import UsageError

from . import quantities, schema
from .run_config import BUDGETS, RunConfig

SECTIONS = frozenset(field.name for field in fields(RunConfig) if is_dataclass(field.type))
"""Names of the settings of a run that are mappings themselves, such as `search`."""
SEARCHED = "searched"
"""Text that stands for `bits: none`: the bit widths that the search chose."""
QUANTITIES = ("search.target_bitops", "quantize.target_bitops", "quantize.target_size")
"""Settings that may be written with a unit, such as 1.0G."""
ALTERNATIVES = (
    ("bits", *(f"quantize.{name}" for name in BUDGETS)),
    ("quantize.steps", "quantize.minutes"),
    ("search.target_bitops", "search.penalty"),
)
"""Groups of alternatives, of which only the setting that was given last counts: ways to choose bit
widths, lengths of retraining, ways to limit the cost of the searched network."""
Layer = Mapping[str, Any]
"""Setting -> value. A setting of a section is written `section.key: value`, or nested as
`section: {key: value}`."""


def layered(base: RunConfig, *layers: Layer, source: str = "configuration") -> RunConfig:
    """Lay the layers over the configuration `base`, the last one on top.

    A setting of a later layer replaces its rivals below (`ALTERNATIVES`, `HINDRANCES`), which go
    back to their defaults; all other settings below stay. A value of None counts as given, so
    leave out settings that are not given. Bit widths may be written as w2a4 or `searched`, and
    quantities as 1.0G.

    Raises UsageError for invalid settings; `source` names their origin in the message.
    """
    default = flat(asdict(RunConfig()))
    settings = {name: value for name, value in flat(asdict(base)).items() if value != default[name]}
    for layer in layers:
        settings = over(settings, layer)
    return schema.parse(RunConfig, _nested(settings, source), source)


def together(*parts: Layer) -> dict[str, Any]:
    """Merge settings that were given at the same time into one flat layer.

    Of a setting that several parts give, the last part counts. Raises UsageError for two
    alternatives, since neither of them is the later one.
    """
    layer = {name: value for part in parts for name, value in flat(part).items()}
    for group in ALTERNATIVES:
        names = [name for name in group if _converted(layer).get(name) is not None]
        if len(names) > 1:
            first, second = (name.rpartition(".")[2] for name in names[:2])
            raise UsageError(f"`{first}` and `{second}` are both given.", "Give one of them.")
    return layer


def over(below: Layer, layer: Layer) -> dict[str, Any]:
    """Lay one layer over the settings below and return the result flat; both arguments stay."""
    return {**without_rivals(below, layer), **_converted(flat(layer))}


def without_rivals(below: Layer, layer: Layer) -> dict[str, Any]:
    """The settings below that remain when a layer is laid over them, as a flat mapping."""
    old, new = flat(below), _converted(flat(layer))
    gone = _rivals(_converted(old), new) | {name.partition(".")[0] for name in new}
    sections = {name for name in new if name in SECTIONS}  # not a mapping: schema.parse refuses it
    return {
        name: value
        for name, value in old.items()
        if not (name in new or name in gone or name.partition(".")[0] in sections)
    }


def flat(settings: Layer) -> dict[str, Any]:
    """Flatten the sections: {search: {epochs: 3}, seed: 1} -> {search.epochs: 3, seed: 1}."""
    flattened: dict[str, Any] = {}
    for name, value in settings.items():
        if name in SECTIONS and isinstance(value, Mapping):
            flattened |= {f"{name}.{key}": inner_value for key, inner_value in value.items()}
        else:
            flattened[str(name)] = value
    return flattened


def _nested(settings: Layer, source: str) -> dict[str, Any]:
    """The inverse of `flat`. Raises UsageError for `setting.key` where the setting has no keys."""
    data: dict[str, Any] = {}
    for name, value in settings.items():
        section, dot, key = name.partition(".")
        if dot and section not in SECTIONS and hasattr(RunConfig, section):
            raise UsageError(f"{source}: '{section}' is no section.", "Check its name.")
        mapping = data.setdefault(section, {}) if dot else data
        if isinstance(mapping, dict):  # otherwise schema.parse reports the error
            mapping[key or name] = value
    return data


def _converted(settings: Layer) -> dict[str, Any]:
    """Replace the texts w2a4, searched and 1.0G of a flat layer by the values they stand for."""
    converted: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "bits" and isinstance(value, str):
            converted |= {name: None} if value == SEARCHED else quantities.bit_widths(value, name)
        elif name in QUANTITIES and isinstance(value, str):
            converted[name] = quantities.number(value, name)
        else:
            converted[name] = value
    return converted


def _rivals(below: Layer, layer: Layer) -> set[str]:
    """Names of the settings below that are rivals of a layer; both come from `_converted`."""
    gone = set[str]()
    for group in ALTERNATIVES:
        if any(layer.get(name) is not None for name in group):
            gone |= {*group}
    if "bits" in layer:  # None included: it stands for the searched bit widths
        gone |= {*ALTERNATIVES[0], "act_bits"}
    if "bits" in gone and below.get("bits") is not None:
        gone.add("act_bits")
    for hindrance in HINDRANCES:
        hinders = not hindrance.values or below.get(hindrance.setting) in hindrance.values
        if hinders and hindrance.is_hindered(layer):
            gone.add(hindrance.setting)
    return gone | ({"genotype"} if _another_space(below, layer) else set())


def _another_space(below: Layer, layer: Layer) -> bool:
    """Whether a layer names another search space than the settings below.

    A genotype of the settings below does not fit that space.
    """
    old, new = below.get("space"), layer.get("space")
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    return os.path.abspath(old) != os.path.abspath(new)


def _retrains(layer: Layer) -> bool:
    """Whether a layer asks for retraining after quantization."""
    lengths = [layer.get(name) for name in ALTERNATIVES[1]]
    timed = any(length is not None for length in lengths)
    retrains = any(lengths) if timed else layer.get("quantize.train")
    return bool(retrains) and layer.get("quantize.train") != "none"


def _searches(layer: Layer) -> bool:
    """Whether a layer has a setting that asks for a search, such as its number of epochs."""
    names = ("target_bitops", "penalty", "strategy", "keep", "epochs")
    return any(layer.get(f"search.{name}") is not None for name in names)


@dataclass(frozen=True)
class Hindrance:
    """A setting below that would prevent what a later layer asks for."""

    is_hindered: Callable[[Layer], bool]
    """Whether a flat layer asks for something that the setting prevents."""
    setting: str
    """Name of the setting below that goes back to its default."""
    values: tuple[Any, ...] = ()
    """Values of the setting that prevent it; empty: all of them."""


HINDRANCES = (
    Hindrance(_retrains, "quantize.method"),  # the baseline methods are never retrained
    Hindrance(_retrains, "quantize.train", ("none",)),
    Hindrance(_retrains, "quantize.steps", (0,)),
    Hindrance(_searches, "genotype"),
    Hindrance(lambda layer: layer.get("genotype") is not None, "search.target_bitops"),
    Hindrance(lambda layer: layer.get("search.strategy") == "random", "search.processes"),
    Hindrance(lambda layer: bool(layer.get("train.float_steps")), "train.start", ("float",)),
    Hindrance(lambda layer: layer.get("train.start") == "float", "train.qat_steps", (0,)),
    Hindrance(lambda layer: layer.get("train.teacher") is not None, "train.teacher_share", (0,)),
)
