"""The loss of the search: L1 error, entropy and expected BitOps (arXiv 2208.14839).

The loss of the weights is the L1 error alone. `require_finite` stops a search that has diverged.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def alpha_terms(
    net: nn.Module, low: Tensor, high: Tensor, entropy_share: float, cost: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The terms () whose sum the alphas minimise, by name.

    low (N, 3, H, W) and high (N, 3, scale*H, scale*W) are patches of the alphas' own part.
    entropy_share: coefficient of the entropy, which grows during the search (`entropy_weight`).
    cost: the term of the expected BitOps, a penalty or that of a target (`bitops_budget`).
    """
    error = F.l1_loss(net(low), high)
    return {"L1 of the alphas": error, "entropy": entropy_share * entropy(net), **cost}


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
