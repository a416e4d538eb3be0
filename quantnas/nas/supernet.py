"""The supernet: a macro-architecture in which every edge holds all its candidate operations."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures import registry
from quantnas.config.genotype import Genotype, choice_of
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import SearchSpace, Slot
from quantnas.nn import operations
from quantnas.nn.convolutions import padding, start_as_identity
from quantnas.nn.layer_factory import PlainSum
from quantnas.nn.quantizers import ActQuantizer, FloatTensor

from .adaptive_norm import Adq, PlainNorm
from .alphas import Alphas
from .relaxations import RELAXATIONS, Relaxation
from .search_conv import InputGrids, Mix, SearchConv2d, embed, see


class MixedOp(nn.Module):
    """gain * sum_o p(o) o(x), a mixture of operations under mixed bit widths (arXiv 1806.09055).

    x (N, c_in, H, W) -> (N, c_out, H', W'). Where the relaxation gives all candidates the same
    input, candidates of a single convolution run as one, since a convolution is linear in its
    kernel. Of candidates with several convolutions one is drawn per forward pass, weighted such
    that the expected output is that of all.
    """

    def __init__(
        self, slot: Slot, source: ActQuantizer, alphas: Alphas, config: SearchConfig
    ) -> None:
        super().__init__()
        self.slot, self.alphas, self.config = slot, alphas, config
        self.relaxation = _relaxation(slot, config)
        conv = partial(SearchConv2d, slot=slot, source=source, relaxation=self.relaxation)
        self.ops = nn.ModuleDict({name: operations.build(name, conv, slot) for name in slot.ops})
        self.inputs = InputGrids(slot.act_bits, source)
        start = slot.gain * math.sqrt(2 / 3 * len(slot.ops))  # for orthogonal candidates
        if slot.identity:
            start = slot.gain  # candidates are nearly equal
            start_as_identity(self.ops)
        self.log_gain = nn.Parameter(torch.full((slot.c_out // slot.up**2,), math.log(start)))
        columns = [[w.weights == b for b in slot.weight_bits] for w in slot.bit_widths]
        self.register_buffer("to_weights", torch.tensor(columns).float(), persistent=False)
        columns = [[w.activations == b for b in slot.act_bits] for w in slot.bit_widths]
        self.register_buffer("to_inputs", torch.tensor(columns).float(), persistent=False)
        self.to_weights: Tensor
        self.to_inputs: Tensor

    def gain(self) -> Tensor:
        """Positive factors (c_out,), shared by candidates and by the parts of an enlarged pixel."""
        gain = self.log_gain.exp()
        return gain.repeat_interleave(self.slot.up**2) if self.slot.up > 1 else gain

    def mixtures(self) -> tuple[Tensor, list[Mix]]:
        """Probabilities p (ops,) of the operations, and the mixture of bit widths of each.

        Operations that share their input share the mean of their mixtures for it.
        """
        table = self.alphas.table()
        p = table.sum(1)
        conditional = table / p.clamp_min(1e-30)[:, None]  # p(b | o)
        weights, inputs = conditional @ self.to_weights, conditional @ self.to_inputs
        if self.relaxation.merges:
            inputs = (table.sum(0) @ self.to_inputs).expand_as(inputs)
        return p, [Mix(*row) for row in zip(weights, inputs, p, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        p, mixes = self.mixtures()
        direct = [] if self.slot.residual else self._alive(p)
        parts = [p[i] * x for i in direct if not len(self._chain(i))]  # the identity
        chosen = [(i, p[i]) for i in self._alive(p) if len(self._chain(i))]
        if self.relaxation.merges:
            x = see(x, self.inputs.quantizers, mixes[0], self.relaxation, self.training)
            single = [(i, w) for i, w in chosen if len(self._chain(i)) == 1]
            if single:
                parts.append(self._merged(x, single, mixes))
            chosen = self._drawn([(i, w) for i, w in chosen if len(self._chain(i)) > 1])
        gain = self.gain()
        for i, weight in chosen:
            out = self._chain(i)(x, self.inputs.quantizers, mixes[i])
            parts.append((weight * gain)[:, None, None] * out)
        return _sum(parts) if parts else torch.zeros_like(x)

    def _chain(self, index: int) -> operations.Chain:
        return cast(operations.Chain, self.ops[self.slot.ops[index]])

    def _alive(self, p: Tensor) -> list[int]:
        """Indices of the candidates worth computing: above the floor, or the most probable one."""
        floor = max(self.config.floor, 1e-12) if self.training else 1e-12
        shares = p.tolist()
        return [i for i, share in enumerate(shares) if share >= min(floor, max(shares))]

    def _drawn(self, several: list[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
        """Draw one of the candidates by their probabilities; it gets the weight of all of them."""
        if not (self.training and self.config.draw) or len(several) < 2:
            return several
        shares = torch.tensor([weight.item() for _, weight in several])
        at = int(torch.multinomial(shares, 1))
        index, weight = several[at]
        return [(index, weight * (shares.sum() / shares[at]).item())]

    def _merged(self, x: Tensor, single: list[tuple[int, Tensor]], mixes: list[Mix]) -> Tensor:
        """The weighted sum of single convolutions, computed as one convolution."""
        gain = self.gain()
        convs = [(w * gain, cast(SearchConv2d, self._chain(i)[0]), mixes[i]) for i, w in single]
        kernel, bias = merge(convs, self.inputs.quantizers)
        stride = self.slot.stride
        return F.conv2d(x, kernel, bias, stride, padding(kernel, stride))


def merge(
    single: list[tuple[Tensor, SearchConv2d, Mix]], inputs: list[ActQuantizer]
) -> tuple[Tensor, Tensor]:
    """The dense kernel and the bias that are equivalent to a weighted sum of convolutions.

    single: (weight () or (c_out,), convolution, its mixture). Kernels of one size are summed
    before they are padded.
    """
    sizes: dict[tuple[int, ...], Tensor] = {}
    for weight, conv, mix in single:
        kernel = conv.kernel(mix)
        size = tuple(kernel.shape[-2:])
        part = embed(weight.view(-1, 1, 1, 1) * kernel, size, conv.groups)
        total = sizes.get(size)
        sizes[size] = part if total is None else total + part
    largest = tuple(max(size[d] for size in sizes) for d in (0, 1))
    kernels = [embed(part, (largest[0], largest[1])) for part in sizes.values()]
    biases = [weight * conv.rounded_bias(inputs, mix) for weight, conv, mix in single]
    return _sum(kernels), _sum(biases)


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0) if len(parts) > 2 else reduce(torch.add, parts)


def _relaxation(slot: Slot, config: SearchConfig) -> Relaxation:
    return RELAXATIONS["float" if slot.act_bits == (32,) else config.relaxation]


class Carrier(ActQuantizer):
    """The grid of a tensor carried between edges, which rounds in evaluation mode alone.

    8-bit rounding is negligible beside the noise of the edges, while clipping to a range that was
    fitted some steps ago would stop the training as features grow or shrink.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else super().forward(x)


