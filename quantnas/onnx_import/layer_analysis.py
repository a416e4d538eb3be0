"""Analysis of an imported network's layers: the slots of its convolutions, shapes and cost.

It reads the graph, and the shapes in it at several sizes of the image.
"""

import copy
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

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
from quantnas.nn.convolutions import inset_of
from quantnas.nn.tracing import CALL, shapes_for

from . import carried_tensors, layer_roles
from .float_cost import Shapes, float_cost
from .graph_builder import NODE, TENSOR
from .importer import OnnxImport

FLOAT = (Precision(32, 32),)
"""The only pair of bit widths of a layer in float."""
SIZES = ((64, 96), (101, 75), (180, 320), (47, 58))
"""(height, width) at which shapes are computed, once enlarged to sizes that the network takes."""
IMAGES = 2
"""Number of images for which shapes are computed."""
STEPS = 64
"""Largest stride of a layer, relative to the input image, that is looked for, pixels."""
BORDER = 200
"""Largest number of pixels that a layer may lose at the border for its area to be found."""
Size = tuple[int, int]


def parts(imported: OnnxImport, pixels: Pixels) -> tuple[tuple[Slot, ...], tuple[FloatLayer, ...]]:
    """The convolutions that can be quantized, and the other layers that multiply; both in order."""
    sizes, shapes = _shapes(imported, pixels)
    slots: list[Slot] = []
    rest: list[FloatLayer] = []
    for node in imported.network.graph.nodes:
        if node.name not in shapes[0]:
            continue
        module = imported.network.get_submodule(str(node.target)) if node.op == CALL else None
        slot = _slot(node, module, sizes, shapes)
        if slot is not None:
            slots.append(slot)
        else:
            rest += _float_layers(node, module, sizes, shapes)
    named = tuple(_uniquely_named(rest, {slot.name for slot in slots}))
    return tuple(_with_roles(imported.network, slots)), named


def _with_roles(network: fx.GraphModule, slots: Sequence[Slot]) -> Iterator[Slot]:
    """The slots, each with what it is for and whose kernel it shares.

    Where no slot reads the image or makes the pixels, the first or the last one counts as such.
    """
    gates = _targets(layer_roles.weighing(network))
    readers, makers = map(_targets, layer_roles.ends(network))
    names = [slot.name for slot in slots]
    ends = (readers.intersection(names) or {*names[:1]}) | (
        makers.intersection(names) or {*names[-1:]}
    )
    kernels = layer_roles.shared_kernels(network)
    for slot in slots:
        kernel = kernels.get(slot.name, "")
        yield replace(slot, gate=slot.name in gates, end=slot.name in ends, kernel=kernel)


def _targets(nodes: Iterable[fx.Node]) -> set[str]:
    return {str(node.target) for node in nodes}


def _uniquely_named(layers: Sequence[FloatLayer], taken: set[str]) -> Iterator[FloatLayer]:
    """Give layers with the same name different ones, also different from the names in `taken`."""
    count = Counter(taken)
    for layer in layers:
        count[layer.name] += 1
        name = layer.name if count[layer.name] == 1 else f"{layer.name}.{count[layer.name]}"
        yield FloatLayer(name, layer.op, layer.shape, layer.area)


# Shapes


def _shapes(imported: OnnxImport, pixels: Pixels) -> tuple[list[Size], list[Shapes]]:
    """Sizes of images, (height, width), and the shapes of all tensors for each of them."""
    sizes = [tuple(_fitting(side, pixels) for side in size) for size in SIZES]
    network = copy.deepcopy(imported.network).to("meta")
    try:
        seen = [(size, _shapes_at(network, imported, size, IMAGES)) for size in sizes]
    except (RuntimeError, ValueError, IndexError):  # torch raises these for shapes that do not fit
        seen = [(size, _shapes_at(network, imported, size, IMAGES)) for size in imported.sizes]
    images = [(size[0] - 2 * pixels.border, size[1] - 2 * pixels.border) for size, _ in seen]
    return images, [shapes for _, shapes in seen]


