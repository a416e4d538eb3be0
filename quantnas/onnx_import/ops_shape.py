"""ONNX operators that move values or return shapes, translated to torch.fx or shape arithmetic."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import fx

from . import shape_arithmetic
from .graph_builder import Build, FileNode, Value, fixed, numbers, refuse, shape

PADDINGS = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""ONNX's padding mode -> torch's, for all modes but `constant`."""
END = 2**31 - 1
"""Smallest end of a Slice that means the end of the dimension."""


def shape_of(b: Build, step: FileNode, x: Value) -> Value:
    """Shape, or the part of it between `start` and `end`."""
    rank = b.rank(x)
    sides = [b.side(x, d) for d in range(rank)] if isinstance(x, fx.Node) else list(np.shape(x))
    return shape(sides)[step.get("start", 0) : step.get("end")]


def size_of(b: Build, step: FileNode, x: fx.Node) -> Value:
    """Size: the number of elements."""
    return shape([shape_arithmetic.product(b, shape_of(b, step, x))]).reshape(())


def constant_of_shape(b: Build, step: FileNode, sides: Value) -> Value:
    """ConstantOfShape: an array for known integers, else a tensor."""
    stored = step.get("value")
    value = np.zeros(1, np.float32) if stored is None else numpy_helper.to_array(stored)
    elements = numbers(sides)
    if not any(isinstance(n, fx.Node) for n in elements) and value.dtype.kind in "bi":
        return np.full(elements, value.item())
    kind = torch.from_numpy(np.array(value)).dtype
    return b.call(torch.full, elements, value.item(), dtype=kind)


def span(b: Build, step: FileNode, start: Value, limit: Value, delta: Value) -> Value:
    """Range: known numbers, or a tensor where they depend on the image's size."""
    ends = [numbers(v)[0] for v in (start, limit, delta)]
    if any(isinstance(n, fx.Node) for n in ends):
        return b.call(shape_arithmetic.progression, *ends)
    return np.arange(*ends).astype(object)


def reshape(b: Build, step: FileNode, x: Value, sides: Value) -> Value:
    """Reshape; a new side of 0 means that the side keeps its size."""
    new_sides = list(numbers(sides))
    if not isinstance(x, fx.Node):
        return np.reshape(x, fixed(sides))
    if not step.get("allowzero", 0):
        new_sides = [b.side(x, dim) if n == 0 else n for dim, n in enumerate(new_sides)]
    return b.call(torch.reshape, x, tuple(new_sides))


def flatten(b: Build, step: FileNode, x: fx.Node) -> Value:
    """Flatten to two dimensions."""
    axis = step.get("axis", 1) % (b.rank(x) + 1)
    first = shape_arithmetic.product(b, [b.side(x, dim) for dim in range(axis)])
    return b.call(torch.reshape, x, (first, -1))


def transpose(b: Build, step: FileNode, x: Value) -> Value:
    """Transpose: a permutation of the dimensions."""
    order = tuple(step.get("perm") or reversed(range(b.rank(x))))
    return b.call(torch.permute, x, order) if isinstance(x, fx.Node) else np.transpose(x, order)


def concat(b: Build, step: FileNode, *parts: Value) -> Value:
    """Concat of tensors or of shapes."""
    axis = step.get("axis")
    if not any(isinstance(part, fx.Node) for part in parts):
        return np.concatenate([np.asarray(part, object) for part in parts], axis)
    named = zip(parts, step.inputs, strict=True)
    return b.call(torch.cat, [shape_arithmetic.as_tensor(b, *each) for each in named], axis)


def split(
    b: Build, step: FileNode, x: fx.Node, sizes: Value | None = None
) -> Value | tuple[Any, ...]:
    """Split; sizes are an attribute or, in later opsets, an input.

    Without sizes all parts are equal, except that the last may be smaller.
    """
    axis, count = step.get("axis", 0), len(step.outputs)
    part_sizes: Any = list(step.get("split") or numbers(sizes))
    if not part_sizes:
        rounded = shape_arithmetic.apply(b, operator.add, b.side(x, axis), count - 1)
        part_sizes = shape_arithmetic.apply(b, operator.floordiv, rounded, count)
    parts = b.call(torch.split, x, part_sizes, axis)
    return tuple(b.call(operator.getitem, parts, k) for k in range(count))


