"""Equalisation: channels of carried tensors are brought to ranges that one step fits.

A tensor that is carried in 8 bits has one step for all channels, because a runtime adds tensors in
integers only so. When channels have different ranges, the narrow ones lose most of their levels. So
convolutions divide their output channels by factors, and those that read them multiply by the same:
the network computes the same, and the tensors between have other ranges. This is the equalisation
across layers of arXiv 1906.04721 for graphs with sums, products and concatenations. The factors are
those with the least predicted error of the output, from all rounded tensors and kernels together.
"""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from quantnas.architectures.imported_onnx import ImportedNetwork, convolution_of
from quantnas.config.search_space import Precision
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.quantizers import OCTAVES
from quantnas.nn.tracing import Watched, shapes_for, watch
from quantnas.onnx_import import pixel_conversion
from quantnas.onnx_import.graph_builder import TENSOR

from .channel_classes import FIXED, Channels, channel_classes

STEPS, RATE = 60, 0.2
"""Number of updates of the factors, and their size in octaves."""
IMAGES = 4
"""Number of images that are run at once."""
SAME = 1e-3
"""Largest difference of outputs in [0, 1] that arithmetic in float makes."""
SPACES = 255
"""Number of steps between the lowest and the highest of 8 bits."""


@torch.no_grad()
def equalise(
    network: ImportedNetwork,
    names: Collection[str],
    bits: Mapping[str, Precision],
    low: Tensor,
    photographs: Sequence[Tensor] = (),
) -> dict[str, float]:
    """Equalise the channels of an imported network, in place; its function stays the same.

    network: in float; names: tensors of the file that are carried in 8 bits; bits: layer -> its bit
    widths; low: calibration crops (N, 3, H, W) in [0, 1]; photographs: more images (1, 3, H, W),
    for ranges alone. Returns tensor of `names` -> predicted mean squared error of the output, in
    [0, 1], from its rounding.
    """
    nodes = network.inner.graph.nodes
    convs = {n: c for n in nodes if (c := convolution_of(network.inner, n)) is not None}
    carried = {n: n.meta[TENSOR] for n in nodes if n.meta.get(TENSOR) in names}
    read: set[Any] = {n.args[0] for n in convs}
    image = pixel_conversion.taken(low[:1], network.pixels)
    channels = channel_classes(network.inner, shapes_for(network.inner, image))
    known = _Known({node for node, ones in channels.items() if any(ones)})
    _observe(network, {*carried, *read, *convs}, low, known)
    for photograph in photographs:
        watch(network.inner, pixel_conversion.taken(photograph, network.pixels), known.widen)
    rounded = [n for n in nodes if n in known.gains and (n in carried or n in read)]
    tensors = _Tensors.of(rounded, channels, known)
    kernels = _Kernels.of(convs, channels, known, bits)
    count = 1 + max(max(c, default=0) for c in channels.values())
    factors, before = _best([tensors, kernels], count), network(low[:IMAGES])
    plain = copy.deepcopy(network.state_dict())
    for node, conv in convs.items():
        x: Any = node.args[0]
        if x in known.images or node in known.images:
            read_as = channels.get(x, [FIXED] * conv.in_channels)
            _rescale(conv, factors[read_as], factors[channels[node]])
    if not torch.allclose(network(low[:IMAGES]), before, rtol=0, atol=SAME):
        network.load_state_dict(plain)  # a function in between does not commute with factors
        factors = torch.ones(count)
    errors = (tensors.errors(factors) / network.pixels.output_peak**2).tolist()
    return {carried[n]: e for n, e in zip(rounded, errors, strict=True) if n in carried}


# What calibration images tell


@dataclass(frozen=True)
class _Known:
    """What is known about tensors: of each channel that may have a factor, (C,), or of all, (1,).

    The others may have any shape, such as that of images with their channels last.
    """

    images: set[fx.Node]
    """Tensors (N, C, H, W) of which each channel is looked at by itself."""
    highs: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Largest values, at least 0."""
    lows: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Smallest values, at most 0."""
    powers: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Mean squares."""
    gains: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Squared error of the output per squared error of the values."""

    def classes(self, node: fx.Node, channels: Channels) -> Tensor:
        """The classes of what is known about a tensor."""
        return torch.tensor(channels[node] if node in self.images else [FIXED])

    def _over(self, node: fx.Node, value: Tensor) -> tuple[int, ...]:
        return (0, 2, 3) if node in self.images else tuple(range(value.dim()))

    def add(self, node: fx.Node, value: Tensor, slope: Tensor, weight: float) -> None:
        """Take in a tensor, and the gradient of the output's sum with random signs."""
        over = self._over(node, value)
        power, gain = value.square().mean(over).view(-1), slope.square().sum(over).view(-1)
        self.powers[node] = self.powers.get(node, torch.zeros(())) + weight * power
        self.gains[node] = self.gains.get(node, torch.zeros(())) + gain
        self.widen(node, value)

    def widen(self, node: fx.Node, value: Tensor) -> None:
        """Take in the extremes of a tensor alone, if it was added before."""
        if node not in self.gains:
            return
        over = self._over(node, value)
        high, low = value.amax(over).view(-1).clamp_min(0), value.amin(over).view(-1).clamp_max(0)
        self.highs[node] = torch.maximum(self.highs.get(node, high), high)
        self.lows[node] = torch.minimum(self.lows.get(node, low), low)


