"""What the layers of an imported network are, how often they run, and which only weigh others.

Read from the graph, and from the shapes in it at several sizes of the image.
"""

import copy
import math
import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quantnas.config.search_space import (
    AREAS,
    Area,
    FloatLayer,
    Form,
    Pixels,
    Precision,
    Slot,
    outputs,
)
from quantnas.errors import DataError
from quantnas.nn.tracing import CALL, watch

from .graph_builder import NODE, TENSOR
from .importer import OnnxImport

FLOAT = (Precision(32, 32),)
SIZES = ((64, 96), (101, 75), (180, 320), (47, 58))
"""Heights and widths at which shapes are looked at, before they are made to fit."""
STEPS = 64
"""Largest step of a layer that is looked for, pixels."""
BORDER = 200
"""The same of what is lost at its border."""
NORMS = (F.batch_norm, F.instance_norm, F.layer_norm, F.group_norm)
WEIGHING = (torch.sigmoid, F.hardsigmoid)
"""What ends an attention, in front of a product."""
POSITIVE = (torch.relu, F.relu, F.relu6, *WEIGHING)
MOVES = (
    torch.cat, torch.reshape, torch.permute, torch.max_pool2d, F.max_pool2d, F.avg_pool2d,
    torch.mean, F.pixel_shuffle, F.pixel_unshuffle, torch.index_select, operator.getitem,
)  # fmt: skip
"""What keeps the sign of what it is given."""
STRETCHES = (*MOVES, F.interpolate, torch.unsqueeze, torch.squeeze, torch.Tensor.expand)

Shapes = Mapping[str, tuple[int, ...]]
"""Node -> shape of the tensor that it gives."""
Size = tuple[int, int]


def parts(found: OnnxImport, pixels: Pixels) -> tuple[tuple[Slot, ...], tuple[FloatLayer, ...]]:
    """The convolutions that can be rounded, and what else multiplies; both in their order."""
    sizes, shapes = _shapes(found, pixels)
    gates = weighing(found.network)
    slots: list[Slot] = []
    rest: list[FloatLayer] = []
    for node in found.network.graph.nodes:
        if node.name not in shapes[0]:
            continue
        module = found.network.get_submodule(str(node.target)) if node.op == CALL else None
        slot = _slot(node, module, node in gates, sizes, shapes)
        if slot is not None:
            slots.append(slot)
        else:
            rest += _beside(node, module, sizes, shapes)
    return tuple(slots), tuple(_apart(rest, {slot.name for slot in slots}))


def _apart(rows: Sequence[FloatLayer], taken: set[str]) -> Iterator[FloatLayer]:
    """Under different names."""
    count = Counter(taken)
    for row in rows:
        count[row.name] += 1
        name = row.name if count[row.name] == 1 else f"{row.name}.{count[row.name]}"
        yield FloatLayer(name, row.op, row.shape, row.area)


# Shapes


def _shapes(found: OnnxImport, pixels: Pixels) -> tuple[list[Size], list[Shapes]]:
    """Sizes of images, and the shapes at each of them."""
    wanted = [tuple(_fitting(side, pixels) for side in size) for size in SIZES]
    network = copy.deepcopy(found.network).to("meta")
    try:
        seen = [(size, _at(network, found, size, 2)) for size in wanted]
    except (RuntimeError, ValueError, IndexError):  # as torch refuses shapes
        seen = [(size, _at(network, found, size, 2)) for size in found.sizes]
    return [size for size, _ in seen], [shapes for _, shapes in seen]  # type: ignore[misc]