def cut(b: Build, step: FileNode, x: Value, *more: Value | None) -> Value:
    """Slice; its settings are attributes or, in later opsets, inputs."""
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (
        list(step.get(name) or numbers(value))
        for name, value in zip(names, (*more, *[None] * (4 - len(more))), strict=True)
    )
    rank, cuts = b.rank(x), {}
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[k] if axes else k) % rank
        cuts[axis] = start, end, steps[k] if steps else 1
    if not isinstance(x, fx.Node):
        return x[tuple(slice(*cuts.get(axis, (None,))) for axis in range(rank))]
    for axis, settings in cuts.items():
        x = _part(b, x, axis, *settings)
    return x


def _part(b: Build, x: fx.Node, axis: int, start: Any, end: Any, stride: Any) -> fx.Node:
    """Cut x along one axis; a part of known length and stride 1 is a torch.narrow."""
    if stride == -1 and start in (-1, END) and not isinstance(end, fx.Node) and end < -END:
        return b.call(torch.flip, x, (axis,))
    if isinstance(stride, fx.Node) or stride < 1:
        raise refuse("a Slice that goes backwards")
    end = None if not isinstance(end, fx.Node) and end >= END else end
    side = b.side(x, axis)
    if stride == 1 and not any(isinstance(n, fx.Node) for n in (side, start, end)):
        first, last, _ = slice(start, end).indices(side)
        if (first, last) == (0, side):
            return x
        return b.call(torch.narrow, x, axis, first, max(last - first, 0))
    cuts = (*[slice(None)] * axis, slice(start, end, None if stride == 1 else stride))
    return b.call(operator.getitem, x, cuts)


def gather(b: Build, step: FileNode, x: Value, index: Value) -> Value:
    """Gather along an axis, by one index or by an array of them."""
    axis = step.get("axis", 0)
    if not isinstance(x, fx.Node):
        places = np.reshape(np.array(fixed(index), int), b.example(index).shape)
        return np.asarray(np.take(np.asarray(x, object), places, axis), object)
    axis %= b.rank(x)
    if isinstance(index, fx.Node) or index.ndim:
        indices = b.tensor(index, step.inputs[1])
        return b.call(operator.getitem, x, (*[slice(None)] * axis, indices))
    return b.call(torch.select, x, axis, numbers(index)[0])


def gather_nd(b: Build, step: FileNode, x: Value, index: Value) -> Value:
    """GatherND: the elements, or parts, at a list of positions."""
    if step.get("batch_dims", 0):
        raise refuse("a GatherND with batch dimensions")
    return b.call(operator.getitem, b.tensor(x, step.inputs[0]), _places(b, step, index))


def scatter_nd(b: Build, step: FileNode, x: Value, index: Value, updates: Value) -> Value:
    """ScatterND: a copy with other elements, or parts, at a list of positions."""
    if step.get("reduction", "none") != "none":
        raise refuse("a ScatterND that adds or multiplies")
    data, new = b.tensor(x, step.inputs[0]), b.tensor(updates, step.inputs[2])
    return b.call(torch.index_put, data, _places(b, step, index), new)


def _places(b: Build, step: FileNode, index: Value) -> tuple[fx.Node, ...]:
    """The positions (..., n) of an index along n dimensions, each a tensor (...)."""
    node, count = b.tensor(index, step.inputs[1]), b.example(index).shape[-1]
    return tuple(b.call(torch.select, node, -1, k) for k in range(count))


def gather_elements(b: Build, step: FileNode, x: Value, index: Value) -> Value:
    """GatherElements: every position tells from where along the axis its element is taken."""
    axis = step.get("axis", 0)
    node = b.tensor(index, step.inputs[1])
    side = b.side(b.tensor(x, step.inputs[0]), axis)
    return b.call(
        torch.gather, b.tensor(x, step.inputs[0]), axis, b.call(torch.remainder, node, side)
    )


def topk(b: Build, step: FileNode, x: fx.Node, count: Value | None = None) -> tuple[Any, ...]:
    """TopK: the largest, or smallest, values along an axis and their positions."""
    number = step.get("k") or fixed(count)[0]
    how = bool(step.get("largest", 1)), bool(step.get("sorted", 1))
    found = b.call(torch.topk, x, number, step.get("axis", -1), *how)
    return tuple(b.call(operator.getitem, found, k) for k in (0, 1))


def place_of(function: Callable[..., Any]) -> Callable[..., Value]:
    """Translation of ArgMax or ArgMin."""

    def translate(b: Build, step: FileNode, x: fx.Node) -> Value:
        if step.get("select_last_index", 0):
            raise refuse("an ArgMax that takes the last of several")
        return b.call(function, x, step.get("axis", 0), bool(step.get("keepdims", 1)))

    return translate


