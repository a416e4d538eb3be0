"""The two ends of a network that corrects an enlarged image: what it sees, what it adds to."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quantnas.config.search_space import SearchSpace

from .layer_factory import LayerFactory
from .quantizers import ActQuantizer

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue, in BT.601: for pixels in [0, 1] the studio range is left out."""

fx.wrap("luma")  # one node of a trace each
fx.wrap("enlarge")


def luma(x: Tensor) -> Tensor:
    """x (N, 3, H, W), RGB -> (N, 1, H, W), both in [0, 1]."""
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def enlarge(x: Tensor, scale: int) -> Tensor:
    """x (N, C, H, W) -> (N, C, scale*H, scale*W), bilinear."""
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


class InputView(nn.Module):
    """x (N, 3, H, W) in [0, 1] -> (pixels, what the network reads of them).

    The latter is the pixels themselves or, where the space has one colour, their luma.
    """

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.image = factory.tensor(step=1 / 255)
        self.luma = factory.tensor(step=1 / 255) if space.colours == 1 else None

    @property
    def seen(self) -> ActQuantizer:
        """The grid of what the network reads."""
        return self.luma or self.image

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.image(x)
        return x, x if self.luma is None else self.luma(luma(x))


class Correction(nn.Module):
    """(pixels, detail) -> the enlarged pixels plus the detail: (N, 3, scale*H, scale*W).

    pixels (N, 3, H, W) and detail (N, colours * scale^2, H, W) lie on grids. Three colours: every
    pixel is repeated and corrected. One: the colours are enlarged bilinearly, and the detail of
    the luma is added to all three alike, which changes luma by it and colour differences not at
    all.
    """

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.scale, self.colours = space.scale, space.colours
        self.pixels = factory.tensor(step=1 / 255)

    def forward(self, x: Tensor, detail: Tensor) -> Tensor:
        if self.colours == 1:
            return self.pixels(enlarge(x, self.scale) + F.pixel_shuffle(detail, self.scale))
        nearest = torch.repeat_interleave(x, self.scale**2, dim=1)
        return F.pixel_shuffle(self.pixels(nearest + detail), self.scale)
