"""Conversion of RGB in [0, 1] to an imported network's range, channel order and size, and back."""

import torch
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
    x = F.pad(x, _lacking(x, pixels), mode="replicate")
    if pixels.order == "Y":
        x = luma(x)
    elif pixels.order == "BGR":
        x = x.flip(1)
    if pixels.bytes_in:
        return (x * WHITE).round()
    return x if pixels.input_peak == 1 else x * pixels.input_peak


def _lacking(x: Tensor, pixels: Pixels) -> tuple[int, int, int, int]:
    """Padding at the left, right, top and bottom up to a size that the network takes, pixels."""
    height, width = (_fitting(side, pixels) - side for side in x.shape[2:])
    return 0, width, 0, height


def _fitting(side: int, pixels: Pixels) -> int:
    """The smallest side, at least `side`, that the network takes, pixels."""
    return -(-max(side, pixels.smallest) // pixels.multiple) * pixels.multiple


def given(out: Tensor, x: Tensor, pixels: Pixels, scale: int) -> Tensor:
    """Convert the output of an imported network to (N, 3, scale*H, scale*W), RGB in [0, 1].

    out: output of the network for `taken(x)`, with x (N, 3, H, W). If it is luma alone, the
    colours of x are enlarged bilinearly.
    """
    height, width = (scale * side for side in x.shape[2:])
    out = out[:, :, :height, :width]
    out = out if pixels.output_peak == 1 else out / pixels.output_peak
    if out.shape[1] == 1:
        plain = enlarge(x, scale)
        return plain + (out - luma(plain))
    return out.flip(1) if pixels.order == "BGR" else out


def array(x: Tensor, pixels: Pixels) -> Tensor:
    """Convert x as `taken` does, and to the element type of the file's input."""
    image = taken(x.float(), pixels)
    return image.to(torch.uint8) if pixels.bytes_in else image
