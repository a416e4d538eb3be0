"""Which bits a quantization uses: given, as searched, or those that damage least within a limit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from quantnas.architectures import cost, registry
from quantnas.config import genotype, search_space
from quantnas.config.files import read_json
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import Precision, SearchSpace
from quantnas.config.validators import resolution
from quantnas.errors import UsageError

from . import bit_allocation, saliency
from .bit_allocation import Costs, Damage, Options
from .saliency import Saliency

WEIGHTS = (2, 3, 4, 8)
"""Bits to choose from."""
INPUTS = (4, 8)
"""The same for activations, where the limit counts BitOps."""
UNITS = {"target_bitops": "BitOps", "target_size": "bytes", "average_bits": "bits per weight"}


@dataclass(frozen=True)
class Plan:
    """Bits, and what they are predicted to do."""

    precision: dict[str, Precision]
    damage: dict[str, Damage]
    """Of every slot, for its bits and the others that were thought of."""
    saliency: Saliency
    limit: str | None = None
    """The setting within which the bits were chosen, if they were."""

    @property
    def unlimited(self) -> bool:
        """Whether every slot got the most bits that it may have, in spite of the limit."""
        most = {
            n: max((w.weights, w.activations) for w in d.options) for n, d in self.damage.items()
        }
        had = {name: (w.weights, w.activations) for name, w in self.precision.items()}
        return self.limit is not None and had == most

    @property
    def mse(self) -> float:
        """Predicted mean squared error of the output before anything is made good."""
        return sum(self.damage[name].at(width) for name, width in self.precision.items())


def plan(
    space: SearchSpace, found: Genotype, config: RunConfig, teacher: nn.Module, low: Tensor
) -> Plan:
    """Measure the float network on low (N, 3, H, W), predict, and choose where that is asked for.

    Raises UsageError for a limit that no choice reaches.
    """
    measured = saliency.measure(teacher, low)
    given = _options(space, found, config)
    damage = bit_allocation.predict(teacher, measured, low, given)
    if config.quantize.budget is None:
        precision = precision_of(space, found, config)
    else:
        precision = _allocate(space, found, config, given, damage)
    return Plan(precision, damage, measured, config.quantize.budget)


def check(space: SearchSpace, found: Genotype | None, config: RunConfig) -> None:
    """Raise UsageError, before anything is computed, for a limit that no choice reaches, and for
    one beside bits that are given. Without a genotype, only the second can be known.
    """
    budget = config.quantize.budget
    if budget is not None and config.bits is not None:
        raise UsageError(
            f"`bits` {config.bits} and a limit, `{budget}`, are both given.",
            "Leave one of them out.",
        )
    if budget is not None and found is not None:
        costs, limit = _costs(space, found, config, _options(space, found, config))
        _require_room(space, found, config, costs, limit)


def _options(space: SearchSpace, found: Genotype, config: RunConfig) -> Options:
    """What each slot may have; without a limit its own bits, and others to compare with."""
    slots, ends = registry.slots(space), config.quantize.ends
    inputs = INPUTS if config.quantize.target_bitops is not None else (config.act_bits,)
    widths = [Precision(w, a) for a in inputs for w in WEIGHTS]
    if config.quantize.budget is not None:
        return bit_allocation.options(slots, widths, ends)
    precision = precision_of(space, found, config)
    beside = {
        name: {Precision(w, own.activations) for w in WEIGHTS} | {own}
        for name, own in precision.items()
    }
    kept = bit_allocation.options(slots, widths, ends)
    return {
        name: sorted(each, key=lambda p: (p.activations, p.weights))
        if len(kept[name]) > 1
        else (precision[name],)
        for name, each in beside.items()
    }


def _allocate(
    space: SearchSpace,
    found: Genotype,
    config: RunConfig,
    given: Options,
    damage: dict[str, Damage],
) -> dict[str, Precision]:
    costs, limit = _costs(space, found, config, given)
    _require_room(space, found, config, costs, limit)
    return bit_allocation.allocate(damage, costs, limit)


def _require_room(
    space: SearchSpace, found: Genotype, config: RunConfig, costs: Costs, limit: float
) -> None:
    """Raise UsageError, naming the least that can be had, when nothing is within the limit."""
    name, least = str(config.quantize.budget), sum(min(each) for each in costs.values())
    if least <= limit:
        return
    told = f"{least:,}"
    if name == "average_bits":  # rounded up, so that what is named can be had
        told = f"{math.ceil(1000 * least / _inner(space, found)) / 1000:g}"
    raise UsageError(
        f"No choice of bits is within {getattr(config.quantize, name):,.12g} {UNITS[name]}; "
        f"the least is {told}.",
        f"Give `{name}` at least that.",
    )


def _costs(
    space: SearchSpace, found: Genotype, config: RunConfig, given: Options
) -> tuple[Costs, float]:
    """What every option costs, and the limit, in the unit of the budget."""
    slots, c = registry.slots(space), config.quantize
    if c.target_bitops is not None:
        size = resolution(c.at)
        fixed = cost.bitops_at(
            cost.float_layers(registry.float_layers(space), space.scale), size, space.scale
        )
        each = bit_allocation.bitops_costs(slots, found, given, space.scale, size)
        each[slots[0].name] = [n + fixed for n in each[slots[0].name]]
        return each, c.target_bitops
    if c.target_size is not None:
        return bit_allocation.byte_costs(slots, found, given), c.target_size
    assert c.average_bits is not None
    return bit_allocation.bit_costs(slots, found, given), c.average_bits * _inner(space, found)


def _inner(space: SearchSpace, found: Genotype) -> int:
    return bit_allocation.inner_weights(registry.slots(space), found)


def reached(
    space: SearchSpace, found: Genotype, precision: Mapping[str, Precision]
) -> dict[str, float | None]:
    """What these bits cost: `weight_bytes` when packed, `bitops` at LR 32x32, and `average_bits`
    of the weights between the ends, if there are any.
    """
    slots = registry.slots(space)
    rows = cost.layers(slots, found, precision, space.scale)
    beside = cost.float_layers(registry.float_layers(space), space.scale)
    widths = {name: (width,) for name, width in precision.items()}
    bits, inner = bit_allocation.bit_costs(slots, found, widths), _inner(space, found)
    return {
        "weight_bytes": sum(row.weight_bytes for row in rows),
        "bitops": cost.bitops_at([*rows, *beside], cost.REFERENCE, space.scale),
        "average_bits": sum(each[0] for each in bits.values()) / inner if inner else None,
    }


def in_float(
    space: SearchSpace, found: Genotype, precision: Mapping[str, Precision]
) -> list[dict[str, str | float]]:
    """The layers that are not rounded, with their shares of the BitOps at LR 32x32."""
    rows = cost.network_layers(space, found, precision)
    parts = cost.parts(rows, cost.REFERENCE, space.scale)
    left = [part for part in parts if part.weight_bits == part.act_bits == 32]
    return [{"name": part.name, "op": part.op, "share": part.share} for part in left]


def load(folder: Path) -> dict[str, Precision]:
    """The bits that `save` wrote. Raises DataError when there are none."""
    rows = read_json(folder / "precision.json")
    return {name: Precision(**bits) for name, bits in rows.items()}


def precision_of(
    space: search_space.SearchSpace, found: Genotype, config: RunConfig
) -> dict[str, Precision]:
    """Slot name -> bits: as searched, or those given between first and last convolution.

    Raises UsageError for a network that was searched in float and is given no bits.
    """
    if config.bits is None:
        require_bits(space, config.bits)
        return genotype.searched_precision(found)
    return genotype.uniform_precision(
        registry.slots(space), config.bits, config.act_bits, config.quantize.ends
    )


def require_bits(space: search_space.SearchSpace, bits: int | None) -> None:
    """Raise UsageError when a space in float is to be quantized to nothing in particular."""
    if space.is_float and bits is None:
        what = "The network is" if space.source else f"Space '{space.name}' is searched"
        raise UsageError(
            f"{what} in float: it says nothing about bits.",
            "Give --bits 8, 4, 3 or 2, or a limit, as --average-bits 3.",
        )
