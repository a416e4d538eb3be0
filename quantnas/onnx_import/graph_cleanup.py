"""Simplification of an imported graph: groups of nodes become pixel shuffles or parts of layers.

Groups are recognised by their shapes for two sizes of the image; `parity` checks the result with
numbers.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .channel_order import CHANNELS_LAST, CHANNELS_SECOND, Step
from .graph_builder import RANK, TENSOR, Build
from .ops_shape import reordered

Shape = tuple[int, ...]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
SHUFFLES: dict[Shape, str] = {(0, 1, 4, 2, 5, 3): "CRD", (0, 3, 4, 1, 5, 2): "DCR"}
"""Order of dimensions between the two Reshapes of a pixel shuffle -> ONNX's name of its mode."""
UNSHUFFLE = (0, 1, 3, 5, 2, 4)
"""Order of dimensions between the two Reshapes of an inverse pixel shuffle."""


def tidy(b: Build) -> None:
    """Recognise pixel shuffles, and fold normalisation, sums and orders of channels into layers."""
    for fold in (_shuffle, _norm, _sum, _order, _pointwise, _permutes):
        for node in list(b.graph.nodes):
            fold(b, node)
        for node in reversed(list(b.graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                b.graph.erase_node(node)


def _only(node: Any, *kinds: Any) -> bool:
    """Whether `node` is a node that calls one of these functions and has a single reader."""
    return isinstance(node, fx.Node) and node.target in kinds and len(node.users) == 1


def _shuffle(b: Build, last: fx.Node) -> None:
    """Replace Reshape, Transpose, Reshape by a pixel shuffle or its inverse."""
    if last.target is not torch.reshape or not _only(last.args[0], torch.permute):
        return
    middle: Any = last.args[0]
    if not _only(middle.args[0], torch.reshape):
        return
    first, order = middle.args[0], tuple(middle.args[1])
    x = first.args[0]
    shapes = ((tuple(b.examples[n][k].shape) for n in (x, first, last)) for k in (0, 1))
    blocks = {_block(order, *three) for three in shapes}
    block = blocks.pop()
    if blocks or block is None:
        return
    kind, side = block
    with b.graph.inserting_before(last):
        x = reordered(b, x, side**2) if kind == "DCR" else x
        node = b.call(F.pixel_unshuffle if kind == "inverse" else F.pixel_shuffle, x, side)
    _replace(last, node)


def _block(order: Shape, before: Shape, parted: Shape, after: Shape) -> tuple[str, int] | None:
    """Kind of a pixel shuffle, and its factor; None if the shapes are not those of one.

    before, parted, after: shapes before the first Reshape, after it, and after the second.
    """
    if (len(before), len(parted), len(after)) != (4, 6, 4):
        return None
    n, c, h, w = before
    kind = "inverse" if order == UNSHUFFLE else SHUFFLES.get(order)
    if kind == "inverse":
        r = parted[3]
        inside, outside = (n, c, h // r, r, w // r, r), (n, c * r**2, h // r, w // r)
    else:
        r = parted[2]
        c //= r**2
        inside = (n, r, r, c, h, w) if kind == "DCR" else (n, c, r, r, h, w)
        outside = n, c, h * r, w * r
    return (kind, r) if kind and (parted, after) == (inside, outside) else None


def _replace(old: fx.Node, new: Any) -> None:
    """Let `new` compute the tensor of `old` in the file, and erase `old`."""
    new.meta[TENSOR] = old.meta.get(TENSOR)
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def _permutes(b: Build, node: fx.Node) -> None:
    """Join two permutations of dimensions in a row; nothing is left of a pair that cancels."""
    before: Any = node.args[0] if node.target is torch.permute else None
    if not isinstance(before, fx.Node) or before.target is not torch.permute:
        return
    x, first = before.args
    order = tuple(first[axis] for axis in node.args[1])  # type: ignore[index, union-attr]
    if order == tuple(range(len(order))):
        node.replace_all_uses_with(x)  # type: ignore[arg-type]
        b.graph.erase_node(node)
        return
    with b.graph.inserting_before(node):
        _replace(node, b.call(torch.permute, x, order))


def _pointwise(b: Build, node: fx.Node) -> None:
    """Replace a product with a stored matrix, over the last dimension, by a 1x1 convolution."""
    layer = b.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    rank = b.rank(node.args[0]) if isinstance(layer, nn.Linear) else 0  # type: ignore[arg-type]
    if not isinstance(layer, nn.Linear) or rank not in CHANNELS_SECOND:
        return
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, device="meta")
    _set(conv, layer.weight[:, :, None, None], _bias(layer))
    name, meta = str(node.target), {**node.meta, RANK: rank}
    delattr(b.root, name)
    with b.graph.inserting_before(node):
        image = _reshaped(b, node.args[0], CHANNELS_SECOND[rank])
        new = b.layer(conv, image, name)
        new.meta.update(meta)
        new = _reshaped(b, new, CHANNELS_LAST[rank])
    _replace(node, new)


def _reshaped(b: Build, x: Any, steps: tuple[Step, ...]) -> Any:
    """Append steps of `channel_order` -> the node of the last one."""
    for kind, axes in steps:
        if kind == "Transpose":
            x = b.call(torch.permute, x, axes)
        else:
            at = None if kind == "Unsqueeze" else 0
            x = b.call(operator.getitem, x, (..., *[at] * len(axes)))
    return x


# Nodes that are folded into a layer


def _norm(b: Build, node: fx.Node) -> None:
    """Fold a batch normalisation into the convolution before it."""
    layer = _layer(b, node.args[0]) if _known(node, F.batch_norm) else None
    if not isinstance(layer, CONVOLUTIONS):
        return
    mean, variance, weight, bias = (_content(b, n).double() for n in node.args[1:5])
    epsilon: Any = node.args[7]
    factor = weight / (variance + epsilon).sqrt()
    with torch.no_grad():
        kernel = layer.weight.double()
        if isinstance(layer, nn.ConvTranspose2d):  # (c_in, c_out / groups, k, k)
            parts = kernel.unflatten(0, (layer.groups, -1))
            kernel = (parts * factor.view(layer.groups, 1, -1, 1, 1)).flatten(0, 1)
        else:
            kernel = kernel * factor.view(-1, *[1] * (kernel.ndim - 1))
        moved = (_bias(layer).double() - mean) * factor + bias
    _set(layer, kernel, moved)
    _fold(b, *node.args[1:5])
    _replace(node, node.args[0])


def _sum(b: Build, node: fx.Node) -> None:
    """Fold the addition of a constant per channel into the bias of the layer before it."""
    if not _known(node, operator.add):
        return
    for x, other in (node.args, node.args[::-1]):
        layer = _layer(b, x)
        if layer is None or _layer(b, other) is not None:
            continue
        added = _per_channel(b, x, other, -1 if isinstance(layer, nn.Linear) else 1)
        if added is not None:
            _set(layer, layer.weight, _bias(layer).double() + added)
            _fold(b, other)
            _replace(node, x)
            return


def _per_channel(b: Build, x: Any, other: Any, dim: int) -> Tensor | None:
    """The constant `other` as a tensor (c,) or (), if it varies along only `dim` of x, or None."""
    if isinstance(other, int | float):
        return torch.tensor(other, dtype=torch.float64)
    if not isinstance(other, fx.Node) or other.op != "get_attr":
        return None
    content, rank = _content(b, other), b.rank(x)
    sides = (1,) * (rank - content.ndim) + tuple(content.shape)
    fits = content.ndim <= rank and content.numel() == sides[dim] in (1, b.side(x, dim))
    return content.double().flatten() if fits else None


def _order(b: Build, node: fx.Node) -> None:
    """Fold a reordering of channels into the convolution before it, if it has no groups."""
    if not _known(node, torch.index_select) or node.args[1] != 1:
        return
    layer = _layer(b, node.args[0])
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        order = _content(b, node.args[2])
        if len(order) == layer.out_channels:
            _set(layer, layer.weight[order], _bias(layer)[order])
            _replace(node, node.args[0])


def _known(node: fx.Node, function: Any) -> bool:
    """Whether a node calls that function and computes a tensor of the file.

    Other nodes are not folded, so that every layer computes a tensor of the file.
    """
    return node.target is function and node.meta.get(TENSOR) is not None


def _layer(b: Build, x: Any) -> Any:
    """The layer that computes x, if x has a single reader; else None."""
    if isinstance(x, fx.Node) and x.op == "call_module" and len(x.users) == 1:
        return b.root.get_submodule(str(x.target))
    return None


def _content(b: Build, node: Any) -> Tensor:
    """The stored tensor of a node, detached."""
    content: Tensor = getattr(b.root, node.target)
    return content.detach()


def _fold(b: Build, *nodes: Any) -> None:
    """Note that parameters became a part of a layer: their tensors cannot be written by name."""
    for node in nodes:
        b.parameters.pop(str(getattr(node, "target", "")), None)


def _bias(layer: Any) -> Tensor:
    """The bias of a layer, detached."""
    bias: Tensor = layer.bias.detach()
    return bias


def _set(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """Give a layer another weight and bias, as float32."""
    layer.weight = nn.Parameter(weight.detach().float().clone())
    layer.bias = nn.Parameter(bias.float().clone())
