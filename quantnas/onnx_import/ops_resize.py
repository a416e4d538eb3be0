"""ONNX's Resize, Upsample and GridSample: torch's functions where they agree, else `resampling`.

The positions that ONNX calls half_pixel are those of torch. For `asymmetric` positions with linear
interpolation, as in Upsample and in Resize of opset 10, torch has no equivalent.
"""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from . import shape_arithmetic
from .graph_builder import Build, FileNode, Value, fixed, numbers, refuse
from .resampling import POSITIONS, ROUNDINGS, Sampling, resample

HALF = ("half_pixel", "pytorch_half_pixel")
"""Positions that are equal to torch's, except where an enlarged side has one pixel."""
MODES: dict[tuple[str, int], str] = {
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("cubic", 2): "bicubic",
}
"""(ONNX's mode, number of sides that are resized) -> torch's mode."""
POLICIES = {"not_larger": shape_arithmetic.smaller, "not_smaller": shape_arithmetic.larger}
"""How sides keep their ratio -> which of their factors counts for all of them."""
SAMPLINGS = {"linear": "bilinear", "cubic": "bicubic"}
"""Modes of GridSample from opset 20 on -> their names before, which torch uses."""


def resize(b: Build, step: FileNode, x: fx.Node, *more: Value | None) -> Value:
    """Resize by factors or to sizes; the first of its three inputs matters for crops only."""
    if step.opset < 11:
        return upsample(b, step, x, more[0])
    region, factors, sizes = [*more, None, None][:3]
    targets = _numbers(sizes), _numbers(factors)
    sampling = Sampling(
        step.get("mode", "nearest"),
        step.get("coordinate_transformation_mode", "half_pixel"),
        step.get("nearest_mode", "round_prefer_floor"),
        step.get("cubic_coeff_a", -0.75),
        bool(step.get("exclude_outside", 0)),
        bool(step.get("antialias", 0)),
        step.get("extrapolation_value", 0.0),
    )
    crop = fixed(region) if sampling.positions == "tf_crop_and_resize" else ()
    return _resized(b, step, x, targets, sampling, crop)


def upsample(b: Build, step: FileNode, x: fx.Node, factors: Value | None = None) -> Value:
    """Upsample, and Resize before opset 11."""
    targets: tuple[Any, ...] = (), tuple(step.get("scales") or _numbers(factors))
    mode = step.get("mode", "nearest").replace("bilinear", "linear")
    return _resized(b, step, x, targets, Sampling(mode, "asymmetric", "floor"))


def _numbers(value: Value | None) -> tuple[Any, ...]:
    """The elements of an input; none when it is left out."""
    return () if value is None else numbers(value)


def _resized(
    b: Build,
    step: FileNode,
    x: fx.Node,
    targets: tuple[Any, ...],
    sampling: Sampling,
    region: Sequence[float] = (),
) -> Value:
    """Resize x to sizes or by factors.

    targets: sizes and factors per dimension, one of the two empty. region: begins and ends per
    dimension, of the part that `tf_crop_and_resize` takes.
    """
    rank = b.rank(x)
    axes = [axis % rank for axis in step.get("axes") or range(rank)]
    sizes, factors = (dict(zip(axes, values, strict=bool(values))) for values in targets)
    policy = step.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch" and sizes:
        sizes, factors = _of_one_ratio(b, x, sizes, POLICIES[policy])
    mode = None if sizes and factors else _torch_mode(b, x, sizes, factors, sampling)
    if mode is None:
        return _by_definition(b, x, sizes, factors, sampling, _regions(axes, region, rank))
    keywords: dict[str, Any] = {"mode": mode}
    if sizes:
        keywords["size"] = tuple(sizes.get(d, b.side(x, d)) for d in range(2, rank))
    else:
        keywords["scale_factor"] = tuple(factors.get(d, 1.0) for d in range(2, rank))
    if not mode.startswith("nearest"):
        keywords["align_corners"] = sampling.positions == "align_corners"
    return b.call(F.interpolate, x, **keywords)


