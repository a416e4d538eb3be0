"""Terms of the alphas' loss (entropy, expected BitOps) and the check for a diverged search."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantnas.errors import DivergedError

from . import supernet
from .supernet import choices


def require_finite(value: Tensor, name: str, step: int) -> None:
    """Raise DivergedError for a value () that is NaN or infinite."""
    if not torch.isfinite(value):
        raise DivergedError(
            f"The search diverged: {name} became {value.item()} at step {step}.",
            "Begin again with a smaller search.weight_lr or search.alpha_lr. The last checkpoint "
            "is kept, and intact.",
        )


def entropy(net: nn.Module) -> Tensor:
    """The normalised entropy (): the mean over all choices of entropy / ln(number of pairs)."""
    parts = [a.entropy() / a.most for a in supernet.choices(net).values() if a.learning()]
    return torch.stack(parts).mean() if parts else torch.zeros(())


def entropy_weight(epoch: int, epochs: int, warmup: int) -> float:
    """Weight of the entropy term, which rises from 0 to 1 as in the code of arXiv 2208.14839.

    The weight is always 0 when fewer than two epochs follow the warm-up.
    """
    total, t = epochs - warmup, epoch - warmup
    quiet = total // 4
    if t < quiet or total < 2:
        return 0.0
    return t / (total - 1) * math.log(t - quiet + 2) / math.log(total - quiet + 1)


def expected_bitops(supernet: nn.Module, bitops: Mapping[str, Tensor]) -> Tensor:
    """The expected BitOps () under the supernet's probabilities, differentiable in the alphas.

    bitops: choice -> BitOps of its pairs, (ops, widths) (`cost.choice_bitops`).
    """
    parts = [(a.table() * bitops[name]).sum() for name, a in choices(supernet).items()]
    return torch.stack(parts).sum()
