"""Terms of the alphas' loss beside the task: entropy and its schedule; and what is no number."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantnas.errors import DivergedError

from . import supernet
from .supernet import choices


def require_finite(value: Tensor, name: str, step: int) -> None:
    """Raise DivergedError for an infinite number or none."""
    if not torch.isfinite(value):
        raise DivergedError(
            f"The search diverged: {name} became {value.item()} at step {step}.",
            "Begin again with a smaller search.weight_lr or search.alpha_lr. A state saved before "
            "is kept, and sound.",
        )


def entropy(net: nn.Module) -> Tensor:
    """(), mean over all choices of entropy / ln(number of pairs); stable near one-hot."""
    parts = [a.entropy() / a.most for a in supernet.choices(net).values() if a.learning()]
    return torch.stack(parts).mean() if parts else torch.zeros(())


def entropy_weight(epoch: int, epochs: int, warmup: int) -> float:
    """The published schedule of the entropy term, from 0 to 1 (code of arXiv 2208.14839).

    0 throughout when fewer than two epochs follow the warm-up.
    """
    total, t = epochs - warmup, epoch - warmup
    quiet = total // 4
    if t < quiet or total < 2:
        return 0.0
    return t / (total - 1) * math.log(t - quiet + 2) / math.log(total - quiet + 1)


def expected_bitops(supernet: nn.Module, bitops: Mapping[str, Tensor]) -> Tensor:
    """() under the supernet's probabilities, of `choice_bitops`; differentiable in the alphas."""
    parts = [(a.table() * bitops[name]).sum() for name, a in choices(supernet).items()]
    return torch.stack(parts).sum()
