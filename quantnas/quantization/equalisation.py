"""Equalisation: channels of carried tensors are brought to ranges that one step fits.

A tensor that is carried in 8 bits has one step for all channels, because a runtime adds tensors in
integers only so. When channels have different ranges, the narrow ones lose most of their levels. A
convolution can divide its output channels by factors, and the convolutions that read them multiply
by the same: the network computes the same, and all its tensors between have other ranges. This is
the equalisation across layers of arXiv 1906.04721, for graphs with sums, products and
concatenations, and with factors that also weigh how much an error in a channel damages the output.
"""

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from quantnas.config.search_space import Precision
from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.nn.convolutions import Conv2d
from quantnas.nn.quantizers import OCTAVES
from quantnas.nn.tracing import CALL
from quantnas.onnx_import import carried_tensors, layer_roles, pixel_conversion

FIXED = 0
"""The class of the channels that must keep their values."""
HOMOGENEOUS = (
    torch.relu, F.relu, F.leaky_relu, F.prelu, F.max_pool2d, torch.max_pool2d, F.avg_pool2d,
    F.interpolate, F.pad, torch.Tensor.expand, "expand",
)  # fmt: skip
"""Functions of single channels that commute with a positive factor."""


@dataclass
class Classes:
    """Channels that must have one factor, as sets that can be joined."""

    parents: list[int] = field(default_factory=lambda: [FIXED])

    def new(self, count: int) -> list[int]:
        """New classes, one for each of `count` channels."""
        first = len(self.parents)
        self.parents += range(first, first + count)
        return list(range(first, first + count))

    def find(self, one: int) -> int:
        while self.parents[one] != one:
            one = self.parents[one] = self.parents[self.parents[one]]
        return one

    def join(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """Let channels have the same factors, pair by pair."""
        for one, other in zip(ones, others, strict=True):
            first, second = sorted((self.find(one), self.find(other)))
            self.parents[second] = first

    def fix(self, ones: Sequence[int]) -> None:
        self.join(ones, [FIXED] * len(ones))


@torch.no_grad()
def equalise(
    network: ImportedNetwork, names: Collection[str], bits: Mapping[str, Precision], low: Tensor
) -> None:
    """Equalise the channels of an imported network, in place; its function stays the same.

    network: in float; names: tensors of the file that are carried in 8 bits; bits: layer -> its bit
    widths; low: calibration images (N, 3, H, W) in [0, 1].
    """
    graph = network.inner.graph
    convs = {n: conv for n in graph.nodes if (conv := _conv(network.inner, n)) is not None}
    read = {node.args[0] for node in convs}
    named = {n for n in graph.nodes if n.meta.get(carried_tensors.TENSOR) in names}
    measured = _measure(network, [n for n in graph.nodes if n in read | named | convs.keys()], low)
    channels = _channels(network.inner, measured.shapes)
    rounded = [n for n in graph.nodes if n in read | named and n in measured.highs and n.op != "placeholder"]
    tensors = [_RoundedTensor(channels[n], measured, n) for n in rounded]
    kernels = [
        _RoundedKernel(conv, channels[n.args[0]], measured, n, bits[conv.name].weights)
        for n, conv in convs.items()
        if n in measured.gains and n.args[0] in channels
    ]
    factors = _optimised(1 + max(max(ones) for ones in channels.values()), [*tensors, *kernels])
    for node, conv in convs.items():
        _scale(conv, factors[channels[node.args[0]]], factors[channels[node]])
    white = network.pixels.output_peak**2
    known = {n: part for n, part in zip(rounded, tensors, strict=True) if n in named}
    return {
        n.meta[carried_tensors.TENSOR]: float(part.damage(factors)) / white
        for n, part in known.items()
    }


def _conv(network: fx.GraphModule, node: fx.Node) -> Conv2d | None:
    if node.op != CALL:
        return None
    module = network.get_submodule(str(node.target))
    return next((m for m in module.modules() if isinstance(m, Conv2d)), None)


@dataclass(frozen=True)
class Measured:
    """What is known about the tensors of a network from calibration images."""

    shapes: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    highs: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Tensor -> largest value of each channel, at least 0, (C,)."""
    lows: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Tensor -> smallest value of each channel, at most 0, (C,)."""
    powers: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Tensor -> mean square of each channel, (C,)."""
    gains: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Tensor -> squared error of the output per squared error of each channel, (C,)."""


class _Recorder(fx.Interpreter):
    """An interpreter that keeps the shapes of all tensors, and some tensors themselves."""

    def __init__(self, network: fx.GraphModule, wanted: Sequence[fx.Node]) -> None:
        super().__init__(network)
        self.wanted = {node.name for node in wanted}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.tensors: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
            if n.name in self.wanted:
                self.tensors[n.name] = value
        return value


def _measure(network: ImportedNetwork, wanted: Sequence[fx.Node], low: Tensor) -> Measured:
    generator, nodes = torch.Generator().manual_seed(0), {n.name: n for n in network.inner.graph.nodes}
    found, parts = Measured(), low.split(4)
    for image in parts:
        recorder = _Recorder(network.inner, wanted)
        with torch.enable_grad():
            taken = pixel_conversion.taken(image, network.pixels).requires_grad_()
            out = recorder.run(taken)
            signs = torch.randint(2, out.shape, generator=generator).to(out) * 2 - 1
            kept = recorder.tensors.values()
            slopes = torch.autograd.grad(out, list(kept), signs, allow_unused=True)
        for (name, tensor), slope in zip(recorder.tensors.items(), slopes, strict=True):
            node, value = nodes[name], tensor.detach()
            if value.dim() != 4 or slope is None:
                continue
            high, least = (f(value, (0, 2, 3)) for f in (torch.amax, torch.amin))
            found.highs[node] = torch.maximum(found.highs.get(node, high.clamp_min(0)), high)
            found.lows[node] = torch.minimum(found.lows.get(node, least.clamp_max(0)), least)
            power = value.square().mean((0, 2, 3)) / len(parts)
            found.powers[node] = found.powers.get(node, 0) + power
            gain = slope.square().sum((0, 2, 3)) / (out.numel() * len(parts))
            found.gains[node] = found.gains.get(node, 0) + gain
    found.shapes.update({nodes[name]: shape for name, shape in recorder.shapes.items()})
    return found


# Channels that have one factor


def _channels(
    network: fx.GraphModule, shapes: Mapping[fx.Node, tuple[int, ...]]
) -> dict[fx.Node, list[int]]:
    """Image-shaped tensor -> the class of each of its channels, as far as they are known."""
    classes, channels = Classes(), dict[fx.Node, list[int]]()
    fixed = layer_roles.without_content(network)

    def of(node: Any) -> list[int]:
        return channels[node]

    for node in network.graph.nodes:
        if node in fixed or node not in shapes:
            for each in node.all_input_nodes if node not in fixed else ():
                if each in channels and not _is_split(node):
                    classes.fix(of(each))
            continue
        joined = _joined(network, node, channels, classes, shapes, fixed)
        if joined is None:
            for each in node.all_input_nodes:
                if each in channels:
                    classes.fix(of(each))
            joined = [FIXED] * (shapes[node][1] if len(shapes[node]) > 1 else 1)
        channels[node] = joined
    return {node: [classes.find(one) for one in ones] for node, ones in channels.items()}


def _is_split(node: fx.Node) -> bool:
    return node.target is torch.split


def _joined(
    network: fx.GraphModule,
    node: fx.Node,
    channels: Mapping[fx.Node, list[int]],
    classes: Classes,
    shapes: Mapping[fx.Node, tuple[int, ...]],
    fixed: set[fx.Node],
) -> list[int] | None:
    """The classes of a node's channels; None where it is unknown how they follow from its inputs."""
    conv = _conv(network, node)
    if conv is not None:
        return _of_conv(node, conv, classes)
    x: Any = node.args[0] if node.args else None
    if len(shapes[node]) != 4:
        return None
    if node.target is torch.cat:
        if node.args[1:] != (1,) or not all(n in channels for n in x):
            return None
        return [one for n in x for one in channels[n]]
    if x not in channels or len(shapes.get(x, ())) != 4:
        return None
    if node.target in HOMOGENEOUS and not node.kwargs.get("value"):
        return channels[x]
    if node.target is torch.mean and node.args[1] == (2, 3) and node.kwargs.get("keepdim"):
        return channels[x]
    if node.target is operator.getitem and _is_split(x):
        return None
    if node.target in (operator.add, operator.sub, operator.mul):
        return _of_pair(node, channels, classes, shapes, fixed)
    return None


def _of_conv(node: fx.Node, conv: Conv2d, classes: Classes) -> list[int]:
    plain = conv.up == 1 and not conv.shares
    made = classes.new(conv.out_channels * conv.up**2)
    if not plain:
        classes.fix(made)
    return made


def _of_pair(
    node: fx.Node,
    channels: Mapping[fx.Node, list[int]],
    classes: Classes,
    shapes: Mapping[fx.Node, tuple[int, ...]],
    fixed: set[fx.Node],
) -> list[int] | None:
    """The classes of a sum or a product of two tensors, or of a product with a constant."""
    x, y = node.args[:2]
    is_constant = not isinstance(y, fx.Node) or y in fixed
    if is_constant:
        return channels[x] if node.target is operator.mul else None  # type: ignore[index]
    if y not in channels or shapes[x][0] != shapes[y][0]:  # type: ignore[index]
        return None
    if node.target is not operator.mul:
        if len(channels[x]) != len(channels[y]):  # type: ignore[index]
            return None
        classes.join(channels[x], channels[y])  # type: ignore[index]
        return channels[x]  # type: ignore[index]
    larger, factor = (x, y) if len(channels[x]) >= len(channels[y]) else (y, x)  # type: ignore[index]
    if all(classes.find(one) == FIXED for one in channels[larger]):  # type: ignore[index]
        larger, factor = factor, larger
    if shapes[larger] != shapes[node]:  # type: ignore[index]
        return None
    classes.fix(channels[factor])  # type: ignore[index]
    return channels[larger]  # type: ignore[index]


# Factors


class _RoundedTensor:
    """The damage of rounding a tensor to one grid of 8 bits."""

    def __init__(self, ones: Sequence[int], measured: Measured, node: fx.Node) -> None:
        self.ones = torch.tensor(ones)
        self.high, self.low = measured.highs[node], measured.lows[node]
        self.gains = measured.gains[node]

    def damage(self, factors: Tensor) -> Tensor:
        f = factors[self.ones]
        width = _most(self.high / f) + _most(-self.low / f)
        return (width / 255).square() / 12 * (self.gains * f.square()).sum()


class _RoundedKernel:
    """The damage of rounding a kernel, with one step for each of its output channels."""

    def __init__(
        self, conv: Conv2d, ones: Sequence[int], measured: Measured, node: fx.Node, bits: int
    ) -> None:
        reads: Any = node.args[0]
        weight = conv.weight.detach()
        rows = torch.tensor(ones).view(conv.groups, -1)
        self.ones = rows.repeat_interleave(len(weight) // conv.groups, 0)
        self.most = weight.abs().amax((2, 3)) * 2 / (2**bits - 1)
        power = measured.powers.get(reads)
        power = torch.ones(rows.numel()) if power is None else power
        self.power = power[: rows.numel()].view(conv.groups, -1).repeat_interleave(
            len(weight) // conv.groups, 0
        ) * weight[0, 0].numel()
        gains = measured.gains[node]
        self.gains = gains.view(len(weight), -1).sum(1)

    def damage(self, factors: Tensor) -> Tensor:
        f = factors[self.ones]
        step = _most(self.most * f).square() / 12
        return (self.gains * step * (self.power / f.square()).sum(1)).sum()


def _most(x: Tensor) -> Tensor:
    """A smooth maximum over the last dimension of x, which is not negative."""
    top = x.detach().amax(-1, keepdim=True).clamp_min(1e-30)
    power = (x / top).square().square().square()
    return (power.sum(-1) + 1e-9).pow(1 / 8) * top[..., 0]


STEPS, RATE = 60, 0.2
"""Number of updates of the factors, and their size in octaves."""


def _optimised(count: int, parts: Sequence[_RoundedTensor | _RoundedKernel]) -> Tensor:
    """The factors of all classes, (count,), with the least damage."""
    octaves = torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.Adam([octaves], lr=RATE)
    mask = torch.ones(count)
    mask[FIXED] = 0
    with torch.enable_grad():
        for step in range(STEPS):
            factors = (octaves.clamp(-OCTAVES, OCTAVES) * mask).exp2()
            total = torch.stack([part.damage(factors) for part in parts]).sum()
            optimizer.zero_grad()
            total.log().backward()
            optimizer.step()
    return (octaves.detach().clamp(-OCTAVES, OCTAVES) * mask).exp2()


def _scale(conv: Conv2d, read: Tensor, made: Tensor) -> None:
    """Multiply the kernel by the factors of its inputs, and divide its outputs by theirs."""
    assert conv.bias is not None
    rows = read.view(conv.groups, -1).repeat_interleave(len(conv.weight) // conv.groups, 0)
    conv.weight.mul_(rows[:, :, None, None])
    if conv.up == 1:
        conv.weight.div_(made[:, None, None, None])
        conv.bias.div_(made)
