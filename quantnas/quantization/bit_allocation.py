"""Mixed-precision bit allocation: the bit widths within a limit that damage the output least.

The damage is predicted from the saliency, slot by slot, and summed. The limit may count BitOps,
bytes or bits. (`nas.bitops_budget` decides operations and bit widths near a target of BitOps.)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantnas.architectures import cost
from quantnas.architectures.network import convolutions, hooked
from quantnas.config.genotype import Genotype, end_names, kept_precision
from quantnas.config.search_space import Precision, Slot
from quantnas.errors import UsageError
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer

from .saliency import Saliency, predicted_error

CELLS = 50_000
"""Approximate number of partial choices that are kept at once."""

Options = Mapping[str, Sequence[Precision]]
"""Slot name -> the pairs of bit widths to choose from."""
Costs = dict[str, list[int]]
"""Slot name -> the cost of each of its options."""


@dataclass(frozen=True)
class Damage:
    """The damage that rounding one slot alone does to the output of the network."""

    slot: str
    options: tuple[Precision, ...]
    mse: tuple[float, ...]
    """Predicted mean squared error of the output for every option; pixels are in [0, 1]."""

    def at(self, precision: Precision) -> float:
        """The predicted mean squared error of one option."""
        return self.mse[self.options.index(precision)]


def options(
    slots: Sequence[Slot], precisions: Sequence[Precision], ends: int = 8
) -> dict[str, tuple[Precision, ...]]:
    """Map slot names to `precisions`, or to the only one that `genotype.kept_precision` keeps."""
    kept = kept_precision(slots, ends)
    return {s.name: (kept[s.name],) if s.name in kept else tuple(precisions) for s in slots}


@torch.no_grad()
def predict(net: nn.Module, saliency: Saliency, low: Tensor, options: Options) -> dict[str, Damage]:
    """Predict the damage of every slot's options, with grids of least squared error.

    net: the network in float; saliency: that of this network; low (N, 3, H, W) in [0, 1]: the
    calibration images whose activations are rounded. 32 bits do no damage.
    """
    convs = convolutions(net.eval())
    owner = {name: name if name in options else name.rpartition(".")[0] for name in convs}
    precisions = {name: options[owner[name]] for name in convs}
    act_bits = {name: {p.activations for p in each} for name, each in precisions.items()}
    input_changes = _input_changes(net, low, act_bits)
    sums = {slot: np.zeros(len(each)) for slot, each in options.items()}
    for name, conv in convs.items():
        changes = {p.weights: _weight_change(conv.weight, p.weights) for p in precisions[name]}
        by_weights = {b: float(predicted_error(saliency, {name: d})) for b, d in changes.items()}
        by_inputs = {
            b: float(predicted_error(saliency, {}, {name: d}))
            for b, d in input_changes[name].items()
        }
        mse = [by_weights[p.weights] + by_inputs[p.activations] for p in precisions[name]]
        sums[owner[name]] += mse
    return {s: Damage(s, tuple(options[s]), tuple(map(float, mse))) for s, mse in sums.items()}


def _weight_change(weight: Tensor, bits: int) -> Tensor:
    """The change of a weight by rounding it to `bits` bits; same shape."""
    if bits == 32:
        return torch.zeros_like(weight)
    grid = WeightQuantizer(bits, len(weight)).to(weight)
    grid.calibrate(weight)
    rounded: Tensor = grid(weight)
    return rounded - weight


def _input_changes(
    net: nn.Module, low: Tensor, act_bits: Mapping[str, set[int]]
) -> dict[str, dict[int, Tensor]]:
    """Map layer names and bits to (c_in,), the mean squared change of the input by rounding."""
    changes: dict[str, dict[int, Tensor]] = {}

    def keep(conv: Conv2d, args: tuple[Tensor]) -> None:
        each = act_bits[conv.name]
        changes[conv.name] = {bits: _input_change(conv, args[0], bits) for bits in each}

    with hooked(net, keep, before=True):
        net(low)
    return changes


def _input_change(conv: Conv2d, x: Tensor, bits: int) -> Tensor:
    """The mean squared change (c_in,) of a convolution's input x (N, c_in, H, W) by rounding.

    The best of several grids counts. At 8 bits one of them is the grid of pixels, for images; the
    others are signed where x has negative values, one with octaves and one without.
    """
    if bits == 32:
        return x.new_zeros(x.shape[1])
    gains, signed = conv.input_gains(), bool((x < 0).any())
    grids = [ActQuantizer(bits, signed), ActQuantizer(bits, signed, channels=x.shape[1])]
    if bits == 8:
        grids.append(ActQuantizer(8, step=1 / 255))
    changes = []
    for grid in grids:
        grid.to(x).spread(x, gains)
        grid.calibrate(x)
        changes.append((grid(x) - x).square().mean((0, 2, 3)))
    return min(changes, key=lambda change: float((change * gains).sum()))


def bitops_costs(
    slots: Sequence[Slot], genotype: Genotype, options: Options, scale: int, size: tuple[int, int]
) -> Costs:
    """BitOps of every option for a low-resolution image of `size` (height, width)."""
    return _costs(slots, genotype, options, lambda rows: cost.bitops_at(rows, size, scale))


def byte_costs(slots: Sequence[Slot], genotype: Genotype, options: Options) -> Costs:
    """Bytes that every option's weights take in the file; 3-bit weights are stored in 4 bits."""
    return _costs(slots, genotype, options, lambda rows: cost.total(rows, 1).weight_bytes)