def _fitting(side: int, pixels: Pixels) -> int:
    return -(-max(side, pixels.smallest) // pixels.multiple) * pixels.multiple


def _at(network: fx.GraphModule, found: OnnxImport, size: Any, images: int) -> Shapes:
    """For several images: they are quantized on many at once."""
    shapes = {}

    def see(node: fx.Node, value: Tensor) -> None:
        shapes[node.name] = tuple(value.shape)

    kind = torch.uint8 if found.entry.dtype == "uint8" else torch.float32
    with torch.device("meta"):
        watch(network, torch.empty((images, found.entry.channels, *size), dtype=kind), see)
    return shapes


def area(places: Sequence[float], sizes: Sequence[Size], scale: int) -> Area:
    """A form of `search_space.outputs` that gives so many places for images of these sizes."""
    for name in AREAS:
        if all(outputs(name, *s, scale) == n for s, n in zip(sizes, places, strict=True)):
            return name
    share = Fraction(places[0] / math.prod(sizes[0])).limit_denominator(10_000)
    return f"{share.numerator}/{share.denominator}"


def _area(shapes: Sequence[tuple[int, ...]], sizes: Sequence[Size]) -> Area:
    """The same of the sides of images (N, C, H, W)."""
    counts = [math.prod(shape[2:]) for shape in shapes]
    usual = [n for n in AREAS if n != "high"]
    for name in usual:
        if all(outputs(name, *s, 1) == n for s, n in zip(sizes, counts, strict=True)):
            return name
    sides = [_side([size[k] for size in sizes], [shape[2 + k] for shape in shapes]) for k in (0, 1)]
    if None in sides:
        return area(counts, sizes, 1)
    (a, b, c), (d, e, f) = sides  # type: ignore[misc]
    return f"{a}h{b:+d}/{c}*{d}w{e:+d}/{f}"


def _side(given: Sequence[int], made: Sequence[int]) -> tuple[int, int, int] | None:
    """(a, b, c) with made = (a * given + b) // c"""
    pairs = sorted({*zip(given, made, strict=True)})
    if len(pairs) < 2:
        return None
    (x, y), (u, v) = pairs[0], pairs[-1]
    rise = Fraction(v - y, u - x)
    for c in range(1, STEPS + 1):
        for a in {round(rise * c), math.ceil(rise * c), math.floor(rise * c)} - {0}:
            for b in sorted(range(-BORDER, BORDER), key=abs):
                if all((a * n + b) // c == m for n, m in pairs):
                    return a, b, c
    return None


# Layers


def _slot(
    node: fx.Node, module: Any, gate: bool, sizes: Sequence[Size], shapes: Sequence[Shapes]
) -> Slot | None:
    """Of a convolution that can be rounded."""
    up = _up(module)
    if node.meta.get(TENSOR) is None or not (isinstance(module, nn.Conv2d) or up):
        return None
    c_in, c_out, place = module.in_channels, module.out_channels, node.name
    kernel = (module.kernel_size[0], module.kernel_size[1])
    form = Form(kernel)
    if up is None:
        pads = (module.padding[0], module.padding[1])
        dilation, stride = module.dilation, module.stride
        form = Form(kernel, module.groups, (stride[0], stride[1]), pads, (dilation[0], dilation[1]))
    else:
        c_out, place = c_out * up**2, node.all_input_nodes[0].name
    where = _area([each[place] for each in shapes], sizes)
    return Slot(str(node.target), c_in, c_in, c_out, (_title(form, up or 1),), FLOAT,
                area=where, gate=gate, up=up or 1, form=form)  # fmt: skip


def _title(form: Form, up: int) -> str:
    name = f"{'transposed' if up > 1 else 'conv'}{form.kernel[0]}x{form.kernel[1]}"
    name += f"_groups{form.groups}" if form.groups > 1 else ""
    name += f"_dilation{form.dilation[0]}" if form.dilation != (1, 1) else ""
    return name + (f"_up{up}" if up > 1 else "")


def _up(module: Any) -> int | None:
    """The factor of a transposed convolution that ours can stand for (`convolutions.subpixel`)."""
    if not isinstance(module, nn.ConvTranspose2d):
        return None
    pads: Any = module.padding
    up, side = module.stride[0], module.kernel_size[0]
    inset = (side - up + 1) // 2
    same = module.stride, module.kernel_size, pads, module.output_padding
    square = all(one == other for one, other in same)
    fits = pads[0] == inset and module.output_padding[0] == up + 2 * inset - side
    plain = module.groups == 1 and module.dilation == (1, 1)
    return up if square and fits and plain and up > 1 else None


def _beside(
    node: fx.Node, module: Any, sizes: Sequence[Size], shapes: Sequence[Shapes]
) -> Iterator[FloatLayer]:
    """A layer that stays in float, if the node is one."""
    found = _float(node, module, shapes)
    if found is None:
        return
    op, shape, macs = found
    places = [count / 2 / math.prod(shape) for count in macs]  # of two images
    title = str(node.target) if module is not None else str(node.meta.get(NODE) or node.name)
    name = re.sub(r"\W+", "_", title, flags=re.ASCII).strip("_")
    yield FloatLayer(name, op, shape, area(places, sizes, 1))


def _float(node: fx.Node, module: Any, shapes: Sequence[Shapes]) -> Any:
    """(operation, shape, multiply-accumulates at every size), or None."""
    made = [math.prod(each[node.name]) for each in shapes]
    read = [each.get(n.name, ()) for n in node.all_input_nodes[:1] for each in shapes]
    if isinstance(module, nn.Linear):
        each = module.in_features
        return "linear", (module.out_features, each, 1, 1), [n * each for n in made]
    if isinstance(module, nn.Conv1d):
        c_out, c_in, side = module.weight.shape
        return "conv1d", (c_out, c_in, side, 1), [n * c_in * side for n in made]
    if isinstance(module, nn.ConvTranspose2d):
        c_in, more, *sides = module.weight.shape
        shape = (more * module.groups, c_in // module.groups, *sides)
        return "upconv", shape, [math.prod(s) * more * math.prod(sides) for s in read]
    if node.target is torch.matmul:
        inner = [s[-1] for s in read]
        same = len({*inner}) == 1
        macs = [n * k for n, k in zip(made, inner, strict=True)]
        return "product", (1, inner[0] if same else 1, 1, 1), macs
    if node.target in NORMS:
        deep: Any = node.args[1] if node.target is F.layer_norm else shapes[0][node.name][1:2]
        return "normalisation", (math.prod(deep), 1, 1, 1), made
    return None


# Signs, and what weighs


def positive(network: fx.GraphModule) -> set[fx.Node]:
    """The tensors that have no negative values."""
    found: set[fx.Node] = set()
    for node in network.graph.nodes:
        lowest = node.args[1] if node.target is torch.clamp else None
        kept = node.target in (*MOVES, operator.add, operator.mul)
        read = node.all_input_nodes
        if (
            node.op == "placeholder"
            or node.target in POSITIVE
            or (isinstance(lowest, int | float) and lowest >= 0)
            or (kept and read and all(n in found or n.op == "call_method" for n in read))
        ):
            found.add(node)
    return found


def weighing(network: fx.GraphModule) -> set[fx.Node]:
    """What only ever becomes a factor of others, behind a sigmoid: an attention."""
    found: set[fx.Node] = set()
    for node in reversed(network.graph.nodes):
        users = list(node.users)
        if not users:
            continue
        ends = node.target in WEIGHING and all(map(_weighs, users))
        if ends or all(user in found for user in users):
            found.add(node)
    return found


def _weighs(user: fx.Node) -> bool:
    """Whether it multiplies by a tensor, directly or behind a stretching."""
    if user.target is operator.mul:
        return True
    stretched = user.target in STRETCHES or user.op == "call_method"
    return stretched and bool(user.users) and all(map(_weighs, user.users))


def require_several(found: OnnxImport) -> None:
    """Raise DataError for a network that takes one image at a time only."""
    try:
        _at(copy.deepcopy(found.network).to("meta"), found, found.sizes[0], 3)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            "The network takes one image at a time, but is to be calibrated on several.",
            "Export it with an open number of images.",
        ) from error
