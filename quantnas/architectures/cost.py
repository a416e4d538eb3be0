"""Cost in closed form: every operation is built once with a convolution that only counts.

BitOps = sum over all convolutions of MACs x weight bits x activation bits, always with a
resolution. Divided by 1024 they are MACs x w/32 x a/32: as many MACs in float.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantnas.config.genotype import Genotype, choice_of, searched_precision
from quantnas.config.search_space import Area, FloatLayer, Precision, SearchSpace, Slot, outputs
from quantnas.nn import operations

from . import registry

STORED = {2: 2, 3: 4, 4: 4, 8: 8, 32: 32}
"""Bits of a weight -> bits that it takes in the file (`packed_weights.STORAGE`)."""
REFERENCE = (32, 32)
"""(height, width) of the low-resolution image where nothing else is said."""
FLOAT_MAC = 32 * 32
"""BitOps of a multiply-accumulate in float."""
NOT_COUNTED = "adds, concatenations, pooling, resizing, rounding and the pixel shuffle"


@dataclass(frozen=True)
class Layer:
    """One convolution of a decided network."""

    name: str
    op: str
    shape: operations.Shape
    """(c_out, c_in / groups, height, width)"""
    weight_bits: int
    act_bits: int
    area: Area
    """Where it runs (`search_space.outputs`)."""
    macs: int
    """Multiply-accumulates at LR 32x32."""
    parameters: int
    """Weights and biases."""

    @property
    def bitops(self) -> int:
        """At LR 32x32."""
        return self.macs * self.weight_bits * self.act_bits

    @property
    def weight_bytes(self) -> int:
        """Of its packed weights; a product of two tensors has none."""
        return math.ceil(
            bool(self.parameters) * math.prod(self.shape) * STORED[self.weight_bits] / 8
        )

    def macs_at(self, height: int, width: int, scale: int) -> int:
        """Multiply-accumulates for a low-resolution image of that size."""
        return math.prod(self.shape) * outputs(self.area, height, width, scale)


@dataclass(frozen=True)
class Part:
    """One convolution in the cost of its network, for a low-resolution image of a stated size."""

    name: str
    op: str
    shape: operations.Shape
    weight_bits: int
    act_bits: int
    macs: int
    bitops: int
    share: float
    """Of the network's BitOps."""
    weight_bytes: int
    """Of its packed weights."""


@dataclass(frozen=True)
class Cost:
    """Totals of a network; the keys of the mappings state the resolution."""

    parameters: int
    weight_bytes: int
    """Of the packed weights alone."""
    macs: dict[str, int]
    bitops: dict[str, int]
    layers: tuple[Layer, ...]


def weights(op: str, slot: Slot) -> int:
    """Weights of an operation: its multiply-accumulates per output pixel."""
    return sum(math.prod(shape) for shape in operations.shapes(op, slot))


def layers(
    slots: Iterable[Slot], genotype: Genotype, precision: Mapping[str, Precision], scale: int
) -> list[Layer]:
    """The convolutions of a decided network."""
    result = []
    for slot in slots:
        op, bits = genotype.choices[slot.name].op, precision[slot.name]
        found, places = operations.shapes(op, slot), outputs(slot.area, *REFERENCE, scale)
        for i, shape in enumerate(found):
            name = slot.name if len(found) == 1 else f"{slot.name}.{i}"
            n, widths = math.prod(shape), (bits.weights, bits.activations)
            result.append(Layer(name, op, shape, *widths, slot.area, n * places, n + shape[0]))
    return result


def beside(rows: Iterable[FloatLayer], scale: int) -> list[Layer]:
    """What a network from elsewhere computes in float beside its convolutions."""
    result = []
    for row in rows:
        n = math.prod(row.shape)
        macs, parameters = n * outputs(row.area, *REFERENCE, scale), learned(row.op, row.shape)
        result.append(Layer(row.name, row.op, row.shape, 32, 32, row.area, macs, parameters))
    return result


def learned(op: str, shape: Sequence[int]) -> int:
    """Weights and biases of a layer; a product of two tensors has none."""
    return 0 if op == "product" else math.prod(shape) + shape[0]