def bit_costs(slots: Sequence[Slot], genotype: Genotype, options: Options) -> Costs:
    """Bits of every option's weights, where the slots at the ends cost nothing.

    For an average of b bits per weight, the limit is b times `inner_weights`.
    """
    costs = _costs(slots, genotype, options, _weight_bits)
    for end in end_names(slots):
        costs[end] = [0] * len(costs[end])
    return costs


def inner_weights(slots: Sequence[Slot], genotype: Genotype) -> int:
    """Number of weights in all slots but those at the ends; a shared kernel counts once."""
    ends = end_names(slots)
    inner = [s for s in slots if s.name not in ends and not s.kernel]
    return sum(cost.weights(genotype.choices[s.name].op, s) for s in inner)


def _weight_bits(rows: Sequence[cost.Layer]) -> int:
    return sum(math.prod(row.shape) * row.weight_bits for row in rows if row.parameters)


def _costs(
    slots: Sequence[Slot],
    genotype: Genotype,
    options: Options,
    count: Callable[[Sequence[cost.Layer]], int],
) -> Costs:
    return {
        s.name: [count(cost.layers([s], genotype, {s.name: p}, 1)) for p in options[s.name]]
        for s in slots
    }


def allocate_slots(
    slots: Sequence[Slot], damage: Mapping[str, Damage], costs: Costs, limit: float
) -> dict[str, Precision]:
    """Choose one option per slot as `allocate` does; slots with the same kernel get the same one.

    Raises UsageError as `allocate`.
    """
    firsts = {slot.name: slot.kernel or slot.name for slot in slots}
    rows: dict[str, Damage] = {}
    sums: dict[str, list[int]] = {}
    for name, first in firsts.items():
        row, counts = damage[name], costs[name]
        if first in rows:
            both = zip(rows[first].mse, row.mse, strict=True)
            row = Damage(first, row.options, tuple(a + b for a, b in both))
            counts = [a + b for a, b in zip(sums[first], counts, strict=True)]
        rows[first], sums[first] = row, counts
    chosen = allocate(rows, sums, limit)
    return {name: chosen[first] for name, first in firsts.items()}


def allocate(
    damage: Mapping[str, Damage], costs: Mapping[str, Sequence[int]], limit: float
) -> dict[str, Precision]:
    """Choose one option per slot: the least sum of damages whose costs sum to `limit` at most.

    The knapsack is solved by dynamic programming over the partial choices that are not dominated
    in cost and damage. The result is optimal while they are fewer than CELLS; with more of them it
    is no worse than the best one within (1 - slots / CELLS) limit. Raises UsageError, with the
    least possible cost, when no choice is within the limit.
    """
    rest = sum(min(costs[name]) for name in damage)
    if rest > limit:
        raise UsageError(
            f"No choice of bits is within {limit:,.12g}.", f"The nearest one comes to {rest:,}."
        )
    total, mse = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[Damage, NDArray[np.intp]]] = []
    for name, row in damage.items():
        rest -= min(costs[name])
        total = np.add.outer(total, np.asarray(costs[name], np.int64)).ravel()
        mse = np.add.outer(mse, np.asarray(row.mse)).ravel()
        kept = _pareto_front(total, mse, limit - rest, limit / CELLS)
        total, mse = total[kept], mse[kept]
        trail.append((row, kept))
    at, picks = -1, {}
    for row, kept in reversed(trail):
        at, option = divmod(int(kept[at]), len(row.options))
        picks[row.slot] = row.options[option]
    return dict(reversed(picks.items()))


def _pareto_front(
    total: NDArray[np.int64], mse: NDArray[np.float64], limit: float, cell: float
) -> NDArray[np.intp]:
    """Indices of the Pareto front within the limit, by rising cost and falling damage.

    With more than CELLS of them, each cell of the cost keeps the one with the least damage; the
    cheapest of all is kept as well.
    """
    order = np.lexsort((mse, total))
    order = order[total[order] <= limit]
    falling = mse[order]
    better = np.append(True, falling[1:] < np.minimum.accumulate(falling)[:-1])
    order = order[better]
    if len(order) > CELLS:
        cells = np.floor(total[order] / cell)
        last = np.append(cells[1:] != cells[:-1], True)
        last[0] = True
        order = order[last]
    return order
