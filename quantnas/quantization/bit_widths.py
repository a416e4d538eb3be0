"""The bit widths of a quantization: set by the user, searched, or allocated within a limit."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torch import Tensor, nn

from quantnas.architectures import cost, registry
from quantnas.config import genotype as genotypes
from quantnas.config import schema
from quantnas.config.files import read_json
from quantnas.config.genotype import Genotype, searched_precision, uniform_precision
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import Bits, Precision, SearchSpace, Slot
from quantnas.config.validators import resolution
from quantnas.errors import DataError, UsageError

from . import bit_allocation, saliency
from .bit_allocation import Costs, Damage, Options
from .saliency import Saliency

WEIGHT_BITS = (2, 3, 4, 8)
"""Bit widths of weights to choose from."""
ACTIVATION_BITS = (4, 8)
"""Bit widths of activations to choose from, where the limit counts BitOps."""
NAMED = 8
"""Largest number of layers that are named for one place."""
UNITS = {"target_bitops": "BitOps", "target_size": "bytes", "average_bits": "bits per weight"}
"""Name of a setting that limits the bits -> its unit."""


@dataclass(frozen=True)
class Plan:
    """The bit widths of a quantization, with the damage that they are predicted to do."""

    precision: dict[str, Precision]
    damage: dict[str, Damage]
    """Slot name -> damage of its bit widths and of the alternatives."""
    saliency: Saliency
    limit: str | None = None
    """Name of the setting that limited the bits; None where they were not allocated."""

    @property
    def unlimited(self) -> bool:
        """Whether every slot got its largest bit widths, so that the limit had no effect."""
        largest = {
            n: max((p.weights, p.activations) for p in d.options) for n, d in self.damage.items()
        }
        chosen = {name: (p.weights, p.activations) for name, p in self.precision.items()}
        return self.limit is not None and chosen == largest

    @property
    def mse(self) -> float:
        """Predicted mean squared error of the output, before any correction or retraining."""
        return sum(self.damage[name].at(pair) for name, pair in self.precision.items())


def plan(
    space: SearchSpace, genotype: Genotype, config: RunConfig, teacher: nn.Module, low: Tensor
) -> Plan:
    """Measure the float network's saliency, predict damages, and allocate bits if there is a limit.

    low: calibration images (N, 3, H, W) in [0, 1]. Raises UsageError for a limit that no choice
    reaches.
    """
    measured = saliency.measure(teacher, low)
    options = _options(space, genotype, config)
    damage = bit_allocation.predict(teacher, measured, low, options)
    if config.quantize.budget is None:
        precision = precision_of(space, genotype, config)
    else:
        precision = _allocate(space, genotype, config, options, damage)
    return Plan(precision, damage, measured, config.quantize.budget)


def check(space: SearchSpace, genotype: Genotype | None, config: RunConfig) -> None:
    """Raise UsageError for a limit beside given bits, and for one that no choice reaches.

    No network is needed. Without a genotype, only the first can be checked.
    """
    budget = config.quantize.budget
    if budget is not None and config.bits is not None:
        raise UsageError(
            f"`bits` {config.bits} and a limit, `{budget}`, are both given.",
            "Leave one of them out.",
        )
    if budget is not None and genotype is not None:
        costs, limit = _costs(space, genotype, config, _options(space, genotype, config))
        _require_room(space, genotype, config, costs, limit)


def _options(space: SearchSpace, genotype: Genotype, config: RunConfig) -> Options:
    """The bit widths to choose from or, without a limit, a slot's own and some to compare with."""
    slots, ends = registry.slots(space), config.quantize.ends
    limits_bitops = config.quantize.target_bitops is not None
    act_bits = ACTIVATION_BITS if limits_bitops else (config.act_bits,)
    pairs = [Precision(w, a) for a in act_bits for w in WEIGHT_BITS]
    if config.quantize.budget is not None:
        return bit_allocation.options(slots, pairs, ends)
    precision = precision_of(space, genotype, config)
    alternatives = {
        name: {Precision(w, own.activations) for w in WEIGHT_BITS} | {own}
        for name, own in precision.items()
    }
    kept = bit_allocation.options(slots, pairs, ends)
    return {
        name: sorted(each, key=lambda p: (p.activations, p.weights))
        if len(kept[name]) > 1
        else (precision[name],)
        for name, each in alternatives.items()
    }


def _allocate(
    space: SearchSpace,
    genotype: Genotype,
    config: RunConfig,
    options: Options,
    damage: dict[str, Damage],
) -> dict[str, Precision]:
    costs, limit = _costs(space, genotype, config, options)
    _require_room(space, genotype, config, costs, limit)
    return bit_allocation.allocate_slots(registry.slots(space), damage, costs, limit)


def _require_room(
    space: SearchSpace, genotype: Genotype, config: RunConfig, costs: Costs, limit: float
) -> None:
    """Raise UsageError, with the least possible limit, when no choice is within the limit."""
    name, least = str(config.quantize.budget), sum(min(each) for each in costs.values())
    if least <= limit:
        return
    lowest = f"{least:,}"
    if name == "average_bits":  # rounded up, so that the number in the message is possible
        lowest = f"{math.ceil(1000 * least / _inner(space, genotype)) / 1000:g}"
    raise UsageError(
        f"No choice of bits is within {getattr(config.quantize, name):,.12g} {UNITS[name]}; "
        f"the least is {lowest}.",
        f"Give `{name}` at least that.",
    )


