"""The operations that an edge may hold. To add one, write a function and add a line to `OPS`.

They are the operations of the published search spaces (arXiv 2208.14839) and the transposed
convolution of FSRCNN. An operation starts with a convolution; the activation before it belongs to
the macro-architecture. An operation without a convolution returns its input.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from quantnas.config.search_space import Form, Slot

Kernel = int | tuple[int, int] | Form
"""Side or (height, width) of a kernel, or all settings of an imported convolution."""
Shape = tuple[int, int, int, int]
"""(c_out, c_in / groups, height, width) of a kernel."""


class Conv(Protocol):
    """Function that builds the convolutions of an operation; each layer factory has its own.

    inner: whether the convolution reads the output of another one in the same operation. up: factor
    above 1 by which a transposed convolution enlarges.
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
    """Convolutions in sequence; further arguments (the bit mixture) are passed to each of them."""

    def forward(self, x: Tensor, *mixture: Any) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.ReLU) else layer(x, *mixture)
        return x


def simple(conv: Conv, slot: Slot, kernel: Kernel, groups: int = 1) -> Chain:
    """A single convolution."""
    return Chain(conv(slot.c_in, slot.c_out, kernel, groups, slot.stride))


def growth(conv: Conv, slot: Slot, kernel: int) -> Chain:
    """Two convolutions with `slot.c_mid` channels between them."""
    first = conv(slot.c_in, slot.c_mid, kernel)
    return Chain(first, nn.ReLU(), conv(slot.c_mid, slot.c_out, kernel, inner=True))


def factorised(conv: Conv, slot: Slot, kernel: int) -> Chain:
    """A convolution over columns, then one over rows."""
    first = conv(slot.c_in, slot.c_mid, (kernel, 1))
    return Chain(first, nn.ReLU(), conv(slot.c_mid, slot.c_out, (1, kernel), inner=True))


def separable(conv: Conv, slot: Slot, kernel: int) -> Chain:
    """A depthwise convolution, then a 1x1 convolution."""
    first = conv(slot.c_in, slot.c_in, kernel, groups=slot.c_in)
    return Chain(first, nn.ReLU(), conv(slot.c_in, slot.c_out, 1, inner=True))


def transposed(conv: Conv, slot: Slot, kernel: int) -> Chain:
    """A transposed convolution, the last layer of FSRCNN (arXiv 1608.00367)."""
    if slot.up == 1:
        raise ValueError("it enlarges, but this edge does not")
    return Chain(conv(slot.c_in, slot.c_out, kernel, up=slot.up))


def identity(conv: Conv, slot: Slot) -> Chain:
    """No convolution at all; the input is returned."""
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
    """Build the operation `name` for a slot, or the convolution of an imported network's slot.

    Raises ValueError for channels that it cannot join, KeyError for an unknown name.
    """
    return OPS[name](conv, slot) if slot.form is None else stated(conv, slot, slot.form)


def stated(conv: Conv, slot: Slot, form: Form) -> Chain:
    """The convolution of an imported network, with all settings of `form`."""
    if slot.up > 1:
        return Chain(conv(slot.c_in, slot.c_out, form.kernel, up=slot.up))
    return Chain(conv(slot.c_in, slot.c_out, form))


@functools.cache
def shapes(name: str, slot: Slot) -> tuple[Shape, ...]:
    """Shapes of the kernels of the operation `name`, in order, found without building weights.

    Raises as `build`, and ValueError for channels that the groups do not divide.
    """
    kernel_shapes: list[Shape] = []

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
        kernel_shapes.append((c_out // up**2, c_in // groups, height, width))
        return nn.Identity()

    build(name, count, slot)
    return tuple(kernel_shapes)


def sides(kernel: Kernel) -> tuple[int, int]:
    """(height, width) of a kernel."""
    if isinstance(kernel, Form):
        return kernel.kernel
    return (kernel, kernel) if isinstance(kernel, int) else kernel