def _of_one_ratio(
    b: Build, x: fx.Node, sizes: dict[int, Any], choose: Any
) -> tuple[dict[int, Any], dict[int, Any]]:
    """Sizes and factors for which all sides are enlarged alike, within the given sizes."""
    ratios = [shape_arithmetic.apply(b, _ratio, n, b.side(x, d)) for d, n in sizes.items()]
    factor = ratios[0]
    for ratio in ratios[1:]:
        factor = shape_arithmetic.apply(b, choose, factor, ratio)
    enlarged = {d: shape_arithmetic.apply(b, _product, b.side(x, d), factor) for d in sizes}
    return enlarged, dict.fromkeys(sizes, factor)


@shape_arithmetic.one_node
def _ratio(new: int, old: int) -> float:
    return new / old


@shape_arithmetic.one_node
def _product(side: int, factor: float) -> int:
    """The side times the factor, rounded half up."""
    return int(side * factor + 0.5)


def _by_definition(
    b: Build,
    x: fx.Node,
    sizes: dict[int, Any],
    factors: dict[int, Any],
    sampling: Sampling,
    regions: tuple[tuple[float, float], ...],
) -> Value:
    """Resize by `resampling.resample`."""
    known = sampling.positions in POSITIONS and sampling.rounding in ROUNDINGS
    if not known or sampling.mode not in ("nearest", "linear", "cubic"):
        raise refuse(f"a Resize with {sampling.positions} positions by {sampling.mode}")
    dims = range(b.rank(x))
    new = tuple(sizes.get(d) for d in dims) if sizes else None
    by = tuple(factors.get(d, 1.0) for d in dims) if factors else None
    return b.call(resample, x, new, by, regions, astuple(sampling))


def _regions(
    axes: Sequence[int], region: Sequence[float], rank: int
) -> tuple[tuple[float, float], ...]:
    """Begin and end of the part that is resized, per dimension; none where no region is given."""
    if not region:
        return ()
    ends = dict(zip(axes, zip(region[: len(axes)], region[len(axes) :], strict=True), strict=True))
    return tuple(ends.get(dim, (0.0, 1.0)) for dim in range(rank))


def _torch_mode(
    b: Build, x: fx.Node, sizes: dict[int, Any], factors: dict[int, Any], sampling: Sampling
) -> str | None:
    """The mode in which torch's interpolate computes the same; None if it cannot."""
    rank, sides = b.rank(x), b.rank(x) - 2
    kept = [b.seen(sizes.get(d, b.side(x, d))) == b.seen(b.side(x, d)) for d in (0, 1)]
    kept += [factors.get(d, 1.0) == 1 for d in (0, 1)]
    if not all(kept) or sides not in (1, 2) or sampling.antialias or sampling.exclude_outside:
        return None
    if sampling.mode == "nearest":
        whole = _whole(b, x, [{**sizes}, {**factors}], rank)
        return _nearest(sampling.rounding, sampling.positions, whole)
    if sampling.positions not in (*HALF, "align_corners"):
        return None
    usual = sampling.mode != "cubic" or sampling.cubic == -0.75
    return MODES.get((sampling.mode, sides)) if usual else None


def _whole(b: Build, x: fx.Node, targets: list[dict[int, Any]], rank: int) -> bool:
    """Whether every side is enlarged by a whole number."""
    sizes, factors = targets
    for example, k in zip(b.examples[x], (0, 1), strict=True):
        for d in range(2, rank):
            old = example.shape[d]
            new = b.seen(sizes[d])[k] if d in sizes else int(old * b.seen(factors.get(d, 1.0))[k])
            if new % old:
                return False
    return True


def _nearest(rounding: str, positions: str, whole: bool) -> str | None:
    """Torch's mode for a nearest Resize; whole: whether factors are whole numbers."""
    if (positions, rounding) == ("asymmetric", "floor"):
        return "nearest"
    if positions in (*HALF, "tf_half_pixel_for_nn") and rounding.startswith("round"):
        if whole and positions in HALF:  # no position lies half-way between two pixels
            return "nearest"
        if positions in HALF and rounding == "round_prefer_ceil":
            return "nearest-exact"
    return None


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
