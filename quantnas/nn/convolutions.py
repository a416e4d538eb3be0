"""The convolutions of the house: one for searching over bits, one with bits decided, one in float.

All are built by operations through the same call, `operations.Conv`.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.config.search_space import Form, Precision

from .operations import Kernel, sides
from .quantizers import ActQuantizer, WeightQuantizer, round_ste


class Conv2d(nn.Conv2d):
    """A convolution with zero padding that keeps the size (odd kernels); strided, it has none.

    With `up` it is a transposed convolution of that stride, computed as the convolution to up^2
    times as many channels that a pixel shuffle turns into the same (arXiv 1609.07009). A form
    for a kernel gives strides, padding and dilation too.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Kernel,
        groups: int = 1,
        stride: int = 1,
        inner: bool = False,
        up: int = 1,
    ) -> None:
        form = kernel if isinstance(kernel, Form) else Form(sides(kernel), groups, (stride, stride))
        more = {"dilation": form.dilation, "groups": form.groups}
        super().__init__(c_in, c_out // up**2, form.kernel, form.stride, **more)  # type: ignore[arg-type]
        self.inner, self.up = inner, up
        self.form = form if form is kernel else None
        self.name = ""

    def dense(self, weight: Tensor) -> Tensor:
        """The kernel that runs: `weight`, or its parts behind each other where it enlarges."""
        return subpixel(weight, self.up) if self.up > 1 else weight

    def repeated(self, values: Tensor) -> Tensor:
        """(channels of the weight,) -> (channels of the output,)"""
        return values.repeat_interleave(self.up**2) if self.up > 1 else values

    def input_gains(self) -> Tensor:
        """(c_in,), squared norms of the weights that read a channel."""
        squares = self.weight.detach().square().sum((2, 3))
        return squares.unflatten(0, (self.groups, -1)).sum(1).flatten()

    def apply_kernel(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """This convolution with other numbers in it."""
        pads = self.pads(kernel)
        return F.conv2d(x, kernel, bias, self.stride, pads, self.dilation, self.groups)

    def pads(self, kernel: Tensor) -> tuple[int, int]:
        """Zeros above and below, left and right; kernel: the one that runs."""
        return self.form.pads if self.form else padding(kernel, self.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return self.apply_kernel(x, self.dense(self.weight), self.repeated(self.bias))


def padding(kernel: Tensor, stride: int) -> tuple[int, int]:
    """Zeros above and below, left and right, of a convolution with that kernel."""
    height, width = kernel.shape[-2:]
    return (height // 2, width // 2) if stride == 1 else (0, 0)


def subpixel(weight: Tensor, up: int) -> Tensor:
    """Kernel (c, c_in, k, k) of a transposed convolution -> (c * up^2, c_in, l, l) of its parts.

    A pixel shuffle behind gives what conv_transpose2d gives with stride `up`, a padding of
    p = (k - up + 1) // 2 and an output padding of up + 2p - k. Taps that a part lacks are 0.
    """
    c, c_in, side, _ = weight.shape
    inset = (side - up + 1) // 2
    reach = max((side - 1 - inset) // up, (up - 1 + inset) // up)
    offset = torch.arange(-reach, reach + 1, device=weight.device)
    tap = torch.arange(up, device=weight.device)[:, None] + inset - up * offset
    tap = torch.where((tap >= 0) & (tap < side), tap, side)  # (up, l); the last one is 0
    parts = F.pad(weight, (0, 1, 0, 1))[:, :, tap[:, None, :, None], tap[None, :, None, :]]
    return parts.permute(0, 2, 3, 1, 4, 5).reshape(c * up**2, c_in, len(offset), len(offset))


@torch.no_grad()
def start_as_identity(op: nn.Module) -> None:
    """Set the kernels of an operation to the identity plus half of what they were, biases to 0.

    So do the convolutions of QuickSRNet (arXiv 2303.04336) begin.
    """
    for conv in op.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == conv.out_channels:
            centre = nn.init.dirac_(torch.empty_like(conv.weight), conv.groups)
            conv.weight.mul_(0.5).add_(centre)
            conv.bias.zero_()  # type: ignore[union-attr]


class QuantConv2d(Conv2d):
    """Conv with rounded weights, input and bias.

    The input is on the grid of `source` already; it is rounded again only when this convolution
    wants fewer bits than it is carried in, or when it is an inner one. The bias is rounded to
    the grid of an int32 accumulator, step_x * step_w, as integer runtimes do.
    """

    def __init__(self, *shape: Any, precision: Precision, source: ActQuantizer, **kw: Any) -> None:
        super().__init__(*shape, **kw)
        self.precision = precision
        self.weight_quantizer = WeightQuantizer(precision.weights, self.out_channels)
        self.input_quantizer: ActQuantizer | None = None
        if self.inner or precision.activations < source.bits:
            signed = False if self.inner else source.signed
            self.input_quantizer = ActQuantizer(
                precision.activations, signed, channels=self.in_channels
            )
        self._source = (source,)  # a tuple, so that it is not registered as a submodule

    @property
    def source(self) -> ActQuantizer:
        """The grid on which its input is carried."""
        return self._source[0]

    @property
    def grid(self) -> ActQuantizer:
        """The quantizer on whose grid the input of the convolution itself lies."""
        return self.input_quantizer or self._source[0]

    def factors(self) -> Tensor | None:
        """Like the weight but for its outputs: by what the input's grid is coarser, per channel."""
        f = None if self.input_quantizer is None else self.input_quantizer.factors
        if f is None:
            return None
        rows = f.flatten().view(self.groups, -1)
        return rows.repeat_interleave(len(self.weight) // self.groups, 0)[:, :, None, None]

    def rounded_weight(self) -> Tensor:
        """The weight on its grid, which belongs to the weight times the factors of the input."""
        f = self.factors()
        if f is None:
            return cast(Tensor, self.weight_quantizer(self.weight))
        return cast(Tensor, self.weight_quantizer(self.weight * f) / f)

    @torch.no_grad()
    def integers(self) -> tuple[Tensor, Tensor]:
        """(q, zero points) of the weight that runs in integers, as `WeightQuantizer.integers`."""
        f = self.factors()
        return self.weight_quantizer.integers(self.weight if f is None else self.weight * f)

    @torch.no_grad()
    def spread(self, x: Tensor) -> None:
        """Choose the octaves of its own grid, if it has one, for the input x (N, c_in, H, W)."""
        if self.input_quantizer is not None:
            self.input_quantizer.spread(x, self.input_gains())

    def bias_step(self) -> Tensor:
        """(c_out,), the value of one unit of the int32 accumulator."""
        return (self.grid.step * self.weight_quantizer.step).flatten()

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        step = self.bias_step()
        assert self.bias is not None
        bias = round_ste(self.bias / step) * step
        kernel = self.dense(self.rounded_weight())
        return self.apply_kernel(x, kernel, self.repeated(bias))
