"""Random training patches: aligned crops of photographs at low and high resolution."""

import hashlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantnas.errors import DataError


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
    """Random patches from fixed regions; every batch depends on (seed, step) alone."""

    pairs: tuple[Pair, ...]
    regions: tuple[Region, ...]
    size: int
    """Side of a low-resolution patch, pixels."""
    seed: int

    def batch(self, step: int, count: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Draw the batch of a training step, at low and high resolution, in [0, 1].

        The two tensors have the shapes (count, 3, size, size) and (count, 3, scale*size,
        scale*size). rows: the part of the batch to return; the other rows are not copied.
        """
        rng = np.random.default_rng((self.seed, step))
        n, first = self.size, self.pairs[0]
        s = first.high.shape[0] // first.low.shape[0]
        indices = range(count)[rows]
        low = np.empty((len(indices), n, n, 3), np.uint8)
        high = np.empty((len(indices), s * n, s * n, 3), np.uint8)
        for i in range(indices.stop):
            cut = self._cut(rng)  # earlier rows are drawn too, since each draw advances `rng`
            if i >= indices.start:
                for target, patch in zip((low, high), cut, strict=True):
                    _put(target[i - indices.start], patch)
        return to_tensor(low), to_tensor(high)

    def fingerprint(self) -> str:
        """A hash of names, sizes and one batch, which differs where the patches differ."""
        digest = hashlib.sha256(repr(self.regions).encode())
        for pair in self.pairs:
            digest.update(f"{pair.name} {pair.low.shape} {pair.high.shape}".encode())
        for part in self.batch(0, 16):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def batches(
        self, first: int, last: int, count: int, rows: slice = slice(None)
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield the `batch` of every step from `first` to `last` - 1.

        A thread prepares the next batch while one is in use; it ends with the generator.
        """
        with ThreadPoolExecutor(1, "patches") as thread:
            begun = (thread.submit(self.batch, step, count, rows) for step in range(first, last))
            ahead = next(begun, None)
            while ahead is not None:
                ready, ahead = ahead.result(), next(begun, None)
                yield ready

    def _cut(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw one patch, (size, size, 3) and (scale*size, scale*size, 3), turned at random."""
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
    """`image` (H, W, 3) rotated by `turns` quarter turns and, if `mirrored`, flipped."""
    image = np.rot90(image, turns)
    return image[:, ::-1] if mirrored else image


def _put(target: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """Copy a turned image colour by colour, five times as fast as pixel by pixel."""
    for colour in range(3):
        target[..., colour] = image[..., colour]


def to_tensor(batch: NDArray[np.uint8]) -> Tensor:
    """Convert images (N, H, W, 3) of uint8 to a tensor (N, 3, H, W) of float32 in [0, 1].

    Numpy divides, because torch would start threads of its own for every thread that calls it.
    """
    scaled = np.divide(batch, np.float32(255), dtype=np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)


def to_image(x: Tensor) -> NDArray[np.uint8]:
    """Convert a tensor (3, H, W) in [0, 1] to an image (H, W, 3) of uint8, rounded and clipped."""
    pixels = x.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def split(
    pairs: Sequence[Pair], size: int, seed: int, shares: Sequence[float]
) -> tuple[Patches, ...]:
    """Divide regions of the pairs at random into disjoint sets of patches.

    size: side of a low-resolution patch, pixels. shares: relative number of regions of each set,
    which has at least one. Raises DataError when there are fewer regions than shares.
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
    """Divide a pair into a grid of rectangles whose sides are about twice a patch's or more."""
    ys, xs = (_cuts(side, size) for side in pair.low.shape[:2])
    return [
        Region(index, y0, x0, y1 - y0, x1 - x0)
        for y0, y1 in pairwise(ys)
        for x0, x1 in pairwise(xs)
    ]


def _cuts(side: int, size: int) -> list[int]:
    """Positions that divide a side into equal parts of about twice `size` or more, pixels."""
    count = max(1, side // (2 * size))
    return [int(v) for v in np.linspace(0, side, count + 1).round()]