RESIDUALS: dict[str, Callable[[int], nn.Module]] = {
    "adq": Adq,
    "adadm": partial(Adq, logarithmic=True),
    "batchnorm": PlainNorm,
    "none": lambda channels: PlainSum(),
}
"""Value of `search.deviation` -> function (channels) -> the module that adds a cell to its skip."""


class SupernetFactory:
    """The layer factory that gives every edge all its candidates (`layer_factory.LayerFactory`)."""

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self.tensors = FloatTensor if space.is_float else Carrier
        self.config = config
        self.alphas: dict[str, Alphas] = {}

    def edge(self, slot: Slot, source: ActQuantizer) -> nn.Module:
        joint = self.config.probabilities == "joint"
        new = Alphas(len(slot.ops), len(slot.bit_widths), joint)
        return MixedOp(slot, source, self.alphas.setdefault(slot.choice, new), self.config)

    def tensor(self, signed: bool = False, step: float | None = None) -> ActQuantizer:
        return self.tensors(8, signed, step)

    def free(self, signed: bool = False) -> ActQuantizer:
        return FloatTensor(32, signed)

    def carried(self, name: str, signed: bool = False, step: float | None = None) -> ActQuantizer:
        return self.free(signed)

    def residual(self, channels: int) -> nn.Module:
        return RESIDUALS[self.config.deviation](channels)


def build(space: SearchSpace, config: SearchConfig | None = None) -> nn.Module:
    """The supernet of a space: (N, 3, H, W) -> (N, 3, scale*H, scale*W)."""
    config = config or SearchConfig()
    net = registry.build(space, SupernetFactory(space, config))
    if not RELAXATIONS[config.relaxation].trains_grids:
        for name, parameter in net.named_parameters():
            if name.endswith(("log2_step", "zero")):  # refitted now and then, not trained
                parameter.requires_grad_(False)
    return net


def edges(supernet: nn.Module) -> dict[str, MixedOp]:
    """Map slot names to their mixed operations."""
    return {m.slot.name: m for m in supernet.modules() if isinstance(m, MixedOp)}


def choices(supernet: nn.Module) -> dict[str, Alphas]:
    """Map every choice to its alphas; slots that are decided together are one choice."""
    return {m.slot.choice: m.alphas for m in edges(supernet).values()}


def alphas(supernet: nn.Module) -> list[nn.Parameter]:
    """The architecture parameters of all choices with more than one option."""
    return [alpha for a in choices(supernet).values() for alpha in a.learning()]


def all_alphas(supernet: nn.Module) -> list[nn.Parameter]:
    """All architecture parameters, those of choices with a single option included."""
    return [alpha for a in choices(supernet).values() for alpha in a.parameters()]


def decide(
    supernet: nn.Module, space: str, picks: Mapping[str, tuple[int, int]] | None = None
) -> Genotype:
    """The genotype of the most probable pairs of operation and bit width, or of those in `picks`.

    space: name of the search space; picks: choice -> indices of operation and bit width.
    """
    if picks is None:
        picks = {name: a.best() for name, a in choices(supernet).items()}
    chosen = {n: choice_of(m.slot, *picks[m.slot.choice]) for n, m in edges(supernet).items()}
    return Genotype(space, chosen)


@torch.no_grad()
def collapse(supernet: nn.Module, genotype: Genotype) -> None:
    """Give all probability to the genotype's choices, in place."""
    for name, m in edges(supernet).items():
        choice = genotype.choices[name]
        m.alphas.collapse(m.slot.ops.index(choice.op), m.slot.bit_widths.index(choice.precision))


@torch.no_grad()
def settle(supernet: nn.Module, genotype: Genotype, batches: Iterable[Tensor]) -> None:
    """Collapse the supernet onto a genotype and re-estimate the statistics of ADQ, in place.

    batches: low-resolution patches (N, 3, H, W), over which the statistics are averaged.
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
