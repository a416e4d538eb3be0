"""Roles of an imported network's layers, signs of its tensors, and kernels that layers share.

All of it is read from the graph and from the stored weights, so only what they prove is stated. A
tensor whose sign is not proved may still have no negative values: calibration finds that out.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from quantnas.nn.tracing import CALL

WEIGHING = (torch.sigmoid, F.hardsigmoid)
"""Functions that end an attention, before its product with the features."""
POSITIVE = (
    torch.relu, F.relu, F.relu6, *WEIGHING, torch.softmax, F.softplus, torch.exp, torch.abs,
    torch.sqrt, torch.linalg.vector_norm,
)  # fmt: skip
"""Functions whose output is never negative."""
MOVES = (
    torch.reshape, torch.permute, torch.flatten, torch.unflatten, torch.squeeze, torch.unsqueeze,
    torch.tile, torch.flip, torch.narrow, torch.select, torch.split, torch.max_pool2d, F.max_pool2d,
    F.pixel_shuffle, F.pixel_unshuffle, torch.index_select, operator.getitem, "expand",
)  # fmt: skip
"""Functions, and names of methods, whose output has no other values than their first argument."""
KEEPING = (
    *MOVES, torch.cat, F.avg_pool2d, torch.mean, torch.amax, torch.amin, torch.sum, "to",
)  # fmt: skip
"""Functions, and names of methods, whose output is not negative if their first argument is not."""
SUMS = (operator.add, operator.mul, operator.truediv, torch.minimum)
"""Functions whose output is not negative if no operand is."""
STRETCHES = (*KEEPING, F.interpolate, torch.Tensor.expand)
"""Functions that may lie between an attention's last activation and its product."""
STAYING = ("nearest", "nearest-exact", "bilinear", "area")
"""Modes of resizing whose output stays between the smallest and the largest value of the input."""


# Signs


