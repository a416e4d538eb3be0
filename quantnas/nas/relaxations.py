"""RELAXATIONS: how a tensor looks while the widths of bits are still a mixture.

All end in the same rounded network; they differ in what training sees before. When evaluating,
every one is the mixture of the roundings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer
from quantnas.training import collectives

Quantizer = ActQuantizer | WeightQuantizer
View = Callable[[Tensor, Sequence[Quantizer], Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Relaxation:
    """How widths are mixed while training."""

    view: View
    """(t, one quantizer per width, mix (widths,) summing to one, share ()) -> t as it is seen.

    `share` is the probability of the operation that reads t.
    """
    merges: bool
    """Whether all candidates of an edge see the same input: single convolutions then run as one."""
    trains_grids: bool
    """Whether steps and zero points learn by gradient; else they are fitted from time to time."""


def noise(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, share: Tensor) -> Tensor:
    """t clipped to the mean range, plus one uniform draw with the mixture's rounding error.

    The variance is sum_b mix_b step_b^2 / 12 (after arXiv 2208.14839, with the signal's gradient
    kept and the clipping of the real quantizer); its cost does not grow with the widths.
    """
    with torch.no_grad():
        steps = torch.stack([q.step for q in quantizers])
        ends = [q.bounds() for q in quantizers]
        lows = torch.stack([lo for lo, _ in ends]) * steps
        highs = torch.stack([hi for _, hi in ends]) * steps
    low, high = _weighted(mix, lows), _weighted(mix, highs)
    deviation = _weighted(mix, steps.square()).sqrt()
    uniform = collectives.rand_like(t, _batched(quantizers)).sub_(0.5)
    return torch.addcmul(torch.clamp(t, low, high), uniform, deviation)


def rounding(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, share: Tensor) -> Tensor:
    """The mixture of the roundings, sum_b mix_b Q_b(t), with the gradients of LSQ: EdMIPS style."""
    return _weighted(mix, torch.stack([q(t) for q in quantizers]))


def authors(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, share: Tensor) -> Tensor:
    """What the published code of arXiv 2208.14839 does, its oddities included.

    f t + sum_b c_b N_b(t) with f = 1 / (widths + 1), c_b = p_b / (share + f), p_b = share mix_b,
    and N_b(t) = t + range(t) / (2^b - 1) eps / 2, eps normal, *detached*: signal and weights get
    gradients through f alone, and the gain f + share / (share + f) is not one.
    """
    f = 1 / (len(quantizers) + 1)
    batched = _batched(quantizers)
    spread = (
        collectives.largest(t.max()) + collectives.largest(-t.min())
        if batched
        else t.max() - t.min()
    )
    out = f * t
    for p, q in zip(mix, quantizers, strict=True):
        noisy = t + spread / (2**q.bits - 1) * 0.5 * collectives.randn_like(t, batched)
        out = out + share * p / (share + f) * noisy.detach()
    return out


def plain(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, share: Tensor) -> Tensor:
    """t as it is: a search in float."""
    return t


def _batched(quantizers: Sequence[Quantizer]) -> bool:
    """Whether they are of an activation, whose rows may be shared out among processes."""
    return isinstance(quantizers[0], ActQuantizer)


def _weighted(mix: Tensor, parts: Tensor) -> Tensor:
    """sum_b mix_b parts_b; parts (widths, ...) -> (...)."""
    return (mix @ parts.flatten(1)).view(parts.shape[1:]) if parts.dim() > 1 else mix @ parts


RELAXATIONS: dict[str, Relaxation] = {
    "noise": Relaxation(noise, merges=True, trains_grids=False),
    "direct": Relaxation(rounding, merges=False, trains_grids=True),
    "authors": Relaxation(authors, merges=False, trains_grids=False),
    "float": Relaxation(plain, merges=True, trains_grids=False),
}
"""Name -> how widths are mixed; "float" is taken by itself for spaces in float."""
