"""The convolutions of the house: one for searching over bits, one with bits decided, one in float.

All are built by operations through the same call `conv(c_in, c_out, kernel, groups, inner)`;
`inner` marks a convolution that reads the output of another one inside the same operation.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .genotype import Precision
from .quantizer import ActQuantizer, WeightQuantizer, round_ste

Quantizer = ActQuantizer | WeightQuantizer


class Conv2d(nn.Conv2d):
    """A stride-1 convolution with zero padding that keeps the size; kernel (k, k), k odd."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, groups: int = 1, inner: bool = False
    ) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2, groups=groups)
        self.inner = inner
        self.name = ""


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
            signed = source.signed and not self.inner
            self.input_quantizer = ActQuantizer(precision.activations, signed)
        self._source = (source,)  # a tuple, so that it is not registered as a submodule

    @property
    def grid(self) -> ActQuantizer:
        """The quantizer on whose grid the input of the convolution itself lies."""
        return self.input_quantizer or self._source[0]

    def bias_step(self) -> Tensor:
        """(c_out,), the value of one unit of the int32 accumulator."""
        return (self.grid.step * self.weight_quantizer.step).flatten()

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        weight = self.weight_quantizer(self.weight)
        step = self.bias_step()
        assert self.bias is not None
        bias = round_ste(self.bias / step) * step
        return F.conv2d(x, weight, bias, padding=self.padding, groups=self.groups)


class SearchConv2d(Conv2d):
    """Conv under a mixture of bit widths: noise while training, rounding when evaluating.

    Its kernel is normalised per output channel; the gain belongs to the edge. Otherwise a
    candidate's weights would grow to make up for a small probability, and the loss could not
    tell candidates apart (batch norm without affine parameters does this in DARTS).
    """

    def __init__(self, *shape: Any, bits: tuple[int, ...], **kw: Any) -> None:
        super().__init__(*shape, **kw)
        self._weights = nn.ModuleList(WeightQuantizer(b, self.out_channels) for b in bits)
        self._inputs = nn.ModuleList(ActQuantizer(b) for b in bits if self.inner)

    @property
    def weight_quantizers(self) -> list[WeightQuantizer]:
        """One for every width."""
        return cast("list[WeightQuantizer]", list(self._weights))

    @property
    def input_quantizers(self) -> list[ActQuantizer]:
        """One for every width of an inner convolution; none for others."""
        return cast("list[ActQuantizer]", list(self._inputs))

    def unit_weight(self) -> Tensor:
        """The weight with norm 1 in every output channel."""
        norm = self.weight.flatten(1).norm(dim=1).clamp_min(1e-8)
        return self.weight / norm[:, None, None, None]

    def kernel(self, mix: Tensor) -> Tensor:
        """The normalised weight as the mixture (len(bits),) of widths sees it."""
        return blur(self.unit_weight(), self.weight_quantizers, mix, self.training)

    def rounded_bias(self, inputs: Sequence[ActQuantizer], mix: Tensor) -> Tensor:
        """(c_out,); rounded to the int32 grid of every width when evaluating."""
        assert self.bias is not None
        if self.training:
            return self.bias
        steps = [
            (x.step * w.step).flatten() for x, w in zip(inputs, self.weight_quantizers, strict=True)
        ]
        rounded = [(self.bias / s).round() * s for s in steps]
        return _mixture(mix, rounded)

    def forward(self, x: Tensor, inputs: Sequence[ActQuantizer], mix: Tensor) -> Tensor:
        """x (N, c_in, H, W), blurred by the caller on `inputs` unless this is an inner conv."""
        if self.inner:
            inputs = self.input_quantizers
            x = blur(x, inputs, mix, self.training)
        bias = self.rounded_bias(inputs, mix)
        return F.conv2d(x, self.kernel(mix), bias, padding=self.padding, groups=self.groups)


def blur(t: Tensor, quantizers: Sequence[Quantizer], mix: Tensor, training: bool) -> Tensor:
    """t as a mixture of bit widths sees it, `mix` (len(quantizers),) summing to one.

    Training: t clipped to the mean range, plus one uniform draw with the variance of the
    mixture's rounding error, sum_b mix_b step_b^2 / 12 (after arXiv 2208.14839, with the signal's
    gradient kept and the clipping of the real quantizer). Else: the mixture of the roundings.
    """
    if not training:
        return _mixture(mix, [q(t) for q in quantizers])
    steps = [q.step for q in quantizers]
    ends = [q.bounds() for q in quantizers]
    low = _mixture(mix, [lo * step for (lo, _), step in zip(ends, steps, strict=True)])
    high = _mixture(mix, [hi * step for (_, hi), step in zip(ends, steps, strict=True)])
    deviation = _mixture(mix, [step.square() for step in steps]).sqrt()
    clipped = torch.maximum(torch.minimum(t, high), low)
    return torch.addcmul(clipped, torch.rand_like(t) - 0.5, deviation)


def _mixture(mix: Tensor, parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([p * part for p, part in zip(mix, parts, strict=True)]).sum(0)


def embed(kernel: Tensor, size: int, groups: int) -> Tensor:
    """Dense (c_out, c_in, size, size) kernel that does what `kernel` does with `groups`."""
    c_out, per_group, k, _ = kernel.shape
    if groups > 1:
        blocks = kernel.view(groups, c_out // groups, per_group, k, k).permute(1, 2, 3, 4, 0)
        diagonal = torch.diag_embed(blocks).permute(4, 0, 5, 1, 2, 3)  # group, out, group, in, k, k
        kernel = diagonal.reshape(c_out, groups * per_group, k, k)
    return F.pad(kernel, [(size - k) // 2] * 4)
