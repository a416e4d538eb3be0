"""Images as networks from elsewhere take and give them: other ranges, orders of colours, sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from quantnas.config.search_space import Pixels
from quantnas.nn.image_layers import enlarge, luma

WHITE = 255
"""Of bytes."""


def taken(x: Tensor, pixels: Pixels) -> Tensor:
    """x (N, 3, H, W), RGB in [0, 1] -> (N, C, H', W') as the network takes it.

    The last row and the last column are repeated up to a size that it takes. Whole numbers for a
    network that takes uint8, but of the type of x.
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
    """Pixels to add at the left, right, top and bottom."""
    height, width = (_fitting(side, pixels) - side for side in x.shape[2:])
    return 0, width, 0, height


def _fitting(side: int, pixels: Pixels) -> int:
    """The next side that the network takes, pixels."""
    return -(-max(side, pixels.smallest) // pixels.multiple) * pixels.multiple


def given(out: Tensor, x: Tensor, pixels: Pixels, scale: int) -> Tensor:
    """What the network made of `taken(x)` -> (N, 3, scale*H, scale*W), RGB in [0, 1].

    Where that is brightness alone, colours are enlarged bilinearly.
    """
    height, width = (scale * side for side in x.shape[2:])
    out = out[:, :, :height, :width]
    out = out if pixels.output_peak == 1 else out / pixels.output_peak
    if out.shape[1] == 1:
        plain = enlarge(x, scale)
        return plain + (out - luma(plain))
    return out.flip(1) if pixels.order == "BGR" else out


def array(x: Tensor, pixels: Pixels) -> Tensor:
    """`taken(x)` in the type that a file takes."""
    found = taken(x.float(), pixels)
    return found.to(torch.uint8) if pixels.bytes_in else found