def _fitting(side: int, pixels: Pixels) -> int:
    """The smallest side, at least `side`, that the network takes, pixels."""
    return -(-max(side, pixels.smallest) // pixels.multiple) * pixels.multiple


def _shapes_at(network: fx.GraphModule, imported: OnnxImport, size: Any, images: int) -> Shapes:
    """Shapes of all tensors for several images of one size; calibration runs several at once."""
    kind = torch.uint8 if imported.entry.dtype == "uint8" else torch.float32
    with torch.device("meta"):
        image = torch.empty((images, imported.entry.channels, *size), dtype=kind)
        return {node.name: shape for node, shape in shapes_for(network, image).items()}


def area(places: Sequence[float], sizes: Sequence[Size], scale: int) -> Area:
    """The area that has so many positions for images of these sizes; see `search_space.outputs`."""
    for name in AREAS:
        if all(outputs(name, *s, scale) == n for s, n in zip(sizes, places, strict=True)):
            return name
    share = Fraction(places[0] / math.prod(sizes[0])).limit_denominator(10_000)
    return f"{share.numerator}/{share.denominator}"


def _area(shapes: Sequence[tuple[int, ...]], sizes: Sequence[Size]) -> Area:
    """The area of a tensor with these shapes, (N, C, H, W), for images of these sizes."""
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


def _positions(shapes: Sequence[tuple[int, ...]], sizes: Sequence[Size]) -> Area:
    """The area of a layer, also of one whose images were cut into many, as windows are."""
    if all(shape[0] == IMAGES for shape in shapes):
        return _area(shapes, sizes)
    return area([math.prod(shape) / shape[1] / IMAGES for shape in shapes], sizes, 1)


def _side(before: Sequence[int], after: Sequence[int]) -> tuple[int, int, int] | None:
    """Integers (a, b, c) with after = (a * before + b) // c, or None if there are none."""
    pairs = sorted({*zip(before, after, strict=True)})
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
    node: fx.Node, module: Any, sizes: Sequence[Size], shapes: Sequence[Shapes]
) -> Slot | None:
    """The slot of a convolution that can be quantized; None for any other node."""
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
        form = Form(kernel, pads=(module.padding[0], module.padding[1]))
        c_out, place = c_out * up**2, node.all_input_nodes[0].name
    positions = _positions([each[place] for each in shapes], sizes)
    return Slot(str(node.target), c_in, c_in, c_out, (_title(form, up or 1),), FLOAT,
                area=positions, up=up or 1, form=form)  # fmt: skip


def _title(form: Form, up: int) -> str:
    """Name of a convolution as an operation, such as conv3x3_groups2."""
    name = f"{'transposed' if up > 1 else 'conv'}{form.kernel[0]}x{form.kernel[1]}"
    name += f"_groups{form.groups}" if form.groups > 1 else ""
    name += f"_dilation{form.dilation[0]}" if form.dilation != (1, 1) else ""
    if up == 1:
        return name
    usual = form.pads[0] == inset_of(form.kernel[0], up)
    return f"{name}_up{up}" + ("" if usual else f"_pad{form.pads[0]}")


def _up(module: Any) -> int | None:
    """Factor of a transposed convolution that `convolutions.subpixel` can compute, or None."""
    if not isinstance(module, nn.ConvTranspose2d):
        return None
    pads: Any = module.padding
    up, side = module.stride[0], module.kernel_size[0]
    same = module.stride, module.kernel_size, pads, module.output_padding
    square = all(one == other for one, other in same)
    fits = 0 <= module.output_padding[0] == up + 2 * pads[0] - side
    plain = module.groups == 1 and module.dilation == (1, 1)
    return up if square and fits and plain and up > 1 else None


def _float_layers(
    node: fx.Node, module: Any, sizes: Sequence[Size], shapes: Sequence[Shapes]
) -> Iterator[FloatLayer]:
    """Yield the layer that stays in float, if the node is one."""
    layer = float_cost(node, module, shapes)
    if layer is None:
        return
    op, shape, macs = layer
    places = [count / IMAGES / math.prod(shape) for count in macs]
    title = str(node.target) if module is not None else str(node.meta.get(NODE) or node.name)
    name = re.sub(r"\W+", "_", title, flags=re.ASCII).strip("_")
    yield FloatLayer(name, op, shape, area(places, sizes, 1))


ELEMENT, PRODUCT = 6e-7, 1.4e-8
"""Milliseconds that a tensor in float costs more than one in 8 bits: for each element, and for each
product of the convolution that makes it, which then has no fast form. Measured with ONNX Runtime
1.32 on one thread of an AMD EPYC processor with AVX-512 VNNI, 48 channels, 3x3."""


def carried_costs(
    imported: OnnxImport, pixels: Pixels, layers: Collection[str]
) -> dict[str, float]:
    """Tensor that may be carried in 8 bits -> milliseconds that it costs more in float.

    layers: names of the convolutions that are rounded. The image is that of `SIZES`, so that only
    the ratios between tensors matter.
    """
    shapes, costs = _shapes(imported, pixels)[1][0], {}
    for tensor in carried_tensors.carried(imported.network, layers):
        node = tensor.node
        elements = math.prod(shapes[node.name])
        maker = node.all_input_nodes[0] if carried_tensors.is_limit(node) else node
        products = 0.0
        if maker.op == CALL:
            layer: Any = imported.network.get_submodule(str(maker.target))
            products = elements * layer.weight.numel() / len(layer.bias)
        costs[tensor.name] = ELEMENT * elements + PRODUCT * products
    return costs


def require_several(imported: OnnxImport) -> None:
    """Raise DataError for a network that takes only one image at a time."""
    try:
        _shapes_at(copy.deepcopy(imported.network).to("meta"), imported, imported.sizes[0], 3)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            "The network takes one image at a time, but is to be calibrated on several.",
            "Export it with an open number of images.",
        ) from error
