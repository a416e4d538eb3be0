"""Resizing by ONNX's definition, for the forms of Resize and Upsample that torch lacks.

Every side is resized by itself: each new position takes a weighted sum of a few old ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .shape_arithmetic import one_node

Array = NDArray[Any]
F32 = np.float32


@dataclass(frozen=True)
class Sampling:
    """The settings of a Resize, named as its attributes; the defaults are those of ONNX."""

    mode: str = "nearest"
    positions: str = "half_pixel"
    """Attribute `coordinate_transformation_mode`."""
    rounding: str = "round_prefer_floor"
    """Attribute `nearest_mode`."""
    cubic: float = -0.75
    """Attribute `cubic_coeff_a`."""
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0
    """Attribute `extrapolation_value`, for positions outside of the region of interest."""


@dataclass(frozen=True)
class Axis:
    """One side that is resized."""

    old: int
    """Length before, pixels."""
    new: int
    """Length after, pixels."""
    factor: float
    """Enlargement, as it is stated or the ratio of the two lengths."""
    region: tuple[float, float] = (0.0, 1.0)
    """Begin and end of the part that is resized, for `tf_crop_and_resize`."""


@one_node
def resample(
    x: Tensor,
    sizes: tuple[int | None, ...] | None,
    factors: tuple[float, ...] | None,
    regions: tuple[tuple[float, float], ...],
    settings: tuple[Any, ...],
) -> Tensor:
    """Resize all sides of x for which a new size, or a factor other than 1, is given.

    sizes: new length per dimension, None for one that stays; None: `factors` tell them. factors:
    enlargement per dimension, None: `sizes` tell it. regions:
    begin and end of the part that is resized, per dimension; empty = all. settings: the values of
    a `Sampling`, which a graph can only hold as a tuple.
    """
    sampling = Sampling(*settings)
    outside = []
    for dim, old in enumerate(x.shape):
        axis = _axis(old, dim, sizes, factors, regions)
        if axis.new == old and axis.factor == 1:
            continue  # ONNX Runtime does not even crop such a side
        indices, weights, beyond = _taps(axis, sampling)
        x = _weighted(x, dim, indices, weights)
        outside.append((dim, beyond))
    for dim, beyond in outside:
        if sampling.positions == "tf_crop_and_resize" and beyond.any():
            shape = [-1 if k == dim else 1 for k in range(x.ndim)]
            mask = torch.from_numpy(beyond).view(shape).to(x.device)
            x = torch.where(mask, torch.full((), sampling.extrapolation, device=x.device), x)
    return x


def _axis(old: int, dim: int, sizes: Any, factors: Any, regions: Any) -> Axis:
    region = regions[dim] if regions else (0.0, 1.0)
    if sizes is None:
        new = math.floor(F32(old) * F32(factors[dim]))
    else:
        new = old if sizes[dim] is None else int(sizes[dim])
    factor = float(F32(new) / F32(old)) if factors is None else float(factors[dim])
    return Axis(old, new, factor, region)


def _weighted(x: Tensor, dim: int, indices: Array, weights: Array) -> Tensor:
    """Weighted sums along a dimension; indices and weights (new length, number of taps)."""
    total: Tensor | None = None
    shape = [-1 if k == dim else 1 for k in range(x.ndim)]
    for tap in range(indices.shape[1]):
        place = torch.from_numpy(np.ascontiguousarray(indices[:, tap])).to(x.device)
        part = x.index_select(dim, place)
        if not np.all(weights[:, tap] == 1):
            factor = torch.from_numpy(np.ascontiguousarray(weights[:, tap])).to(x)
            part = part * factor.view(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


def _taps(axis: Axis, sampling: Sampling) -> tuple[Array, Array, Array]:
    """Old positions and their weights, each (new length, taps), and which results lie outside."""
    places = POSITIONS[sampling.positions](np.arange(axis.new, dtype=F32), axis).astype(F32)
    outside = (places < 0) | (places > axis.old - 1)
    if sampling.mode == "nearest":
        nearest = ROUNDINGS[sampling.rounding](places).astype(np.int64)
        indices = np.clip(nearest, 0, axis.old - 1)[:, None]
        return indices, np.ones(indices.shape, F32), outside
    shrink = min(axis.factor, 1.0) if sampling.antialias else 1.0
    reach = (2 if sampling.mode == "cubic" else 1) / shrink
    first = np.floor(places - reach).astype(np.int64) + 1
    indices = first[:, None] + np.arange(math.ceil(2 * reach) + 1)
    distances = np.abs(indices - places[:, None]) * F32(shrink)
    weights = _cubic(distances, sampling.cubic) if sampling.mode == "cubic" else _linear(distances)
    if sampling.exclude_outside:
        weights = np.where((indices < 0) | (indices >= axis.old), 0, weights)
    if sampling.exclude_outside or sampling.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    kept = np.any(weights != 0, axis=0)
    indices, weights = indices[:, kept], weights[:, kept]
    return np.clip(indices, 0, axis.old - 1), weights.astype(F32), outside


def _linear(distances: Array) -> Array:
    return np.maximum(0, 1 - distances)


def _cubic(distances: Array, a: float) -> Array:
    """Weights of cubic convolution with the coefficient a (Keys 1981)."""
    d = distances.astype(np.float64)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


# Positions in the old side, of every position in the new one


def _half_pixel(new: Array, axis: Axis) -> Array:
    return (new + F32(0.5)) / F32(axis.factor) - F32(0.5)


def _pytorch_half_pixel(new: Array, axis: Axis) -> Array:
    return _half_pixel(new, axis) if axis.new > 1 else np.zeros_like(new)


def _half_pixel_symmetric(new: Array, axis: Axis) -> Array:
    share = axis.new / (axis.factor * axis.old)
    return F32(axis.old / 2 * (1 - share)) + _half_pixel(new, axis)


def _asymmetric(new: Array, axis: Axis) -> Array:
    return new / F32(axis.factor)


def _align_corners(new: Array, axis: Axis) -> Array:
    if axis.new == 1:
        return np.zeros_like(new)
    return new * F32(axis.old - 1) / F32(axis.new - 1)


def _half_pixel_for_nearest(new: Array, axis: Axis) -> Array:
    return (new + F32(0.5)) / F32(axis.factor)


def _cropped(new: Array, axis: Axis) -> Array:
    begin, end = (F32(side) for side in axis.region)
    last = F32(axis.old - 1)
    if axis.new == 1:
        return np.full_like(new, F32(0.5) * (begin + end) * last)
    return begin * last + new * (end - begin) * last / F32(axis.new - 1)


POSITIONS: dict[str, Callable[[Array, Axis], Array]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "asymmetric": _asymmetric,
    "align_corners": _align_corners,
    "tf_half_pixel_for_nn": _half_pixel_for_nearest,
    "tf_crop_and_resize": _cropped,
}
"""Value of `coordinate_transformation_mode` -> its function."""
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - F32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + F32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}
"""Value of `nearest_mode` -> its function."""
