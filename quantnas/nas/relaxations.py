"""Continuous relaxations of the bit-width choice (RELAXATIONS).

A relaxation replaces a tensor while its bit width is still a mixture. All of them lead to the same
rounded network and differ only while training; in evaluation mode each one is the mixture of the
rounded tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer
from quantnas.training import collectives

Quantizer = ActQuantizer | WeightQuantizer
"""The grid of an activation or of a weight."""
View = Callable[[Tensor, Sequence[Quantizer], Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Relaxation:
    """A mixture of the bit widths of a tensor while training."""

    view: View
    """Function (t, one quantizer per bit width, mix (widths,), share ()) -> relaxed t, same shape.

    mix: probabilities of the bit widths; share: probability of the operation that reads t.
    """
    merges: bool
    """Whether all candidates of an edge read the same input, so that single convolutions merge."""
    trains_grids: bool
    """Whether steps and zero points learn by gradient; else they are refitted now and then."""


def noise(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, share: Tensor) -> Tensor:
    """Clip t to the mean range of the grids and add uniform noise as large as the rounding error.

    The variance is sum_b mix_b step_b^2 / 12 (after arXiv 2208.14839, but with the signal's
    gradient and the real quantizer's clipping); the cost does not grow with the number of widths.
    """
    with torch.no_grad():
        steps = torch.stack([q.step for q in quantizers])
        bounds = [q.bounds() for q in quantizers]
        lows = torch.stack([lo for lo, _ in bounds]) * steps
        highs = torch.stack([hi for _, hi in bounds]) * steps
    low, high = _weighted(mix, lows), _weighted(mix, highs)
    deviation = _weighted(mix, steps.square()).sqrt()
    uniform = collectives.rand_like(t, _batched(quantizers)).sub_(0.5)
    return torch.addcmul(torch.clamp(t, low, high), uniform, deviation)


def rounding(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, share: Tensor) -> Tensor:
    """Mix the rounded tensors, sum_b mix_b Q_b(t), with the gradients of LSQ, as EdMIPS does."""
    return _weighted(mix, torch.stack([q(t) for q in quantizers]))


def authors(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, share: Tensor) -> Tensor:
    """Add noise as the published code of arXiv 2208.14839 does, its oddities included.

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
    """Return t itself: a search in float has no bit widths to choose."""
    return t


def _batched(quantizers: Sequence[Quantizer]) -> bool:
    """Whether the grids are an activation's, whose rows may be shared among processes."""
    return isinstance(quantizers[0], ActQuantizer)


def _weighted(mix: Tensor, parts: Tensor) -> Tensor:
    """The weighted sum over bit widths, sum_b mix_b parts_b; parts (widths, ...) -> (...)."""
    return (mix @ parts.flatten(1)).view(parts.shape[1:]) if parts.dim() > 1 else mix @ parts


RELAXATIONS: dict[str, Relaxation] = {
    "noise": Relaxation(noise, merges=True, trains_grids=False),
    "direct": Relaxation(rounding, merges=False, trains_grids=True),
    "authors": Relaxation(authors, merges=False, trains_grids=False),
    "float": Relaxation(plain, merges=True, trains_grids=False),
}
"""Value of `search.relaxation` -> relaxation; a space in float always uses "float"."""