@torch.enable_grad()
def _observe(
    network: ImportedNetwork, wanted: Collection[fx.Node], low: Tensor, known: _Known
) -> None:
    generator, count = torch.Generator().manual_seed(0), 0
    for images in low.split(IMAGES):
        seen = dict[fx.Node, Tensor]()

        def see(node: fx.Node, value: Tensor, seen: dict[fx.Node, Tensor] = seen) -> None:
            if node in wanted and value.requires_grad:
                seen[node] = value

        x = pixel_conversion.taken(images.clone().requires_grad_(), network.pixels)
        out = Watched(network.inner, see).run(x)
        signs = torch.randint(2, out.shape, generator=generator).to(out) * 2 - 1
        slopes = torch.autograd.grad(out, list(seen.values()), signs, allow_unused=True)
        for (node, value), slope in zip(seen.items(), slopes, strict=True):
            if slope is not None:
                known.add(node, value.detach(), slope, len(images) / len(low))
        count += out.numel()
    for gain in known.gains.values():
        gain /= count


# Errors that factors lead to


@dataclass(frozen=True)
class _Tensors:
    """Tensors that are rounded to one grid each; every field is (tensors, channels) and padded."""

    classes: Tensor
    highs: Tensor
    lows: Tensor
    gains: Tensor

    @classmethod
    def of(cls, nodes: Sequence[fx.Node], channels: Channels, known: _Known) -> "_Tensors":
        fields = [[known.classes(n, channels) for n in nodes]]
        fields += [[each[n] for n in nodes] for each in (known.highs, known.lows, known.gains)]
        return cls(*map(_padded, fields))

    def errors(self, factors: Tensor) -> Tensor:
        """Mean squared error of the output from the rounding of each tensor, (tensors,)."""
        f = factors[self.classes]
        step = (_largest(self.highs / f) + _largest(-self.lows / f)) / SPACES
        return step.square() / 12 * (self.gains * f.square()).sum(1)


@dataclass(frozen=True)
class _Kernels:
    """Rows of kernels that have one step each; fields are (rows, channels) but for `gains`."""

    classes: Tensor
    steps: Tensor
    """Step of the row if its largest weight were that which reads this channel."""
    powers: Tensor
    """Sum of the mean squares that the weights of the row meet in each channel."""
    gains: Tensor
    """Squared error of the output per squared error of the row's output, (rows,)."""

    @classmethod
    def of(
        cls,
        convs: Mapping[fx.Node, Conv2d],
        channels: Channels,
        known: _Known,
        bits: Mapping[str, Precision],
    ) -> "_Kernels":
        rows = [
            row
            for node, conv in convs.items()
            if node in known.gains and node.args[0] in known.powers
            for row in _rows(node, conv, channels, known, bits[conv.name].weights)
        ]
        classes, steps, powers = (_padded([row[k] for row in rows]) for k in (0, 1, 2))
        return cls(classes, steps, powers, torch.stack([row[3] for row in rows]))

    def errors(self, factors: Tensor) -> Tensor:
        """Mean squared error of the output from the rounding of each row, (rows,)."""
        f = factors[self.classes]
        step = _largest(self.steps * f)
        return self.gains * step.square() / 12 * (self.powers / f.square()).sum(1)


Row = tuple[Tensor, Tensor, Tensor, Tensor]


def _rows(
    node: fx.Node, conv: Conv2d, channels: Channels, known: _Known, bits: int
) -> Iterator[Row]:
    x: Any = node.args[0]
    kernel, groups = conv.weight.detach(), conv.groups
    most = kernel.abs().amax((2, 3)) * 2 / (2**bits - 1)
    count = len(kernel)
    gains = known.gains[node]
    gains = gains.view(count, -1).sum(1) if len(gains) >= count else gains.expand(count) / count
    classes = known.classes(x, channels).expand(conv.in_channels).view(groups, -1)
    powers = known.powers[x].expand(conv.in_channels).view(groups, -1) * kernel[0, 0].numel()
    for k, (row, gain) in enumerate(zip(most, gains, strict=True)):
        group = k * groups // count
        yield classes[group], row, powers[group], gain


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as one tensor, filled up with zeros."""
    if not rows:
        return torch.zeros(0, 1, dtype=torch.long)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _largest(x: Tensor) -> Tensor:
    """A smooth maximum over the last dimension of x, which is not negative."""
    most = x.detach().amax(-1, keepdim=True).clamp_min(1e-30)
    power = (x / most).square().square().square()
    return (power.sum(-1) + 1e-9).pow(1 / 8) * most[..., 0]


def _best(parts: Sequence[_Tensors | _Kernels], count: int) -> Tensor:
    """The factors of all classes, (count,), that lead to the least error."""
    octaves = torch.zeros(count, requires_grad=True)
    free = (torch.arange(count) != FIXED).float()
    optimizer = torch.optim.Adam([octaves], lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            factors = (octaves.clamp(-OCTAVES, OCTAVES) * free).exp2()
            error = torch.stack([part.errors(factors).sum() for part in parts]).sum()
            optimizer.zero_grad()
            error.clamp_min(1e-30).log().backward()
            optimizer.step()
    return (octaves.detach().clamp(-OCTAVES, OCTAVES) * free).exp2()


def _rescale(conv: Conv2d, read: Tensor, made: Tensor) -> None:
    """Multiply a kernel by the factors of its inputs, and divide its outputs by theirs."""
    assert conv.bias is not None
    rows = read.view(conv.groups, -1).repeat_interleave(len(conv.weight) // conv.groups, 0)
    conv.weight.mul_(rows[:, :, None, None])
    if conv.up == 1:
        conv.weight.div_(made[:, None, None, None])
        conv.bias.div_(made)
