"""Convolutions in float and with rounded weights, built through the interface `operations.Conv`.

The convolution of a search, over a mixture of bit widths, is `quantnas.nas.search_conv`.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.config.search_space import Form, Precision

from .operations import Kernel, sides
from .quantizers import ActQuantizer, WeightQuantizer, round_ste


class Conv2d(nn.Conv2d):
    """A convolution with zero padding that keeps the size (odd kernels); strided, without padding.

    With `up` > 1 it is a transposed convolution of that stride. It is computed as an ordinary
    convolution to up^2 times as many channels, which a following pixel shuffle turns into the same
    image (arXiv 1609.07009). A `Form` as the kernel sets stride, padding and dilation too.
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
        self.inset: int | None = None
        """Pixels that a transposed convolution cuts off at each end of a side; None = as in FSRCNN
        with the least output padding (`inset_of`)."""
        self.name = ""
        self.shares = ""
        """Name of an earlier convolution that has the same kernel in its file; mostly none."""

    def dense(self, weight: Tensor) -> Tensor:
        """The kernel that is computed: `weight`, or its subpixel parts where `up` > 1."""
        return subpixel(weight, self.up, self.inset) if self.up > 1 else weight

    def repeated(self, values: Tensor) -> Tensor:
        """Repeat values, one per channel of the weight, for the output: (n,) -> (n * up^2,)."""
        return values.repeat_interleave(self.up**2) if self.up > 1 else values

    def input_gains(self) -> Tensor:
        """Squared norm of the weights that read each input channel, (c_in,)."""
        squares = self.weight.detach().square().sum((2, 3))
        return squares.unflatten(0, (self.groups, -1)).sum(1).flatten()

    def apply_kernel(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """Apply the convolution to x with another kernel and bias than its own."""
        pads = self.pads(kernel)
        return F.conv2d(x, kernel, bias, self.stride, pads, self.dilation, self.groups)

    def pads(self, kernel: Tensor) -> tuple[int, int]:
        """Padding (vertical, horizontal) for the kernel that is computed, pixels at each end."""
        return self.form.pads if self.form else padding(kernel, self.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return self.apply_kernel(x, self.dense(self.weight), self.repeated(self.bias))


def padding(kernel: Tensor, stride: int) -> tuple[int, int]:
    """Padding (vertical, horizontal) that keeps the size for a kernel (..., h, w).

    With a stride it is 0.
    """
    height, width = kernel.shape[-2:]
    return (height // 2, width // 2) if stride == 1 else (0, 0)


def inset_of(side: int, up: int) -> int:
    """The padding of a transposed convolution of this stride that needs the least at its output."""
    return (side - up + 1) // 2


def subpixel(weight: Tensor, up: int, inset: int | None = None) -> Tensor:
    """Split the kernel (c, c_in, k, k) of a transposed convolution into parts (c*up^2, c_in, l, l).

    A convolution with the parts and a pixel shuffle after it compute what conv_transpose2d
    computes with stride `up`, a padding of p = `inset`, or else `inset_of` k, and an output padding
    of up + 2p - k. Taps that a part lacks are 0.
    """
    c, c_in, side, _ = weight.shape
    inset = inset_of(side, up) if inset is None else inset
    reach = max((side - 1 - inset) // up, (up - 1 + inset) // up)
    offset = torch.arange(-reach, reach + 1, device=weight.device)
    tap = torch.arange(up, device=weight.device)[:, None] + inset - up * offset
    tap = torch.where((tap >= 0) & (tap < side), tap, side)  # (up, l); tap `side` is padded with 0
    parts = F.pad(weight, (0, 1, 0, 1))[:, :, tap[:, None, :, None], tap[None, :, None, :]]
    return parts.permute(0, 2, 3, 1, 4, 5).reshape(c * up**2, c_in, len(offset), len(offset))


@torch.no_grad()
def start_as_identity(op: nn.Module) -> None:
    """Set the kernels of an operation to the identity plus half of themselves, the biases to 0.

    This is the initialisation of QuickSRNet (arXiv 2303.04336).
    """
    for conv in op.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == conv.out_channels:
            centre = nn.init.dirac_(torch.empty_like(conv.weight), conv.groups)
            conv.weight.mul_(0.5).add_(centre)
            conv.bias.zero_()  # type: ignore[union-attr]


class QuantConv2d(Conv2d):
    """A convolution with rounded weights, input and bias.

    The input lies on the grid of `source` already; it is rounded again only when the activation
    bit width is below that of `source`, or when the convolution is an inner one of its operation.
    As in integer runtimes, the bias is rounded to the grid of the int32 accumulator,
    step_x * step_w.
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
        """The quantizer on whose grid the input arrives."""
        return self._source[0]

    @property
    def grid(self) -> ActQuantizer:
        """The quantizer on whose grid the convolution reads its input."""
        return self.input_quantizer or self._source[0]

    def factors(self) -> Tensor | None:
        """Factors of the input channels' steps, broadcast to the weight; None without octaves."""
        f = None if self.input_quantizer is None else self.input_quantizer.factors
        if f is None:
            return None
        rows = f.flatten().view(self.groups, -1)
        return rows.repeat_interleave(len(self.weight) // self.groups, 0)[:, :, None, None]

    def rounded_weight(self) -> Tensor:
        """The weight rounded to its grid, which is that of the weight times `factors`."""
        f = self.factors()
        if f is None:
            return cast(Tensor, self.weight_quantizer(self.weight))
        return cast(Tensor, self.weight_quantizer(self.weight * f) / f)

    @torch.no_grad()
    def integers(self) -> tuple[Tensor, Tensor]:
        """Integers and zero points of the weight times `factors`, as `WeightQuantizer.integers`."""
        f = self.factors()
        return self.weight_quantizer.integers(self.weight if f is None else self.weight * f)

    @torch.no_grad()
    def spread(self, x: Tensor) -> None:
        """Choose the octaves of the input quantizer, if there is one, for x (N, c_in, H, W)."""
        if self.input_quantizer is not None:
            self.input_quantizer.spread(x, self.input_gains())

    def bias_step(self) -> Tensor:
        """Value of one unit of the int32 accumulator, (c_out,)."""
        return (self.grid.step * self.weight_quantizer.step).flatten()

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        step = self.bias_step()
        assert self.bias is not None
        bias = round_ste(self.bias / step) * step
        kernel = self.dense(self.rounded_weight())
        return self.apply_kernel(x, kernel, self.repeated(bias))
