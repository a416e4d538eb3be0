"""Ranges of activations, from whole photographs.

A forward pass is cheap beside least squares and retraining, which see crops of some photographs. So
the ranges of 8-bit grids come from many whole ones: crops lack saturated colours, lights at night
and text, and a grid without room for them turns them into blocks of a wrong colour. Below 8 bits
the crops decide, as fine steps are worth more than rare values there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from quantnas.architectures.network import convolutions
from quantnas.errors import DataError
from quantnas.nn.convolutions import Conv2d, QuantConv2d
from quantnas.nn.quantizers import ActQuantizer, FloatTensor


def grids(net: nn.Module) -> dict[str, ActQuantizer]:
    """Name of each tensor that is rounded on a grid which is fitted -> the grid.

    A tensor that one convolution alone rounds has the name of that layer.
    """
    convs = convolutions(net).items()
    layers = {c.input_quantizer: name for name, c in convs if isinstance(c, QuantConv2d)}
    return {
        layers.get(module, path): module
        for path, module in net.named_modules()
        if isinstance(module, ActQuantizer) and not isinstance(module, FloatTensor)
        if not module.fixed
    }


@torch.no_grad()
def measure(net: nn.Module, photographs: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """Widen the reach of every grid of a rounded network by what its tensor has on photographs.

    The network computes in float. net: with the weights of the float network; its grids need not be
    fitted. photographs: each (1, 3, H, W) in [0, 1]. Yields (done, all) of them. Raises DataError,
    naming the layer, where a tensor is NaN or infinite.
    """
    net.eval()
    names = {grid: name for name, grid in grids(net).items()}

    def widen(grid: ActQuantizer, x: Tensor) -> Tensor:
        low, high = grid.ends(x)
        if not (low.isfinite().all() and high.isfinite().all()):
            raise DataError(
                f"Layer '{names[grid]}' reads NaN or infinite values for a photograph.",
                "The weights before it are too large: train the network again, or use others.",
            )
        grid.reach = low, high
        return x

    for done, photograph in enumerate(photographs):
        yield done, len(photographs)
        with _in_float(net, widen):
            net(photograph)
    yield len(photographs), len(photographs)


@contextmanager
def _in_float(net: nn.Module, see: Callable[[ActQuantizer, Tensor], Tensor]) -> Iterator[None]:
    """While open, a rounded network computes in float; `see` is called in place of its grids.

    Fixed grids do nothing.
    """
    fitted, changed = set(grids(net).values()), list[nn.Module]()
    try:
        for module in net.modules():
            if isinstance(module, QuantConv2d):
                own: Callable[..., Tensor] = partial(_convolve, module)
            elif isinstance(module, ActQuantizer):
                own = partial(see, module) if module in fitted else _same
            else:
                continue
            module.forward = own  # type: ignore[method-assign]
            changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _same(x: Tensor) -> Tensor:
    return x


def _convolve(conv: QuantConv2d, x: Tensor) -> Tensor:
    """The output of a convolution in float, whose input quantizer sees its input."""
    return Conv2d.forward(conv, x if conv.input_quantizer is None else conv.input_quantizer(x))


@dataclass(frozen=True)
class Cut:
    """The values of a tensor that lie beyond the ends of its grid."""

    tensor: str
    bits: int
    share: float
    """Share of all values of the tensor."""


@torch.no_grad()
def cut(net: nn.Module, photographs: Sequence[Tensor]) -> list[Cut]:
    """What every grid of a finished network cuts of its tensor, the largest share first.

    photographs: each (1, 3, H, W) in [0, 1].
    """
    named = grids(net)
    beyond, seen = dict.fromkeys(named, 0), dict.fromkeys(named, 0)

    def count(name: str, grid: ActQuantizer, args: tuple[Tensor]) -> None:
        (lo, hi), f = grid.bounds(), grid.factors
        t = args[0] / (grid.step if f is None else grid.step * f)
        beyond[name] += int(((t < lo - 0.5) | (t > hi + 0.5)).sum())
        seen[name] += t.numel()

    hooks = [grid.register_forward_pre_hook(partial(count, name)) for name, grid in named.items()]
    try:
        for photograph in photographs:
            net.eval()(photograph)
    finally:
        for hook in hooks:
            hook.remove()
    rows = [Cut(name, grid.bits, beyond[name] / max(1, seen[name])) for name, grid in named.items()]
    return sorted(rows, key=lambda row: -row.share)