def squeeze(b: Build, step: FileNode, x: Value, axes: Value | None = None) -> Value:
    """Squeeze; axes are an attribute or, in later opsets, an input; without them all sides of 1."""
    over = tuple(step.get("axes") or fixed(axes))
    if not isinstance(x, fx.Node):
        return np.squeeze(x, over or None)
    over = over or tuple(dim for dim in range(b.rank(x)) if b.side(x, dim) == 1)
    return b.call(torch.squeeze, x, over)


def unsqueeze(b: Build, step: FileNode, x: Value, axes: Value | None = None) -> Value:
    """Unsqueeze; axes are an attribute or, in later opsets, an input."""
    over = tuple(step.get("axes") or fixed(axes))
    if not isinstance(x, fx.Node):
        return np.expand_dims(x, over)
    rank = b.rank(x) + len(over)
    for axis in sorted(axis % rank for axis in over):
        x = b.call(torch.unsqueeze, x, axis)
    return x


def expand(b: Build, step: FileNode, x: Value, sides: Value) -> Value:
    """Expand by broadcasting; a new side of 1 means that the side keeps its size."""
    new_sides = list(numbers(sides))
    if not isinstance(x, fx.Node) and not any(isinstance(n, fx.Node) for n in new_sides):
        return np.broadcast_to(x, np.broadcast_shapes(np.shape(x), tuple(new_sides)))
    node = b.tensor(x, step.inputs[0])
    rank = b.rank(node)
    new_sides = [-1] * (rank - len(new_sides)) + new_sides
    added = len(new_sides) - rank
    new_sides = [
        -1 if dim >= added and isinstance(n, int) and n == 1 else n
        for dim, n in enumerate(new_sides)
    ]
    return b.method("expand", node, *new_sides)


def tile(b: Build, step: FileNode, x: Value, counts: Value) -> Value:
    """Tile: repetition along every dimension."""
    if not isinstance(x, fx.Node):
        return np.tile(x, fixed(counts))
    return b.call(torch.tile, x, numbers(counts))


def pad(
    b: Build,
    step: FileNode,
    x: fx.Node,
    pads: Value | None = None,
    value: Value | None = None,
    axes: Value | None = None,
) -> Value:
    """Pad; its amounts are an attribute or, in later opsets, an input.

    ONNX lists them from the first dimension on, torch from the last.
    """
    ends, rank = list(step.get("pads") or numbers(pads)), b.rank(x)
    over = [axis % rank for axis in fixed(axes)] or list(range(rank))
    pairs: list[tuple[Any, Any]] = [(0, 0)] * rank
    for axis, first, last in zip(over, ends[: len(over)], ends[len(over) :], strict=True):
        pairs[axis] = first, last
    while pairs and pairs[0] == (0, 0):
        del pairs[0]
    flat = [n for pair in reversed(pairs) for n in pair]
    mode = step.get("mode", "constant")
    if not flat:
        return x
    if mode == "constant":
        fill = float(fixed(value)[0]) if value is not None else step.get("value", 0.0)
        return b.call(F.pad, x, flat, value=fill)
    if len(pairs) > rank - 2:
        raise refuse(f"a Pad by {mode} of images or channels")
    flat = [0] * (2 * (rank - 2 - len(pairs))) + flat if len(pairs) < rank - 2 else flat
    return b.call(F.pad, x, flat, mode=PADDINGS[mode])


# Pixel shuffles


def depth_to_space(b: Build, step: FileNode, x: fx.Node) -> Value:
    """DepthToSpace: a pixel shuffle; torch's channel order is CRD, so DCR is reordered first."""
    side = step.get("blocksize")
    if step.get("mode", "DCR") == "DCR":
        x = reordered(b, x, side**2)
    return b.call(F.pixel_shuffle, x, side)


def space_to_depth(b: Build, step: FileNode, x: fx.Node) -> Value:
    """SpaceToDepth: the inverse of a pixel shuffle, with its channels reordered to ONNX's order."""
    channels = b.side(x, 1)
    return reordered(b, b.call(F.pixel_unshuffle, x, step.get("blocksize")), channels)


def reordered(b: Build, x: fx.Node, slow: int) -> fx.Node:
    """Reorder channels from (slow, fast) to (fast, slow), where there are `slow` slow indices."""
    order = np.arange(b.side(x, 1)).reshape(slow, -1).T.ravel()
    name = f"order_{len(order)}_{slow}"
    return b.call(torch.index_select, x, 1, b.tensor(order, name))
