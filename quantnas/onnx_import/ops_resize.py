"""ONNX's Resize, Upsample and GridSample, translated to torch where the two agree exactly.

The positions that ONNX calls half_pixel are those of torch. For `asymmetric` positions with linear
interpolation, as in Upsample and in Resize of opset 10, torch has no equivalent.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from . import shape_arithmetic
from .graph_builder import Build, FileNode, Value, numbers, refuse

HALF = ("half_pixel", "pytorch_half_pixel")
"""Positions that are equal to torch's, except where an enlarged side has one pixel."""
MODES: dict[tuple[str, int], str] = {
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("cubic", 2): "bicubic",
}
"""(ONNX's mode, number of sides that are resized) -> torch's mode."""
SAMPLINGS = {"linear": "bilinear", "cubic": "bicubic"}
"""Modes of GridSample from opset 20 on -> their names before, which torch uses."""


def resize(b: Build, step: FileNode, x: fx.Node, *more: Value | None) -> Value:
    """Resize by factors or to sizes; the first of its three inputs matters for crops only."""
    if step.opset < 11:
        return upsample(b, step, x, more[0])
    _, factors, sizes = [*more, None, None][:3]
    for name, plain in (("antialias", 0), ("exclude_outside", 0)):
        if step.get(name, plain) != plain:
            raise refuse(f"a Resize with {name}")
    if step.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refuse("a Resize that keeps the ratio of the sides")
    targets = _numbers(sizes), _numbers(factors)
    positions = step.get("coordinate_transformation_mode", "half_pixel")
    return _resized(b, step, x, targets, positions)


def upsample(b: Build, step: FileNode, x: fx.Node, factors: Value | None = None) -> Value:
    """Upsample, and Resize before opset 11."""
    targets: tuple[Any, ...] = (), tuple(step.get("scales") or _numbers(factors))
    return _resized(b, step, x, targets, "asymmetric")


def _numbers(value: Value | None) -> tuple[Any, ...]:
    """The elements of an input; none when it is left out."""
    return () if value is None else numbers(value)


def _resized(
    b: Build, step: FileNode, x: fx.Node, targets: tuple[Any, ...], positions: str
) -> Value:
    """Resize height and width of x. Refuses to resize the number of images or channels.

    targets: sizes and factors per dimension, one of the two empty.
    """
    sides, rank = b.rank(x) - 2, b.rank(x)
    axes = [axis % rank for axis in step.get("axes") or range(rank)]
    sizes, factors = (dict(zip(axes, values, strict=bool(values))) for values in targets)
    kept = [b.seen(sizes.pop(d, b.side(x, d))) == b.seen(b.side(x, d)) for d in (0, 1)]
    kept += [factors.pop(d, 1.0) == 1 for d in (0, 1)]
    if not all(kept) or sides not in (1, 2):
        raise refuse("a Resize of other than height and width")
    keywords: dict[str, Any] = {}
    if sizes:
        keywords["size"] = tuple(sizes.get(d, b.side(x, d)) for d in range(2, rank))
    else:
        keywords["scale_factor"] = tuple(factors.get(d, 1.0) for d in range(2, rank))
    mode, corners = _mode(step, positions, sides, _whole(b, x, keywords))
    if corners is not None:
        keywords["align_corners"] = corners
    return b.call(F.interpolate, x, mode=mode, **keywords)


def _whole(b: Build, x: fx.Node, keywords: dict[str, Any]) -> bool:
    """Whether every side is enlarged by a whole number."""

    def at(k: int) -> dict[str, Any]:
        return {key: tuple(b.seen(n)[k] for n in v) for key, v in keywords.items()}

    enlarged = [F.interpolate(e, **at(k)) for k, e in enumerate(b.examples[x])]
    pairs = zip(b.examples[x], enlarged, strict=True)
    return all(n % m == 0 for e, f in pairs for m, n in zip(e.shape, f.shape, strict=True))


def _mode(step: FileNode, positions: str, sides: int, whole: bool) -> tuple[str, bool | None]:
    """Torch's mode, and its `align_corners`, which is None for modes without that argument."""
    mode, description = step.get("mode", "nearest"), f"a Resize with {positions} positions"
    if mode == "nearest":
        return _nearest(step, positions, whole), None
    if mode == "cubic" and step.get("cubic_coeff_a", -0.75) != -0.75:
        raise refuse("a cubic Resize with another coefficient than -0.75")
    if (mode, sides) not in MODES or positions not in (*HALF, "align_corners"):
        raise refuse(f"{description} and {mode} interpolation")
    return MODES[mode, sides], positions == "align_corners"


def _nearest(step: FileNode, positions: str, whole: bool) -> str:
    """Torch's mode for a nearest Resize; whole: whether factors are whole numbers."""
    default = "floor" if step.opset < 11 else "round_prefer_floor"
    rounding = step.get("nearest_mode", default)
    if (positions, rounding) == ("asymmetric", "floor"):
        return "nearest"
    if positions in (*HALF, "tf_half_pixel_for_nn") and rounding.startswith("round"):
        if whole:  # no position lies half-way between two pixels
            return "nearest"
        if positions in HALF and rounding == "round_prefer_ceil":
            return "nearest-exact"
    raise refuse(f"a nearest Resize with {positions} positions, rounded by {rounding}")


def grid_sample(b: Build, step: FileNode, x: fx.Node, grid: Value) -> Value:
    """GridSample in two dimensions: an image at computed positions."""
    if b.rank(x) != 4:
        raise refuse(f"a GridSample in {b.rank(x) - 2} dimensions")
    mode = step.get("mode", "linear")
    borders, corners = step.get("padding_mode", "zeros"), bool(step.get("align_corners", 0))
    places = shape_arithmetic.as_tensor(b, grid, step.inputs[1])
    return b.call(sampled, x, places, SAMPLINGS.get(mode, mode), borders, corners)


@shape_arithmetic.one_node
def sampled(x: Tensor, places: Tensor, mode: str, borders: str, corners: bool) -> Tensor:
    """torch's grid_sample, which is a thousand times slower where only shapes are computed.

    x (N, C, H, W), places (N, H', W', 2) -> (N, C, H', W').
    """
    if x.is_meta:
        return x.new_empty((*x.shape[:2], *places.shape[1:3]))
    return F.grid_sample(x, places, mode, borders, corners)
