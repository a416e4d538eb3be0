"""OPS: every operation an edge may hold. To add one: write a function, add a line to OPS.

They are those of the published spaces (arXiv 2208.14839), and what ends FSRCNN. An operation
starts with a convolution; the activation before it belongs to the skeleton. One without any
convolution hands its input on.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from quantnas.config.search_space import Form, Slot

Kernel = int | tuple[int, int] | Form
"""Height and width; a form says all else too."""
Shape = tuple[int, int, int, int]


class Conv(Protocol):
    """What an operation builds its convolutions with; each layer factory has its own.

    `inner` marks a convolution that reads the output of another one inside the same operation.
    """

    def __call__(
        self,
        c_in: int,
        c_out: int,
        kernel: Kernel,
        groups: int = 1,
        stride: int = 1,
        inner: bool = False,
        up: int = 1,
    ) -> nn.Module: ...


class Chain(nn.Sequential):
    """Convolutions one after another; further arguments (the bit mixture) reach each of them."""

    def forward(self, x: Tensor, *mixture: Any) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.ReLU) else layer(x, *mixture)
        return x


def simple(conv: Conv, slot: Slot, kernel: Kernel, groups: int = 1) -> Chain:
    return Chain(conv(slot.c_in, slot.c_out, kernel, groups, slot.stride))


def growth(conv: Conv, slot: Slot, kernel: int) -> Chain:
    first = conv(slot.c_in, slot.c_mid, kernel)
    return Chain(first, nn.ReLU(), conv(slot.c_mid, slot.c_out, kernel, inner=True))


def factorised(conv: Conv, slot: Slot, kernel: int) -> Chain:
    """A column, then a row."""
    first = conv(slot.c_in, slot.c_mid, (kernel, 1))
    return Chain(first, nn.ReLU(), conv(slot.c_mid, slot.c_out, (1, kernel), inner=True))


def separable(conv: Conv, slot: Slot, kernel: int) -> Chain:
    """Every channel by itself, then all of them pixel by pixel."""
    first = conv(slot.c_in, slot.c_in, kernel, groups=slot.c_in)
    return Chain(first, nn.ReLU(), conv(slot.c_in, slot.c_out, 1, inner=True))


def transposed(conv: Conv, slot: Slot, kernel: int) -> Chain:
    """What ends FSRCNN (arXiv 1608.00367)."""
    if slot.up == 1:
        raise ValueError("it enlarges, and this edge does not")
    return Chain(conv(slot.c_in, slot.c_out, kernel, up=slot.up))


def identity(conv: Conv, slot: Slot) -> Chain:
    if slot.c_in != slot.c_out:
        raise ValueError(f"it cannot turn {slot.c_in} channels into {slot.c_out}")
    return Chain()


OPS: dict[str, Callable[[Conv, Slot], Chain]] = {
    "conv1x1": partial(simple, kernel=1),
    "conv3x3": partial(simple, kernel=3),
    "conv5x5": partial(simple, kernel=5),
    "conv1x1_groups2": partial(simple, kernel=1, groups=2),
    "conv3x3_groups2": partial(simple, kernel=3, groups=2),
    "conv5x5_groups2": partial(simple, kernel=5, groups=2),
    "conv3x3_groups3": partial(simple, kernel=3, groups=3),
    "conv5x5_groups3": partial(simple, kernel=5, groups=3),
    "growth1x1": partial(growth, kernel=1),
    "growth3x3": partial(growth, kernel=3),
    "growth5x5": partial(growth, kernel=5),
    "factorised3x3": partial(factorised, kernel=3),
    "factorised5x5": partial(factorised, kernel=5),
    "separable3x3": partial(separable, kernel=3),
    "separable5x5": partial(separable, kernel=5),
    "transposed9x9": partial(transposed, kernel=9),
    "identity": identity,
}


def build(name: str, conv: Conv, slot: Slot) -> Chain:
    """The operation `name` between the channels of `slot`, or the one that the slot states in full.

    Raises ValueError for channels that it cannot join, KeyError for an unknown name.
    """
    return OPS[name](conv, slot) if slot.form is None else stated(conv, slot, slot.form)


def stated(conv: Conv, slot: Slot, form: Form) -> Chain:
    """The convolution of a network from elsewhere."""
    if slot.up > 1:
        return Chain(conv(slot.c_in, slot.c_out, form.kernel, up=slot.up))
    return Chain(conv(slot.c_in, slot.c_out, form))


@functools.cache
def shapes(name: str, slot: Slot) -> tuple[Shape, ...]:
    """(c_out, c_in / groups, height, width) of the kernels of an operation.

    Found by building it with a convolution that only counts. Raises as `build`.
    """
    found: list[Shape] = []

    def count(
        c_in: int,
        c_out: int,
        kernel: Kernel,
        groups: int = 1,
        stride: int = 1,
        inner: bool = False,
        up: int = 1,
    ) -> nn.Module:
        groups = kernel.groups if isinstance(kernel, Form) else groups
        if c_in % groups or c_out % groups:
            raise ValueError(f"{c_in} -> {c_out} channels are not divisible by {groups} groups")
        height, width = sides(kernel)
        found.append((c_out // up**2, c_in // groups, height, width))
        return nn.Identity()

    build(name, count, slot)
    return tuple(found)


def sides(kernel: Kernel) -> tuple[int, int]:
    """(height, width) of a kernel."""
    if isinstance(kernel, Form):
        return kernel.kernel
    return (kernel, kernel) if isinstance(kernel, int) else kernel