def network_layers(
    space: SearchSpace, genotype: Genotype, precision: Mapping[str, Precision]
) -> list[Layer]:
    """All that costs something in the decided network of a space."""
    rows = layers(registry.slots(space), genotype, precision, space.scale)
    return rows + beside(registry.beside(space), space.scale)


def network_cost(
    space: SearchSpace, genotype: Genotype, precision: Mapping[str, Precision]
) -> Cost:
    """Totals of all that."""
    return total(network_layers(space, genotype, precision), space.scale)


def resolutions(scale: int) -> dict[str, tuple[int, int]]:
    """What is reported -> (height, width) of its low-resolution image."""
    return {
        "LR 32x32": REFERENCE,
        "LR 256x256": (256, 256),
        "1280x720 output": (720 // scale, math.ceil(1280 / scale)),
    }


def total(rows: Sequence[Layer], scale: int) -> Cost:
    """Totals at every reported resolution."""
    macs = {
        name: [row.macs_at(*size, scale) for row in rows]
        for name, size in resolutions(scale).items()
    }
    bits = [row.weight_bits * row.act_bits for row in rows]
    return Cost(
        parameters=sum(r.parameters for r in rows),
        weight_bytes=sum(row.weight_bytes for row in rows),
        macs={name: sum(found) for name, found in macs.items()},
        bitops={
            name: sum(n * b for n, b in zip(found, bits, strict=True))
            for name, found in macs.items()
        },
        layers=tuple(rows),
    )


def bitops_at(rows: Iterable[Layer], size: tuple[int, int], scale: int) -> int:
    """BitOps of a network for a low-resolution image of that size."""
    return sum(row.macs_at(*size, scale) * row.weight_bits * row.act_bits for row in rows)


def parts(rows: Sequence[Layer], size: tuple[int, int], scale: int) -> list[Part]:
    """What every convolution of a network costs, for a low-resolution image of that size."""
    whole, found = bitops_at(rows, size, scale), []
    for r in rows:
        macs, bitops = r.macs_at(*size, scale), bitops_at([r], size, scale)
        share, widths = bitops / max(whole, 1), (r.weight_bits, r.act_bits)
        found.append(Part(r.name, r.op, r.shape, *widths, macs, bitops, share, r.weight_bytes))
    return found


def searched_bitops(
    slots: Iterable[Slot], genotype: Genotype, scale: int, size: tuple[int, int] = REFERENCE
) -> int:
    """BitOps of a genotype with the bits that the search decided."""
    rows = layers(slots, genotype, searched_precision(genotype), scale)
    return bitops_at(rows, size, scale)


def option_bitops(slot: Slot, size: tuple[int, int], scale: int) -> list[list[int]]:
    """BitOps of every pair of operation and width of a slot, for an LR image of that size."""
    places = outputs(slot.area, *size, scale)
    each = [w.weights * w.activations * places for w in slot.widths]
    return [[weights(op, slot) * n for n in each] for op in slot.ops]


def extent(slots: Sequence[Slot], scale: int) -> dict[str, Any]:
    """How many architectures there are, and the costs of the smallest and of the largest."""
    options = {slot.choice: slot.options for slot in slots}
    ends = {}
    for name, pick in (("smallest", min), ("largest", max)):
        chosen = {}
        for slot in slots:
            table = option_bitops(slot, REFERENCE, scale)
            places = [(o, w) for o in range(len(slot.ops)) for w in range(len(slot.widths))]
            chosen[slot.name] = choice_of(slot, *pick(places, key=lambda p: table[p[0]][p[1]]))
        found = Genotype(name, chosen)
        ends[name] = total(layers(slots, found, searched_precision(found), scale), scale)
    return {
        "searched_edges": sum(n > 1 for n in options.values()),
        "architectures": math.prod(options.values()),
        **ends,
    }


def choice_bitops(
    slots: Iterable[Slot], scale: int, size: tuple[int, int] = REFERENCE
) -> dict[str, Tensor]:
    """What is decided -> (ops, widths) BitOps of its pairs, for an LR image of that size.

    Convolutions that are not searched are choices with one pair, so that the sum over all choices
    is the whole network.
    """
    found: dict[str, Tensor] = {}
    for slot in slots:
        table = torch.tensor(option_bitops(slot, size, scale), dtype=torch.float64)
        found[slot.choice] = found.get(slot.choice, 0) + table
    return found
