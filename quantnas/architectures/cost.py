"""Cost of an architecture in closed form: parameters, bytes of weights, MACs and BitOps.

BitOps are the sum over all convolutions of MACs x weight bits x activation bits, and are always
stated with a resolution. Divided by 1024 they are the MACs x w/32 x a/32, which is the number of
float MACs that cost the same. Every operation is built once, with a convolution that only counts.
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
"""Weight bits -> bits that a weight takes in a file (`packed_weights.STORAGE`)."""
REFERENCE = (32, 32)
"""(height, width) of the low-resolution image at which costs are stated by default."""
FLOAT_MAC = 32 * 32
"""BitOps of a multiply-accumulate in float."""
NOT_COUNTED = "adds, concatenations, pooling, resizing, rounding and the pixel shuffle"
"""Operations that the cost leaves out, in words."""


@dataclass(frozen=True)
class Layer:
    """One convolution of a decided architecture, or one float layer of an imported network."""

    name: str
    op: str
    shape: operations.Shape
    """(c_out, c_in / groups, height, width)"""
    weight_bits: int
    act_bits: int
    area: Area
    """Resolution at which the layer runs (`search_space.outputs`)."""
    macs: int
    """Multiply-accumulates at LR 32x32."""
    parameters: int
    """Number of weights and biases; 0 where the kernel is that of an earlier layer."""

    @property
    def bitops(self) -> int:
        """BitOps of the layer at LR 32x32."""
        return self.macs * self.weight_bits * self.act_bits

    @property
    def weight_bytes(self) -> int:
        """Bytes of the layer's packed weights; a product of two tensors has none of its own."""
        return math.ceil(
            bool(self.parameters) * math.prod(self.shape) * STORED[self.weight_bits] / 8
        )

    def macs_at(self, height: int, width: int, scale: int) -> int:
        """Multiply-accumulates for a low-resolution image of that size, in pixels."""
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
    """Share of the network's BitOps, from 0 to 1."""
    weight_bytes: int
    """Bytes of its packed weights."""


@dataclass(frozen=True)
class Cost:
    """Total cost of a network; the keys of the mappings state the resolution."""

    parameters: int
    """Number of weights and biases."""
    weight_bytes: int
    """Bytes of the packed weights, without biases and grids."""
    macs: dict[str, int]
    """Resolution (`resolutions`) -> multiply-accumulates."""
    bitops: dict[str, int]
    """Resolution (`resolutions`) -> BitOps."""
    layers: tuple[Layer, ...]


def weights(op: str, slot: Slot) -> int:
    """Number of weights of an operation, which is its multiply-accumulates per output pixel."""
    return sum(math.prod(shape) for shape in operations.shapes(op, slot))


def layers(
    slots: Iterable[Slot], genotype: Genotype, precision: Mapping[str, Precision], scale: int
) -> list[Layer]:
    """Cost of every convolution of a decided architecture, in the order of its slots.

    precision: name of a slot -> bit widths.
    """
    result = []
    for slot in slots:
        op, bits = genotype.choices[slot.name].op, precision[slot.name]
        shapes, positions = operations.shapes(op, slot), outputs(slot.area, *REFERENCE, scale)
        for i, shape in enumerate(shapes):
            name = slot.name if len(shapes) == 1 else f"{slot.name}.{i}"
            n, widths = math.prod(shape), (bits.weights, bits.activations)
            parameters = 0 if slot.kernel else n + shape[0]
            result.append(Layer(name, op, shape, *widths, slot.area, n * positions, parameters))
    return result


def float_layers(rows: Iterable[FloatLayer], scale: int) -> list[Layer]:
    """Cost of an imported network's float layers that are no two-dimensional convolutions."""
    result = []
    for row in rows:
        macs = math.prod(row.shape) * outputs(row.area, *REFERENCE, scale)
        parameters = parameter_count(row.op, row.shape)
        result.append(Layer(row.name, row.op, row.shape, 32, 32, row.area, macs, parameters))
    return result


def parameter_count(op: str, shape: Sequence[int]) -> int:
    """Number of weights and biases of a layer; a product of two tensors has none."""
    return 0 if op == "product" else math.prod(shape) + shape[0]


def network_layers(
    space: SearchSpace, genotype: Genotype, precision: Mapping[str, Precision]
) -> list[Layer]:
    """Cost of every layer of a decided architecture: its convolutions, then its float layers."""
    rows = layers(registry.slots(space), genotype, precision, space.scale)
    return rows + float_layers(registry.float_layers(space), space.scale)