def positive(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose tensors are proved to have no negative values.

    The image has none. A constant counts unless it is a parameter, which retraining may change.
    """
    nodes: set[fx.Node] = set()
    constants = dict(network.named_buffers())
    for node in network.graph.nodes:
        content = constants.get(str(node.target)) if node.op == "get_attr" else None
        stored = content is not None and bool((content >= 0).all())
        if node.op == "placeholder" or stored or _is_positive(node, nodes):
            nodes.add(node)
    return nodes


def _is_positive(node: fx.Node, nodes: set[fx.Node]) -> bool:
    """Whether a call has no negative values, given the earlier nodes that have none."""

    def known(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(known, value))
        if isinstance(value, fx.Node):
            return value in nodes
        return isinstance(value, int | float) and value >= 0

    function, args = node.target, node.args
    if function in POSITIVE:
        return True
    if function in KEEPING or (function is F.interpolate and node.kwargs.get("mode") in STAYING):
        return known(args[0])
    if function is F.pad:
        return known(args[0]) and known(node.kwargs.get("value") or 0)
    if function is torch.clamp:
        _, low, high = args
        return known(low) or (known(args[0]) and (high is None or known(high)))
    if function is torch.maximum:
        return any(map(known, args))
    if function is operator.pow:
        return known(args[0]) or (isinstance(args[1], int | float) and args[1] % 2 == 0)
    return function in SUMS and all(map(known, args))


# Layers at the ends, and attentions


def ends(network: fx.GraphModule) -> tuple[set[fx.Node], set[fx.Node]]:
    """The layers that read the image, and those that make the pixels.

    Between them and the image or the pixels there are only functions, and convolutions that scale
    each channel by itself (`is_scaling`), which belong to the ends too.
    """
    nodes = list(network.graph.nodes)
    return (
        _first_layers(network, nodes, lambda node: node.all_input_nodes),
        _first_layers(network, nodes[::-1], lambda node: node.users),
    )


def _first_layers(
    network: fx.GraphModule,
    nodes: Iterable[fx.Node],
    before: Callable[[fx.Node], Iterable[fx.Node]],
) -> set[fx.Node]:
    """The layers that are met first on the way from one end of the network through `nodes`.

    before: the neighbours of a node that come earlier on that way.
    """
    fixed, pixels, layers = without_content(network), set[fx.Node](), set[fx.Node]()
    for node in nodes:
        earlier = [n for n in before(node) if n not in fixed]
        reached = bool(earlier) and all(n in pixels for n in earlier)
        if reached and node.op == CALL:
            layers.add(node)
        if node.op in ("placeholder", "output") or (reached and _passes(network, node)):
            pixels.add(node)
    return layers


def _passes(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what a node computes from pixels can still be called pixels."""
    return node.op != CALL or is_scaling(network.get_submodule(str(node.target)))


def is_scaling(layer: nn.Module) -> bool:
    """Whether a layer is a 1x1 convolution that scales and shifts each channel by itself.

    EDSR has such a layer at either end, `MeanShift`.
    """
    if not isinstance(layer, nn.Conv2d) or layer.in_channels != layer.out_channels:
        return False
    if (*layer.kernel_size, *layer.stride) != (1, 1, 1, 1):
        return False
    kernel = layer.weight.detach().flatten(1)
    return layer.groups == layer.in_channels or (
        layer.groups == 1 and torch.equal(kernel, kernel.diagonal().diag())
    )


def without_content(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes that depend at most on the image's size: constants, sizes, and what they make."""
    nodes: set[fx.Node] = set()
    for node in network.graph.nodes:
        called = node.op in ("call_function", "call_method")
        inputs = all(n in nodes for n in node.all_input_nodes)
        if node.op == "get_attr" or node.target == "size" or (called and inputs):
            nodes.add(node)
    return nodes


def weighing(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes of attentions: their tensors only become factors of others, through a sigmoid."""
    nodes: set[fx.Node] = set()
    fixed = without_content(network)
    for node in reversed(network.graph.nodes):
        users = [user for user in node.users if user not in fixed]
        if not users or node in fixed:
            continue
        ends = node.target in WEIGHING and all(_weighs(user, node, fixed) for user in users)
        if ends or all(user in nodes for user in users):
            nodes.add(node)
    return nodes


def _weighs(user: fx.Node, factor: fx.Node, fixed: set[fx.Node]) -> bool:
    """Whether a reader of `factor` multiplies a tensor by it, directly or after `STRETCHES`.

    A product with a constant is no attention, but one may follow.
    """
    if user.target is operator.mul and any(n not in fixed for n in _others(user, factor)):
        return True
    readers = [n for n in user.users if n not in fixed]
    stretched = user.target in (*STRETCHES, operator.mul)
    return stretched and bool(readers) and all(_weighs(n, user, fixed) for n in readers)


def _others(node: fx.Node, one: fx.Node) -> list[fx.Node]:
    """The nodes that a node reads beside one of them."""
    return [n for n in node.all_input_nodes if n is not one]


# Shared kernels


def shared_kernels(network: fx.GraphModule) -> dict[str, str]:
    """Name of a layer -> name of the first one with the same kernel, where there is one before it.

    Kernels are compared after normalisations have been folded into them.
    """
    firsts: list[tuple[str, Any]] = []
    shared = {}
    for name, layer in _layers(network):
        same = (n for n, other in firsts if _alike(layer, other))
        first = next(same, None)
        if first is None:
            firsts.append((name, layer))
        else:
            shared[name] = first
    return shared


def _layers(network: fx.GraphModule) -> Iterator[tuple[str, Any]]:
    for node in network.graph.nodes:
        if node.op == CALL:
            layer = network.get_submodule(str(node.target))
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                yield str(node.target), layer


def _alike(one: Any, other: Any) -> bool:
    """Whether two convolutions have the same kernel and apply it in the same way."""
    fields = ("stride", "padding", "dilation", "groups", "output_padding")
    return (
        type(one) is type(other)
        and one.weight.shape == other.weight.shape
        and all(getattr(one, f) == getattr(other, f) for f in fields)
        and torch.equal(one.weight, other.weight)
    )