def _costs(
    space: SearchSpace, genotype: Genotype, config: RunConfig, options: Options
) -> tuple[Costs, float]:
    """The cost of every option, and the limit, in the unit of the limiting setting."""
    slots, c = registry.slots(space), config.quantize
    if c.target_bitops is not None:
        size = resolution(c.at)
        fixed = cost.bitops_at(
            cost.float_layers(registry.float_layers(space), space.scale), size, space.scale
        )
        costs = bit_allocation.bitops_costs(slots, genotype, options, space.scale, size)
        costs[slots[0].name] = [n + fixed for n in costs[slots[0].name]]
        return costs, c.target_bitops
    if c.target_size is not None:
        return bit_allocation.byte_costs(slots, genotype, options), c.target_size
    assert c.average_bits is not None
    limit = c.average_bits * _inner(space, genotype)
    return bit_allocation.bit_costs(slots, genotype, options), limit


def _inner(space: SearchSpace, genotype: Genotype) -> int:
    """Number of weights between the first and the last slot."""
    return bit_allocation.inner_weights(registry.slots(space), genotype)


def reached(
    space: SearchSpace, genotype: Genotype, precision: Mapping[str, Precision]
) -> dict[str, float | None]:
    """The costs of these bit widths, each under the name of what it counts.

    `weight_bytes`: bytes of the packed weights; `bitops`: BitOps at LR 32x32; `average_bits`: bits
    per weight between the first and the last slot, None where there is no weight between them.
    """
    slots = registry.slots(space)
    rows = cost.layers(slots, genotype, precision, space.scale)
    beside = cost.float_layers(registry.float_layers(space), space.scale)
    options = {name: (pair,) for name, pair in precision.items()}
    bits, inner = bit_allocation.bit_costs(slots, genotype, options), _inner(space, genotype)
    return {
        "weight_bytes": sum(row.weight_bytes for row in rows),
        "bitops": cost.bitops_at([*rows, *beside], cost.REFERENCE, space.scale),
        "average_bits": sum(each[0] for each in bits.values()) / inner if inner else None,
    }


def in_float(
    space: SearchSpace, genotype: Genotype, precision: Mapping[str, Precision]
) -> list[dict[str, str | float]]:
    """The layers that stay in float, with their shares of the BitOps at LR 32x32."""
    rows = cost.network_layers(space, genotype, precision)
    parts = cost.parts(rows, cost.REFERENCE, space.scale)
    unrounded = [part for part in parts if part.weight_bits == part.act_bits == 32]
    return [{"name": part.name, "op": part.op, "share": part.share} for part in unrounded]


def kept(space: SearchSpace, config: RunConfig, precision: Mapping[str, Precision]) -> str | None:
    """The layers that have other bit widths than those asked for, and why; None without any."""
    slots = registry.slots(space)
    if config.as_searched:
        return None
    if config.bits is None:
        names = set(genotypes.kept_precision(slots, config.quantize.ends))
        asked = f"chosen within `{config.quantize.budget}`"
    else:
        own = Precision(config.bits, config.act_bits)
        names = {name for name, pair in precision.items() if pair != own}
        asked = f"w{own.weights}a{own.activations}"
    if not names:
        return None
    parts = " and ".join(_places(slots, names, precision))
    return f"{len(names)} of {len(precision)} layers are not {asked}, but {parts}"


def _places(
    slots: Sequence[Slot], names: Collection[str], precision: Mapping[str, Precision]
) -> Iterator[str]:
    """The layers of `names` by their place in the network, with their bit widths."""
    ends = genotypes.end_names(slots)
    groups: dict[str, list[str]] = {}
    for slot in slots:
        if slot.name in names:
            pair = precision[slot.name]
            place = "at the ends" if slot.name in ends else "in attention"
            key = f"w{pair.weights}a{pair.activations} {place}"
            groups.setdefault(key, []).append(slot.name)
    for key, group in groups.items():
        more = f" and {len(group) - NAMED} more" if len(group) > NAMED else ""
        yield f"{key} ({', '.join(group[:NAMED])}{more})"


def load(folder: Path) -> dict[str, Precision]:
    """Read slot name -> bit widths from the `precision.json` of a quantized run's folder.

    Raises DataError or UsageError when the file is missing or damaged.
    """
    path = folder / "precision.json"
    precision = {
        name: schema.parse(Precision, bits, f"{path}: {name}")
        for name, bits in read_json(path).items()
    }
    for name, bits in precision.items():
        if not {bits.weights, bits.activations} <= {*get_args(Bits)}:
            raise DataError(
                f"{path}: '{name}' has {bits.weights} and {bits.activations} bits.",
                f"Possible are {', '.join(map(str, get_args(Bits)))}; take the file from a copy.",
            )
    return precision


def precision_of(space: SearchSpace, genotype: Genotype, config: RunConfig) -> dict[str, Precision]:
    """The bit widths of every slot: the searched ones, or the given ones.

    Given bits hold between the first and the last convolution. Raises UsageError when no bits are
    given for a network that was searched in float.
    """
    if config.bits is None:
        require_bits(space, config.bits)
        return searched_precision(genotype)
    return uniform_precision(
        registry.slots(space), config.bits, config.act_bits, config.quantize.ends
    )


def require_bits(space: SearchSpace, bits: int | None) -> None:
    """Raise UsageError when a network of a space in float is to be quantized without given bits."""
    if space.is_float and bits is None:
        subject = "The network is" if space.source else f"Space '{space.name}' is searched"
        raise UsageError(
            f"{subject} in float: it says nothing about bits.",
            "Give --bits 8, 4, 3 or 2, or a limit, such as --average-bits 3.",
        )
