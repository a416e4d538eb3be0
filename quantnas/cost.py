"""Cost in closed form: every operation is built once with a convolution that only counts.

BitOps = sum over all convolutions of MACs x weight bits x activation bits, always with a
resolution. Adds, concatenations, rounding and the pixel shuffle are not counted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from . import ops
from .genotype import Choice, Genotype, Precision, searched_precision
from .space import Slot
from .supernet import edges

STORED = {2: 2, 3: 4, 4: 4, 8: 8}
"""Bits of a weight -> bits that it takes in the file (`onnx_weights.STORAGE`)."""


@dataclass(frozen=True)
class Layer:
    """One convolution of a decided network."""

    name: str
    op: str
    shape: tuple[int, int, int, int]
    """(c_out, c_in / groups, k, k)"""
    weight_bits: int
    act_bits: int
    macs: int
    """Multiply-accumulates per low-resolution pixel."""
    parameters: int
    """Weights and biases."""

    @property
    def bitops(self) -> int:
        """Per low-resolution pixel."""
        return self.macs * self.weight_bits * self.act_bits


@dataclass(frozen=True)
class Cost:
    """Totals of a network; the keys of the mappings state the resolution."""

    parameters: int
    weight_bytes: int
    """Of the packed weights alone."""
    macs: dict[str, int]
    bitops: dict[str, int]
    layers: tuple[Layer, ...]


def shapes(op: str, slot: Slot) -> list[tuple[int, int, int, int]]:
    """(c_out, c_in / groups, k, k) of the convolutions of an operation."""
    found: list[tuple[int, int, int, int]] = []

    def count(
        c_in: int, c_out: int, kernel: int, groups: int = 1, inner: bool = False
    ) -> nn.Module:
        found.append((c_out, c_in // groups, kernel, kernel))
        return nn.Identity()

    ops.build(op, count, slot)
    return found


def macs(op: str, slot: Slot) -> int:
    """Multiply-accumulates of an operation per low-resolution pixel."""
    return sum(a * b * k * k for a, b, k, _ in shapes(op, slot))


def layers(
    slots: Iterable[Slot], genotype: Genotype, precision: Mapping[str, Precision]
) -> list[Layer]:
    """The convolutions of a decided network."""
    result = []
    for slot in slots:
        op, bits = genotype.choices[slot.name].op, precision[slot.name]
        found = shapes(op, slot)
        for i, shape in enumerate(found):
            name = slot.name if len(found) == 1 else f"{slot.name}.{i}"
            n = shape[0] * shape[1] * shape[2] * shape[3]
            row = Layer(name, op, shape, bits.weights, bits.activations, n, n + shape[0])
            result.append(row)
    return result


def pixels(scale: int) -> dict[str, int]:
    """The resolutions that are reported -> their number of low-resolution pixels."""
    return {
        "LR 32x32": 32 * 32,
        "LR 256x256": 256 * 256,
        "1280x720 output": 1280 * 720 // scale**2,
    }


def total(rows: Sequence[Layer], scale: int) -> Cost:
    """Totals at every reported resolution."""
    per_pixel, bits = sum(r.macs for r in rows), sum(r.bitops for r in rows)
    return Cost(
        parameters=sum(r.parameters for r in rows),
        weight_bytes=sum(math.ceil(math.prod(r.shape) * STORED[r.weight_bits] / 8) for r in rows),
        macs={name: per_pixel * n for name, n in pixels(scale).items()},
        bitops={name: bits * n for name, n in pixels(scale).items()},
        layers=tuple(rows),
    )


def extent(slots: Sequence[Slot], scale: int) -> dict[str, Any]:
    """How many architectures there are, and the costs of the smallest and of the largest."""
    choices = [len(slot.ops) * len(slot.bits) for slot in slots]
    ends = {}
    for name, pick in (("smallest", min), ("largest", max)):
        chosen = {
            slot.name: Choice(pick(slot.ops, key=lambda op: macs(op, slot)), pick(slot.bits))
            for slot in slots
        }
        found = Genotype(name, chosen)
        ends[name] = total(layers(slots, found, searched_precision(found)), scale)
    return {
        "searched_edges": sum(n > 1 for n in choices),
        "architectures": math.prod(choices),
        **ends,
    }


def expected_bitops(supernet: nn.Module) -> Tensor:
    """Per low-resolution pixel, under the supernet's probabilities; differentiable in alpha."""
    parts = []
    for m in edges(supernet).values():
        p, mix = m.alpha_op.softmax(0), m.alpha_bits.softmax(0)
        work = p.new_tensor([macs(op, m.slot) for op in m.slot.ops])
        parts.append((p * work).sum() * (mix * mix.new_tensor(m.slot.bits).square()).sum())
    return sum(parts)  # type: ignore[return-value]
