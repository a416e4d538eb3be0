"""Supernet: the skeleton with every candidate of every edge alive at once."""

import math
from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops, skeleton
from .conv import SearchConv2d, blur, embed
from .genotype import Choice, Genotype
from .quantizer import ActQuantizer
from .space import SearchSpace, Slot


class MixedOp(nn.Module):
    """gain * sum_o p(o) o(x), the bits of x and of the kernels mixed by p(b): DARTS, 1806.09055.

    x (N, c_in, H, W) -> (N, c_out, H, W). The probabilities of operation and width are
    factorised, so one noise draw serves every candidate. A convolution is linear in its kernel,
    so all single-convolution candidates run as one, their kernels padded to the largest.
    """

    def __init__(self, slot: Slot, source: ActQuantizer) -> None:
        super().__init__()
        self.slot = slot
        conv = partial(SearchConv2d, bits=slot.bits)
        self.ops = nn.ModuleDict({name: ops.build(name, conv, slot) for name in slot.ops})
        narrow = [ActQuantizer(b, source.signed) for b in slot.bits if b < source.bits]
        self._narrow = nn.ModuleList(narrow)
        self._source = (source,)
        start = slot.gain * math.sqrt(2 / 3 * len(slot.ops))  # as if candidates were orthogonal
        self.log_gain = nn.Parameter(torch.full((slot.c_out,), math.log(start)))
        self.alpha_op = nn.Parameter(torch.zeros(len(slot.ops)))
        self.alpha_bits = nn.Parameter(torch.zeros(len(slot.bits)))

    def inputs(self) -> list[ActQuantizer]:
        """The grid of the input for every width of the slot, in order."""
        narrow = iter(self._narrow)
        return [
            self._source[0] if b >= self._source[0].bits else cast(ActQuantizer, next(narrow))
            for b in self.slot.bits
        ]

    def gain(self) -> Tensor:
        """(c_out,), positive; shared by all candidates."""
        return self.log_gain.exp()

    def forward(self, x: Tensor) -> Tensor:
        p, mix = self.alpha_op.softmax(0), self.alpha_bits.softmax(0)
        inputs = self.inputs()
        x = blur(x, inputs, mix, self.training)
        chains = list(zip(p, cast("list[ops.Chain]", list(self.ops.values())), strict=True))
        gain = self.gain()
        out = [
            (weight * gain)[:, None, None] * op(x, inputs, mix)
            for weight, op in chains
            if len(op) > 1
        ]
        single = [(weight, cast(SearchConv2d, op[0])) for weight, op in chains if len(op) == 1]
        if single:
            kernel, bias = merge(single, inputs, mix)
            kernel = kernel * gain[:, None, None, None]
            out.append(F.conv2d(x, kernel, bias * gain, padding=kernel.shape[-1] // 2))
        return torch.stack(out).sum(0) if len(out) > 1 else out[0]


def merge(
    single: list[tuple[Tensor, SearchConv2d]], inputs: list[ActQuantizer], mix: Tensor
) -> tuple[Tensor, Tensor]:
    """One kernel and bias that do what the weighted sum of the convolutions does."""
    size = max(conv.kernel_size[0] for _, conv in single)
    kernels = [p * embed(conv.kernel(mix), size, conv.groups) for p, conv in single]
    biases = [p * conv.rounded_bias(inputs, mix) for p, conv in single]
    return torch.stack(kernels).sum(0), torch.stack(biases).sum(0)


class Carrier(ActQuantizer):
    """The grid of a carried tensor, left out while training.

    8-bit rounding is nothing beside the noise of the edges; a range fitted some steps ago, while
    the features grow or shrink, would stop the training.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else super().forward(x)


class Adq(nn.Module):
    """BN(branch) * (w * std(skip) + c): batch norm that leaves the deviation adaptive.

    After arXiv 2208.14839, with the batch norm behind the branch instead of in front of it:
    there it folds exactly into the last convolution; in front, zero padding would not let it.
    branch, skip (N, C, H, W); the deviation is that of a whole sample.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.w, self.c = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean_std", torch.tensor(1.0))
        self.mean_std: Tensor

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        std = skip.flatten(1).std(1)
        if self.training:
            with torch.no_grad():
                self.mean_std.lerp_(std.mean(), cast(float, self.norm.momentum))
        return cast(Tensor, self.norm(branch)) * (self.w * std + self.c)[:, None, None, None]

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """(factor, shift), each (C,): the branch becomes factor * branch + shift.

        Exact whenever std(skip) equals its mean.
        """
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        deviation = self.w * self.mean_std + self.c
        return gain * deviation, (norm.bias - norm.running_mean * gain) * deviation


class PlainSum(nn.Module):
    """The branch as it is: residuals without normalisation, or with it folded."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch


class Filling:
    """Fills a skeleton with all candidates (`skeleton.Filling`)."""

    def __init__(self, adq: bool) -> None:
        self.adq = adq

    def edge(self, slot: Slot, source: ActQuantizer) -> nn.Module:
        return MixedOp(slot, source)

    def tensor(self, signed: bool = False, step: float | None = None) -> ActQuantizer:
        return Carrier(8, signed, step)

    def residual(self, channels: int) -> nn.Module:
        return Adq(channels) if self.adq else PlainSum()


def build(space: SearchSpace) -> nn.Module:
    """The supernet of a space: (N, 3, H, W) -> (N, 3, scale*H, scale*W)."""
    net = skeleton.build(space, Filling(space.adq))
    for name, parameter in net.named_parameters():
        if name.endswith(("log2_step", "zero")):  # fitted from time to time, not trained
            parameter.requires_grad_(False)
    return net


def edges(supernet: nn.Module) -> dict[str, MixedOp]:
    """Slot name -> its mixed operation."""
    return {m.slot.name: m for m in supernet.modules() if isinstance(m, MixedOp)}


def alphas(supernet: nn.Module) -> list[nn.Parameter]:
    """The architecture parameters of every edge that has a choice."""
    pairs = [(m.alpha_op, m.alpha_bits) for m in edges(supernet).values()]
    return [alpha for pair in pairs for alpha in pair if len(alpha) > 1]


def decide(supernet: nn.Module, space: str) -> Genotype:
    """The most probable operation and width of every edge."""
    choices = {
        name: Choice(m.slot.ops[int(m.alpha_op.argmax())], m.slot.bits[int(m.alpha_bits.argmax())])
        for name, m in edges(supernet).items()
    }
    return Genotype(space, choices)


@torch.no_grad()
def collapse(supernet: nn.Module, genotype: Genotype) -> None:
    """Give all probability to the genotype's choices, in place."""
    for name, m in edges(supernet).items():
        choice = genotype.choices[name]
        for alpha, index in (
            (m.alpha_op, m.slot.ops.index(choice.op)),
            (m.alpha_bits, m.slot.bits.index(choice.bits)),
        ):
            alpha.fill_(-1e9)
            alpha[index] = 0.0


@torch.no_grad()
def settle(supernet: nn.Module, genotype: Genotype, batches: Iterable[Tensor]) -> None:
    """Collapse onto the genotype and average the statistics of ADQ anew, in place.

    batches: low-resolution patches (N, 3, H, W).
    """
    collapse(supernet, genotype)
    supernet.train()
    norms = [m.norm for m in supernet.modules() if isinstance(m, Adq)]
    momenta = [norm.momentum for norm in norms]
    for i, low in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (i + 1)
        supernet(low)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    supernet.eval()
