"""Which slot gets how many bits: the widths within a limit that damage the output least.

The damage is predicted from `saliency`, slot by slot, and summed. `budget` decides operations and
widths near a target; here a limit is kept, whatever it counts.
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
from quantnas.config.genotype import Genotype, kept_precision
from quantnas.config.search_space import Precision, Slot
from quantnas.errors import UsageError
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer

from .saliency import Saliency, predicted

CELLS = 50_000
"""Partial choices that are kept beside each other, about."""

Options = Mapping[str, Sequence[Precision]]
"""Slot name -> the widths to choose from."""
Costs = dict[str, list[int]]
"""Slot name -> the cost of each of its options."""


@dataclass(frozen=True)
class Damage:
    """What rounding one slot alone does to the output of the network."""

    slot: str
    options: tuple[Precision, ...]
    mse: tuple[float, ...]
    """Of every option, the predicted mean squared error of the output; pixels are in [0, 1]."""

    def at(self, width: Precision) -> float:
        """Of the option with that width."""
        return self.mse[self.options.index(width)]


def options(
    slots: Sequence[Slot], widths: Sequence[Precision], ends: int = 8
) -> dict[str, tuple[Precision, ...]]:
    """Slot name -> `widths` for all but those that `genotype.kept_precision` keeps."""
    kept = kept_precision(slots, ends)
    return {s.name: (kept[s.name],) if s.name in kept else tuple(widths) for s in slots}


@torch.no_grad()
def predict(net: nn.Module, found: Saliency, low: Tensor, given: Options) -> dict[str, Damage]:
    """Slot name -> the damage of its options, with grids of least squared error.

    net: the network in float, of which `found` is the saliency; low (N, 3, H, W) in [0, 1]: the
    images whose activations are rounded. 32 bits do no damage.
    """
    convs = convolutions(net.eval())
    owner = {name: name if name in given else name.rpartition(".")[0] for name in convs}
    widths = {name: given[owner[name]] for name in convs}
    acts = {name: {w.activations for w in found} for name, found in widths.items()}
    changes = _input_changes(net, low, acts)
    sums = {slot: np.zeros(len(each)) for slot, each in given.items()}
    for name, conv in convs.items():
        weights = {w.weights: _weight_change(conv.weight, w.weights) for w in widths[name]}
        of_weights = {b: float(predicted(found, {name: d})) for b, d in weights.items()}
        of_inputs = {b: float(predicted(found, {}, {name: d})) for b, d in changes[name].items()}
        each = [of_weights[w.weights] + of_inputs[w.activations] for w in widths[name]]
        sums[owner[name]] += each
    return {s: Damage(s, tuple(given[s]), tuple(map(float, mse))) for s, mse in sums.items()}


def _weight_change(weight: Tensor, bits: int) -> Tensor:
    """What rounding adds to a weight; same shape."""
    if bits == 32:
        return torch.zeros_like(weight)
    grid = WeightQuantizer(bits, len(weight)).to(weight)
    grid.calibrate(weight)
    rounded: Tensor = grid(weight)
    return rounded - weight


def _input_changes(
    net: nn.Module, low: Tensor, widths: Mapping[str, set[int]]
) -> dict[str, dict[int, Tensor]]:
    """Layer name -> bits -> (c_in,), the mean squared change of its input by rounding."""
    found: dict[str, dict[int, Tensor]] = {}

    def keep(conv: Conv2d, args: tuple[Tensor]) -> None:
        each = widths[conv.name]
        found[conv.name] = {bits: _input_change(conv, args[0], bits) for bits in each}

    with hooked(net, keep, before=True):
        net(low)
    return found


def _input_change(conv: Conv2d, x: Tensor, bits: int) -> Tensor:
    """(c_in,), the mean squared change of x (N, c_in, H, W), what the convolution reads.

    Images lie on the grid of pixels. Other grids are signed where x has negative values, and have
    octaves where that is better.
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
    slots: Sequence[Slot], genotype: Genotype, given: Options, scale: int, size: tuple[int, int]
) -> Costs:
    """BitOps of every option for a low-resolution image of that (height, width)."""
    return _costs(slots, genotype, given, lambda rows: cost.bitops_at(rows, size, scale))


def byte_costs(slots: Sequence[Slot], genotype: Genotype, given: Options) -> Costs:
    """Bytes that the weights take in the file; those of 3 bits are stored in 4."""
    return _costs(slots, genotype, given, lambda rows: cost.total(rows, 1).weight_bytes)


def bit_costs(slots: Sequence[Slot], genotype: Genotype, given: Options) -> Costs:
    """Bits of the weights; those of the first and the last slot are free.

    At an average of b bits between them, the limit is b times `inner_weights`.
    """
    found = _costs(slots, genotype, given, _weight_bits)
    for end in (slots[0].name, slots[-1].name):
        found[end] = [0] * len(found[end])
    return found


def inner_weights(slots: Sequence[Slot], genotype: Genotype) -> int:
    """Weights of all slots but the first and the last."""
    return sum(cost.weights(genotype.choices[s.name].op, s) for s in slots[1:-1])


def _weight_bits(rows: Sequence[cost.Layer]) -> int:
    return sum(math.prod(row.shape) * row.weight_bits for row in rows)


def _costs(
    slots: Sequence[Slot],
    genotype: Genotype,
    given: Options,
    count: Callable[[Sequence[cost.Layer]], int],
) -> Costs:
    return {
        s.name: [count(cost.layers([s], genotype, {s.name: w}, 1)) for w in given[s.name]]
        for s in slots
    }


def allocate(
    damage: Mapping[str, Damage], costs: Mapping[str, Sequence[int]], limit: float
) -> dict[str, Precision]:
    """Slot name -> its width: the least sum of damages whose costs sum up to `limit` at most.

    A knapsack solved by dynamic programming over the partial choices that are not beaten in both
    cost and damage. The result is the best one while they are fewer than CELLS; with more of
    them it is no worse than the best within (1 - slots / CELLS) limit. Raises UsageError, naming
    the least cost, when nothing is within the limit.
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
        kept = _unbeaten(total, mse, limit - rest, limit / CELLS)
        total, mse = total[kept], mse[kept]
        trail.append((row, kept))
    at, picks = -1, {}
    for row, kept in reversed(trail):
        at, option = divmod(int(kept[at]), len(row.options))
        picks[row.slot] = row.options[option]
    return dict(reversed(picks.items()))


def _unbeaten(
    total: NDArray[np.int64], mse: NDArray[np.float64], limit: float, cell: float
) -> NDArray[np.intp]:
    """Indices of what nothing beats in both, by rising cost and falling damage.

    Where they are more than CELLS, of those in one cell of the cost the one with the least
    damage, and the cheapest of all.
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
