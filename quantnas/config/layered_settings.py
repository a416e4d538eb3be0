"""Layers of settings, and the one rule by which they become the configuration of a run.

The rule: what a later layer asks for replaces its rivals below. It holds wherever settings meet:
those of the run that a step goes on from, those of a file, those that are typed or given to a
function, and in a sweep those that vary. Rivals are alternatives, as two ways to choose bits, and
hindrances, as `steps: 0` for a retraining that is asked for.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from quantnas.errors import UsageError

from . import quantities, schema
from .run_config import BUDGETS, RunConfig

SECTIONS = frozenset(field.name for field in fields(RunConfig) if is_dataclass(field.type))
"""Settings of a run that are mappings themselves."""
SEARCHED = "searched"
"""Value of `bits` for those that the search has found, beside none."""
QUANTITIES = ("search.target_bitops", "quantize.target_bitops", "quantize.target_size")
"""Settings that may be written as 1.0G."""
ALTERNATIVES = (
    ("bits", *(f"quantize.{name}" for name in BUDGETS)),
    ("quantize.steps", "quantize.minutes"),
    ("search.target_bitops", "search.penalty"),
)
"""Ways to choose bits, lengths of retraining, ways to make a found network cheap: of each group,
the setting that was given last counts alone."""
Layer = Mapping[str, Any]
"""Setting -> value; a setting of a section is named `section.key`, or stands in a mapping of it."""


def layered(base: RunConfig, *layers: Layer, source: str = "configuration") -> RunConfig:
    """The configuration that the layers make of `base`, each over those before it.

    What a later layer asks for replaces its rivals below (`ALTERNATIVES`, `HINDRANCES`), which go
    back to their defaults; all other settings below stay. A value of None is asked for, too: leave
    out what is not given. Bits may be written as w2a4 or searched, and quantities as 1.0G.

    Raises UsageError for settings that cannot be; `source` names where they came from.
    """
    default = flat(asdict(RunConfig()))
    told = {name: value for name, value in flat(asdict(base)).items() if value != default[name]}
    for layer in layers:
        told = over(told, layer)
    return schema.parse(RunConfig, _nested(told, source), source)


def together(*parts: Layer) -> dict[str, Any]:
    """One layer, as `flat`, of what is asked for at once; of the same setting the last part counts.

    Raises UsageError for two alternatives, of which none is the later one.
    """
    layer = {name: value for part in parts for name, value in flat(part).items()}
    for group in ALTERNATIVES:
        given = [name for name in group if _meant(layer).get(name) is not None]
        if len(given) > 1:
            first, second = (name.rpartition(".")[2] for name in given[:2])
            raise UsageError(f"`{first}` and `{second}` are both given.", "Give one of them.")
    return layer


def over(below: Layer, layer: Layer) -> dict[str, Any]:
    """Settings with those of a layer over them, as `flat`; neither of both is changed."""
    return {**without_rivals(below, layer), **_meant(flat(layer))}


def without_rivals(below: Layer, layer: Layer) -> dict[str, Any]:
    """The settings below that stay when a layer comes over them, as `flat`."""
    old, new = flat(below), _meant(flat(layer))
    gone = _rivals(_meant(old), new) | {name.partition(".")[0] for name in new}
    sections = {name for name in new if name in SECTIONS}  # no mappings: schema.parse says so
    return {
        name: value
        for name, value in old.items()
        if not (name in new or name in gone or name.partition(".")[0] in sections)
    }


def flat(settings: Layer) -> dict[str, Any]:
    """{search: {epochs: 3}, seed: 1} -> {search.epochs: 3, seed: 1}"""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name in SECTIONS and isinstance(value, Mapping):
            found |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            found[str(name)] = value
    return found


def _nested(settings: Layer, source: str) -> dict[str, Any]:
    """The reverse of `flat`. Raises UsageError for the key of a setting that is no section."""
    data: dict[str, Any] = {}
    for name, value in settings.items():
        section, dot, key = name.partition(".")
        if dot and section not in SECTIONS and hasattr(RunConfig, section):
            raise UsageError(f"{source}: '{section}' is no section.", "Check its name.")
        where = data.setdefault(section, {}) if dot else data
        if isinstance(where, dict):  # else schema.parse says what is wrong
            where[key or name] = value
    return data


def _meant(settings: Layer) -> dict[str, Any]:
    """Settings, as `flat`, with values for what people write as text: w2a4, searched, 1.0G."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "bits" and isinstance(value, str):
            found |= {name: None} if value == SEARCHED else quantities.widths(value, name)
        elif name in QUANTITIES and isinstance(value, str):
            found[name] = quantities.number(value, name)
        else:
            found[name] = value
    return found


def _rivals(below: Layer, layer: Layer) -> set[str]:
    """The settings below that are rivals of what a layer asks for; both as `_meant`."""
    gone = set[str]()
    for group in ALTERNATIVES:
        if any(layer.get(name) is not None for name in group):
            gone |= {*group}
    if "bits" in layer:  # none: those that the search has found
        gone |= {*ALTERNATIVES[0], "act_bits"}
    if "bits" in gone and below.get("bits") is not None:
        gone.add("act_bits")
    for each in HINDRANCES:
        hinders = not each.values or below.get(each.setting) in each.values
        if hinders and each.asked(layer):
            gone.add(each.setting)
    return gone | ({"genotype"} if _another_space(below, layer) else set())


def _another_space(below: Layer, layer: Layer) -> bool:
    """Whether a layer has another space than is named below, whose genotypes do not fit into it."""
    old, new = below.get("space"), layer.get("space")
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    return os.path.abspath(old) != os.path.abspath(new)


def _retrains(layer: Layer) -> bool:
    """Whether a layer asks for retraining when a network is quantized."""
    lengths = [layer.get(name) for name in ALTERNATIVES[1]]
    timed = any(length is not None for length in lengths)
    asked = any(lengths) if timed else layer.get("quantize.train")
    return bool(asked) and layer.get("quantize.train") != "none"


def _searches(layer: Layer) -> bool:
    """Whether a layer says what shall be searched, or for how long."""
    names = ("target_bitops", "penalty", "strategy", "keep", "epochs")
    return any(layer.get(f"search.{name}") is not None for name in names)


@dataclass(frozen=True)
class Hindrance:
    """A setting that would keep what a later layer asks for from being done."""

    asked: Callable[[Layer], bool]
    """Whether a layer, as `flat`, asks for it."""
    setting: str
    values: tuple[Any, ...] = ()
    """Values of the setting that hinder; empty: all of them."""


HINDRANCES = (
    Hindrance(_retrains, "quantize.method"),  # baselines are not retrained
    Hindrance(_retrains, "quantize.train", ("none",)),
    Hindrance(_retrains, "quantize.steps", (0,)),
    Hindrance(_searches, "genotype"),
    Hindrance(lambda layer: layer.get("genotype") is not None, "search.target_bitops"),
    Hindrance(lambda layer: layer.get("search.strategy") == "random", "search.processes"),
    Hindrance(lambda layer: bool(layer.get("train.float_steps")), "train.start", ("float",)),
    Hindrance(lambda layer: layer.get("train.start") == "float", "train.qat_steps", (0,)),
    Hindrance(lambda layer: layer.get("train.teacher") is not None, "train.teacher_share", (0,)),
)
