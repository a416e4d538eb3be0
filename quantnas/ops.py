"""OPS: every operation an edge may hold. To add one: write a function, add a line to OPS.

The nine are those of the published space (arXiv 2208.14839). An operation starts with a
convolution; the activation before it belongs to the skeleton.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from .errors import UsageError
from .space import Slot


class Conv(Protocol):
    """What an operation builds its convolutions with; each filling of the skeleton has its own."""

    def __call__(
        self, c_in: int, c_out: int, kernel: int, groups: int = 1, inner: bool = False
    ) -> nn.Module: ...


class Chain(nn.Sequential):
    """Convolutions one after another; further arguments (the bit mixture) reach each of them."""

    def forward(self, x: Tensor, *mixture: Any) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.ReLU) else layer(x, *mixture)
        return x


def simple(conv: Conv, slot: Slot, kernel: int, groups: int = 1) -> Chain:
    return Chain(conv(slot.c_in, slot.c_out, kernel, groups))


def growth(conv: Conv, slot: Slot, kernel: int) -> Chain:
    first = conv(slot.c_in, slot.c_mid, kernel)
    return Chain(first, nn.ReLU(), conv(slot.c_mid, slot.c_out, kernel, inner=True))


OPS: dict[str, Callable[[Conv, Slot], Chain]] = {
    "conv1x1": partial(simple, kernel=1),
    "conv3x3": partial(simple, kernel=3),
    "conv5x5": partial(simple, kernel=5),
    "conv1x1_groups2": partial(simple, kernel=1, groups=2),
    "conv3x3_groups2": partial(simple, kernel=3, groups=2),
    "conv5x5_groups2": partial(simple, kernel=5, groups=2),
    "growth1x1": partial(growth, kernel=1),
    "growth3x3": partial(growth, kernel=3),
    "growth5x5": partial(growth, kernel=5),
}


def build(name: str, conv: Conv, slot: Slot) -> Chain:
    """The operation `name` between the channels of `slot`.

    Raises UsageError for an unknown name or channels that it cannot join.
    """
    if name not in OPS:
        raise UsageError(
            f"Edge '{slot.name}' names an unknown operation '{name}'.", f"Use {', '.join(OPS)}."
        )
    try:
        return OPS[name](conv, slot)
    except ValueError as error:  # torch: channels not divisible by groups
        raise UsageError(
            f"Edge '{slot.name}' cannot be {name}: {error}.", "Change the space's channels."
        ) from error
