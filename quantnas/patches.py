"""Aligned patches of low and high resolution, cut from photographs kept in memory as uint8."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import bicubic, images
from .errors import DataError

LARGEST = 1536
"""Longer sides are cut to this many high-resolution pixels, in the middle, to bound memory."""


@dataclass(frozen=True)
class Pair:
    """A photograph at both resolutions, uint8 RGB."""

    name: str
    low: NDArray[np.uint8]
    """(H, W, 3)"""
    high: NDArray[np.uint8]
    """(scale*H, scale*W, 3)"""


@dataclass(frozen=True)
class Region:
    """A rectangle of low-resolution pixels in one pair."""

    pair: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Patches:
    """Random patches from fixed regions. Every batch is a function of (seed, step) alone."""

    pairs: tuple[Pair, ...]
    regions: tuple[Region, ...]
    size: int
    """Side of a low-resolution patch, pixels."""
    seed: int

    def batch(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """(count, 3, size, size) and (count, 3, scale*size, scale*size), in [0, 1]."""
        rng = np.random.default_rng((self.seed, step))
        chosen = [self._cut(rng) for _ in range(count)]
        low, high = zip(*chosen, strict=True)
        return to_tensor(np.stack(low)), to_tensor(np.stack(high))

    def _cut(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        region = self.regions[rng.integers(len(self.regions))]
        pair, n = self.pairs[region.pair], self.size
        y = region.top + int(rng.integers(region.height - n + 1))
        x = region.left + int(rng.integers(region.width - n + 1))
        s = pair.high.shape[0] // pair.low.shape[0]
        low = pair.low[y : y + n, x : x + n]
        high = pair.high[s * y : s * (y + n), s * x : s * (x + n)]
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        return _turned(low, turns, mirrored), _turned(high, turns, mirrored)


def _turned(image: NDArray[np.uint8], turns: int, mirrored: bool) -> NDArray[np.uint8]:
    image = np.rot90(image, turns)
    return image[:, ::-1] if mirrored else image


def to_tensor(batch: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float().div(255)


def to_image(x: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, rounded and clipped."""
    pixels = x.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def pair(path: Path, scale: int, largest: int | None = None) -> Pair:
    """The photograph and its bicubic low-resolution form. Raises DataError as `images.read`."""
    high = images.read(path)
    if largest is not None:
        y, x = (max(0, side - largest) // 2 for side in high.shape[:2])
        high = high[y : y + largest, x : x + largest]
    high = bicubic.crop_to_multiple(high, scale)
    return Pair(path.stem, bicubic.downscale(high, scale), high)


def load(paths: Sequence[Path], scale: int, size: int) -> tuple[Pair, ...]:
    """Pairs of all photographs that hold a patch of `size` low-resolution pixels.

    Raises DataError when there is none, or as `images.read`.
    """
    pairs = (pair(path, scale, LARGEST) for path in paths)
    kept = tuple(p for p in pairs if min(p.low.shape[:2]) >= size)
    if not kept:
        raise DataError(
            f"No photograph is as large as a patch of {size * scale}x{size * scale} pixels.",
            "Add larger photographs, or make the patches smaller.",
        )
    return kept


def split(
    pairs: Sequence[Pair], size: int, seed: int, shares: Sequence[float]
) -> tuple[Patches, ...]:
    """Patches from disjoint regions of the pairs, in these shares of the regions.

    Raises DataError when there are fewer regions than shares.
    """
    regions = [r for i, p in enumerate(pairs) for r in _regions(i, p, size)]
    if len(regions) < len(shares):
        raise DataError(
            f"The photographs hold only {len(regions)} separate regions for {size}-pixel patches.",
            "Add photographs, or make the patches smaller.",
        )
    order = np.random.default_rng(seed).permutation(len(regions))
    ends = np.round(np.cumsum([0.0, *shares]) / sum(shares) * len(regions)).astype(int)
    places = np.arange(len(ends))
    ends = np.maximum.accumulate(ends - places) + places  # at least one each
    ends = np.minimum(ends, len(regions) - places[::-1])
    return tuple(
        Patches(tuple(pairs), tuple(regions[i] for i in order[a:b]), size, seed)
        for a, b in pairwise(ends)
    )


def _regions(index: int, pair: Pair, size: int) -> list[Region]:
    """A grid of rectangles, each twice the patch's side or a little more where it fits."""
    ys, xs = (_cuts(side, size) for side in pair.low.shape[:2])
    return [
        Region(index, y0, x0, y1 - y0, x1 - x0)
        for y0, y1 in pairwise(ys)
        for x0, x1 in pairwise(xs)
    ]


def _cuts(side: int, size: int) -> list[int]:
    count = max(1, side // (2 * size))
    return [int(v) for v in np.linspace(0, side, count + 1).round()]
