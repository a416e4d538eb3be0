"""Conversion of RGB in [0, 1] to an imported network's range, channel order and size, and back."""

import torch.nn.functional as F
from torch import Tensor

from quantnas.config.search_space import Pixels
from quantnas.nn.image_layers import enlarge, luma

WHITE = 255
"""Value of white in bytes."""


def taken(x: Tensor, pixels: Pixels) -> Tensor:
    """Convert x (N, 3, H, W), RGB in [0, 1], to the input (N, C, H', W') of an imported network.

    The last row and column are repeated up to a size that the network takes. For a network that
    takes uint8 the values are whole numbers, but still of the type of x.
    """
    x = extended(x, pixels)
    if pixels.order == "Y":
        x = luma(x)
    elif pixels.order == "BGR":
        x = x.flip(1)
    if pixels.bytes_in:
        return (x * WHITE).round()
    return x if pixels.input_peak == 1 else x * pixels.input_peak


def extended(x: Tensor, pixels: Pixels) -> Tensor:
    """Repeat the edges of x (N, C, H, W): by the border that is lost, and up to a size that fits.

    The size that the network takes is reached at the right and at the bottom.
    """
    border = pixels.border
    height, width = (_fitting(x, axis, pixels) - x.shape[axis] - border for axis in (2, 3))
    return F.pad(x, (border, width, border, height), mode="replicate")


def _fitting(x: Tensor, axis: int, pixels: Pixels) -> int:
    """The smallest side, at least that of x with its borders, that the network takes, pixels."""
    side = x.shape[axis] + 2 * pixels.border
    return max(side, pixels.only[axis - 2]) if pixels.only is not None else fitting(side, pixels)


def fitting(side: int, pixels: Pixels) -> int:
    """The smallest side, at least `side`, that a network for many sizes takes, pixels."""
    return -(-max(side, pixels.smallest) // pixels.multiple) * pixels.multiple


def cut(out: Tensor, x: Tensor, pixels: Pixels, scale: int) -> Tensor:
    """Cut the part of an output that belongs to x (N, C, H, W) -> (N, C', scale*H, scale*W).

    out: output of the network for `extended(x)`; pixels that it lacks are those of the border.
    """
    cuts = []
    for axis in (2, 3):
        side, large = x.shape[axis], out.shape[axis]
        lost = scale * _fitting(x, axis, pixels) - large
        first = scale * pixels.border - lost // 2
        cuts.append(slice(first, first + scale * side))
    return out[:, :, cuts[0], cuts[1]]


def given(out: Tensor, x: Tensor, pixels: Pixels, scale: int) -> Tensor:
    """Convert the output of an imported network to (N, 3, scale*H, scale*W), RGB in [0, 1].

    out: output of the network for `taken(x)`, with x (N, 3, H, W). If it is luma alone, the
    colours of x are enlarged bilinearly.
    """
    out = cut(out, x, pixels, scale)
    out = out if pixels.output_peak == 1 else out / pixels.output_peak
    if out.shape[1] == 1:
        plain = enlarge(x, scale)
        return plain + (out - luma(plain))
    return out.flip(1) if pixels.order == "BGR" else out
