"""The supernet's convolution: one kernel under a mixture of bit widths (arXiv 2208.14839)."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.config.search_space import Slot
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer

from .relaxations import Relaxation, rounding


class Mix(NamedTuple):
    """The probabilities of the bit widths of one operation."""

    weights: Tensor
    """Probabilities of the weights' bit widths, (weight widths,)."""
    activations: Tensor
    """Probabilities of the input's bit widths, (input widths,)."""
    share: Tensor
    """Probability of the operation itself, ()."""


class SearchConv2d(Conv2d):
    """A convolution under a mixture of bit widths, relaxed in training, rounded in evaluation.

    Its kernel is normalised per output channel, and the edge holds the gain. Otherwise a
    candidate's weights would grow to make up for a small probability, and the loss could not
    tell candidates apart (DARTS uses batch norms without affine parameters for this).
    """

    def __init__(
        self, *shape: Any, slot: Slot, source: ActQuantizer, relaxation: Relaxation, **kw: Any
    ) -> None:
        super().__init__(*shape, **kw)
        self.relaxation = relaxation
        is_float = slot.weight_bits == (32,)
        weight_bits = () if is_float else slot.weight_bits
        self._weights = nn.ModuleList(WeightQuantizer(b, self.out_channels) for b in weight_bits)
        self.grids: InputGrids | None = None
        """Input grids of this convolution alone; None where the edge's candidates share theirs."""
        if self.inner or not relaxation.merges:
            self.grids = InputGrids(slot.act_bits, source, inner=self.inner)

    @property
    def weight_quantizers(self) -> list[WeightQuantizer]:
        """One quantizer for every bit width of the weights; none in float."""
        return cast("list[WeightQuantizer]", list(self._weights))

    def unit_weight(self) -> Tensor:
        """The weight, scaled to norm 1 in every output channel; same shape."""
        norm = self.weight.flatten(1).norm(dim=1).clamp_min(1e-8)
        return self.weight / norm[:, None, None, None]

    def kernel(self, mix: Mix) -> Tensor:
        """The normalised weight under the mixture of bit widths, in the form that is convolved."""
        view = self.relaxation.view if self.training else rounding
        if not self._weights:
            return self.dense(self.unit_weight())
        return self.dense(view(self.unit_weight(), self.weight_quantizers, mix.weights, mix.share))

    def rounded_bias(self, inputs: Sequence[ActQuantizer], mix: Mix) -> Tensor:
        """The bias (c_out,), in evaluation mode rounded to the int32 grids of all width pairs."""
        assert self.bias is not None
        if self.training or not self._weights:
            return self.repeated(self.bias)
        rounded: Tensor | None = None
        for w, weight_grid in zip(mix.weights, self.weight_quantizers, strict=True):
            for a, grid in zip(mix.activations, inputs, strict=True):
                step = (grid.step * weight_grid.step).flatten()
                part = w * a * (self.bias / step).round() * step
                rounded = part if rounded is None else rounded + part
        assert rounded is not None
        return self.repeated(rounded)

    def forward(self, x: Tensor, inputs: Sequence[ActQuantizer], mix: Mix) -> Tensor:
        """Convolve x (N, c_in, H, W) -> (N, c_out, H', W').

        inputs: grids on which the caller has relaxed x, unless this convolution has its own.
        """
        if self.grids is not None:
            inputs = self.grids.quantizers
            x = see(x, inputs, mix, self.relaxation, self.training)
        return self.apply_kernel(x, self.kernel(mix), self.rounded_bias(inputs, mix))


class InputGrids(nn.Module):
    """One grid for every bit width of an input.

    Bit widths that are not below `source`'s use `source`, the grid on which the tensor is carried.
    """

    def __init__(self, bits: tuple[int, ...], source: ActQuantizer, inner: bool = False) -> None:
        super().__init__()
        self._bits, self._source = bits, (source,)
        own = [b for b in bits if b < 32 and (inner or b < source.bits)]
        signed = False if inner else source.signed
        self.own = nn.ModuleList(ActQuantizer(b, signed) for b in own)
        self._rounds = bits != (32,)

    @property
    def quantizers(self) -> list[ActQuantizer]:
        """The grids in the order of the bit widths; none for a search in float."""
        own = {q.bits: q for q in cast("list[ActQuantizer]", list(self.own))}
        return [own.get(b, self._source[0]) for b in self._bits] if self._rounds else []


def see(
    x: Tensor, inputs: Sequence[ActQuantizer], mix: Mix, relaxation: Relaxation, training: bool
) -> Tensor:
    """Relax x under the mixture of its grids' bit widths; in evaluation, mix its rounded forms."""
    if not inputs:
        return x
    view = relaxation.view if training else rounding
    return view(x, inputs, mix.activations, mix.share)


def embed(kernel: Tensor, size: tuple[int, ...], groups: int = 1) -> Tensor:
    """The dense kernel (c_out, c_in, *size) that is equivalent to `kernel` with `groups`."""
    c_out, per_group, height, width = kernel.shape
    if groups > 1:
        dense = kernel.new_zeros(groups, c_out // groups, groups, per_group, height, width)
        diagonal = range(groups)
        dense[diagonal, :, diagonal] = kernel.view(
            groups, c_out // groups, per_group, height, width
        )
        kernel = dense.view(c_out, groups * per_group, height, width)
    y, x = (size[0] - height) // 2, (size[1] - width) // 2
    return F.pad(kernel, [x, x, y, y]) if x or y else kernel
