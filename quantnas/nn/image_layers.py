"""Input view and upscaled base of a super-resolution network that predicts the missing detail."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quantnas.config.search_space import SearchSpace

from .layer_factory import LayerFactory
from .quantizers import ActQuantizer

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma of BT.601, for pixels in [0, 1], in full range."""

fx.wrap("luma")  # makes each function a single node in traces
fx.wrap("enlarge")


def luma(x: Tensor) -> Tensor:
    """Luma of an RGB image: x (N, 3, H, W) -> (N, 1, H, W), both in [0, 1]."""
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def enlarge(x: Tensor, scale: int) -> Tensor:
    """Bilinear enlargement: x (N, C, H, W) -> (N, C, scale*H, scale*W)."""
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


class InputView(nn.Module):
    """Input of a network: x (N, 3, H, W) in [0, 1] -> (pixels, features that the network reads).

    The features are the pixels themselves or, if the search space has one colour, their luma.
    """

    def __init__(self, space: SearchSpace, factory: LayerFactory) -> None:
        super().__init__()
        self.image = factory.tensor(step=1 / 255)
        self.luma = factory.tensor(step=1 / 255) if space.colours == 1 else None

    @property
    def seen(self) -> ActQuantizer:
        """The grid of the features that the network reads."""
        return self.luma or self.image

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.image(x)
        return x, x if self.luma is None else self.luma(luma(x))


class Correction(nn.Module):
    """Output of a network: (pixels, detail) -> enlarged pixels + detail (N, 3, scale*H, scale*W).

    pixels (N, 3, H, W) and detail (N, colours * scale^2, H, W) lie on grids. With three colours,
    every pixel is repeated scale^2 times and the detail is added. With one colour, the pixels are
    enlarged bilinearly and the detail is added to all three channels, which corrects the luma and
    leaves the differences between colours as they are.
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