def network_cost(
    space: SearchSpace, genotype: Genotype, precision: Mapping[str, Precision]
) -> Cost:
    """Total cost of a decided architecture, with that of each layer."""
    return total(network_layers(space, genotype, precision), space.scale)


def resolutions(scale: int) -> dict[str, tuple[int, int]]:
    """Name of each reported resolution -> (height, width) of its low-resolution image."""
    return {
        "LR 32x32": REFERENCE,
        "LR 256x256": (256, 256),
        "1280x720 output": (720 // scale, math.ceil(1280 / scale)),
    }


def total(rows: Sequence[Layer], scale: int) -> Cost:
    """Total cost of these layers, at every reported resolution."""
    macs = {
        name: [row.macs_at(*size, scale) for row in rows]
        for name, size in resolutions(scale).items()
    }
    bits = [row.weight_bits * row.act_bits for row in rows]
    return Cost(
        parameters=sum(r.parameters for r in rows),
        weight_bytes=sum(row.weight_bytes for row in rows),
        macs={name: sum(counts) for name, counts in macs.items()},
        bitops={
            name: sum(n * b for n, b in zip(counts, bits, strict=True))
            for name, counts in macs.items()
        },
        layers=tuple(rows),
    )


def bitops_at(rows: Iterable[Layer], size: tuple[int, int], scale: int) -> int:
    """BitOps of a network for a low-resolution image of that (height, width)."""
    return sum(row.macs_at(*size, scale) * row.weight_bits * row.act_bits for row in rows)


def parts(rows: Sequence[Layer], size: tuple[int, int], scale: int) -> list[Part]:
    """Cost of each layer of a network, for a low-resolution image of that (height, width)."""
    network_bitops, result = bitops_at(rows, size, scale), []
    for r in rows:
        macs, bitops = r.macs_at(*size, scale), bitops_at([r], size, scale)
        share, widths = bitops / max(network_bitops, 1), (r.weight_bits, r.act_bits)
        result.append(Part(r.name, r.op, r.shape, *widths, macs, bitops, share, r.weight_bytes))
    return result


def searched_bitops(
    slots: Iterable[Slot], genotype: Genotype, scale: int, size: tuple[int, int] = REFERENCE
) -> int:
    """BitOps of a genotype at the bit widths that the search decided."""
    rows = layers(slots, genotype, searched_precision(genotype), scale)
    return bitops_at(rows, size, scale)


def option_bitops(slot: Slot, size: tuple[int, int], scale: int) -> list[list[int]]:
    """BitOps of every pair of operation and bit width of a slot: one row per operation.

    size: (height, width) of the low-resolution image.
    """
    positions = outputs(slot.area, *size, scale)
    per_weight = [w.weights * w.activations * positions for w in slot.bit_widths]
    return [[weights(op, slot) * n for n in per_weight] for op in slot.ops]


def extent(slots: Sequence[Slot], scale: int) -> dict[str, Any]:
    """Size of a search space, and the costs of its smallest and largest architectures.

    The keys are `searched_edges`, `architectures`, `smallest` and `largest`.
    """
    options = {slot.choice: slot.options for slot in slots}
    ends = {}
    for name, pick in (("smallest", min), ("largest", max)):
        chosen = {}
        for slot in slots:
            table = option_bitops(slot, REFERENCE, scale)
            pairs = [(o, w) for o in range(len(slot.ops)) for w in range(len(slot.bit_widths))]
            chosen[slot.name] = choice_of(slot, *pick(pairs, key=lambda p: table[p[0]][p[1]]))
        genotype = Genotype(name, chosen)
        ends[name] = total(layers(slots, genotype, searched_precision(genotype), scale), scale)
    return {
        "searched_edges": sum(n > 1 for n in options.values()),
        "architectures": math.prod(options.values()),
        **ends,
    }


def choice_bitops(
    slots: Iterable[Slot], scale: int, size: tuple[int, int] = REFERENCE
) -> dict[str, Tensor]:
    """Name of each choice -> BitOps of its pairs, (operations, bit widths), float64.

    size: (height, width) of the low-resolution image. Convolutions that are not searched are
    choices with one pair, so the sum over all choices is the cost of the whole network.
    """
    result: dict[str, Tensor] = {}
    for slot in slots:
        table = torch.tensor(option_bitops(slot, size, scale), dtype=torch.float64)
        result[slot.choice] = result.get(slot.choice, 0) + table
    return result
