"""Enlarges photographs of any size in little memory: tile by tile, with overlap.

A tile is computed with as much around it as the network looks at, so tiles of a convolutional
network equal the whole. Where they meet, neighbours are compared: that tells how visible the seams
can be, for every network.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.config.search_space import Pixels
from quantnas.data.patches import to_image, to_tensor
from quantnas.onnx_import.onnx_session import open_session

from . import receptive_field
from .receptive_field import Reach
from .upscaler import Upscaler, cannot, onnx_upscaler, through, torch_upscaler

SIDE = 512
"""Pixels of a tile's side, with its overlap: about 0.7 GB in RFDN in float, less in others."""
LARGEST = 1024
"""The same where a network looks at the whole image: then it is only cut when it must be."""
UNKNOWN = 64
"""Pixels that a tile sees of its neighbours where it is not known how far a network looks."""
LEAST = 64
"""Pixels of a tile's side without its overlap, at least."""

Image = NDArray[np.uint8]
Part = Callable[[Image, NDArray[np.float32], NDArray[np.float32]], Image]
"""(part of an image, matrix of its rows, of its columns; see `receptive_field.stretching`) -> enlarged."""


@dataclass(frozen=True)
class Network:
    """A network that enlarges whole images and parts of them."""

    scale: int
    whole: Upscaler
    reach: Reach
    part: Callable[[], Part]
    """Loads what enlarges parts of an image where an attention needs to know of the rest."""


@dataclass(frozen=True)
class Tiling:
    """How to cut; pixels of the low-resolution image."""

    side: int | None = None
    """Of a tile without its overlap; 0 = do not cut. None: as large as the memory allows, and not
    cut when the image is small."""
    overlap: int | None = None
    """On each side of a tile; None = as far as the network looks."""


@dataclass(frozen=True)
class Span:
    """A tile along one axis: what it is for, [start, stop), and what it reads, [first, last)."""

    start: int
    stop: int
    first: int
    last: int


Tile = tuple[Span, Span]
"""Along height and width."""


@dataclass(frozen=True)
class Enlarged:
    """An image (scale*H, scale*W, 3), and how well its tiles fit."""

    image: Image
    seam: int = 0
    """Largest difference of neighbouring tiles where they meet, of 255."""
    tiles: int = 1


def load(source: Path | nn.Module, scale: int, pixels: Pixels | None = None) -> Network:
    """An exported file or a network, ready to run. Raises DataError when it cannot be loaded.

    pixels: what a file from elsewhere takes and gives; how far it looks is not known.
    """
    foreign = pixels is not None or isinstance(source, ImportedNetwork)
    unknown = Reach(UNKNOWN, whole=True)  # never an attention, so it is not asked for its parts
    if isinstance(source, Path):
        whole, part = onnx_upscaler(source, pixels), partial(_file_part, source)
        return Network(
            scale, whole, unknown if foreign else receptive_field.of_file(source), cache(part)
        )
    net, part = torch_upscaler(source), partial(_network_part, source)
    return Network(
        scale, net, unknown if foreign else receptive_field.of_network(source), cache(part)
    )


def _file_part(path: Path) -> Part:
    run = open_session(receptive_field.file_for_parts(path))

    def enlarge(low: Image, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Image:
        return through(run, low, {"rows": rows, "columns": columns})

    return enlarge


def _network_part(network: nn.Module) -> Part:
    net, device = receptive_field.network_for_parts(network), next(network.parameters()).device

    @torch.no_grad()
    def enlarge(low: Image, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Image:
        matrices: list[Tensor] = [torch.from_numpy(m).to(device) for m in (rows, columns)]
        return to_image(net(to_tensor(low[None]).to(device), *matrices)[0])

    return enlarge


def plan(height: int, width: int, found: Reach, tiling: Tiling) -> list[Tile]:
    """The tiles of an image, row after row; one where it is not cut."""
    overlap = found.pixels if tiling.overlap is None else tiling.overlap
    side, limit = tiling.side, LARGEST if found.whole else SIDE
    if side is None:
        side = 0 if height * width <= limit**2 else max(LEAST, limit - 2 * overlap)
    columns = spans(width, side, overlap, found)
    return [(y, x) for y in spans(height, side, overlap, found) for x in columns]


def spans(length: int, side: int, overlap: int, found: Reach) -> list[Span]:
    """An axis in parts of about equal length, `side` at most; 0 = one part."""
    grid, least = (receptive_field.GRID, receptive_field.SMALLEST) if found.attention else (1, 1)
    count = -(-length // side) if side else 1
    ends = [length * k // count for k in range(count + 1)]
    result = []
    for start, stop in pairwise(ends):
        first = max(0, min(start - overlap, length - least)) // grid * grid
        last = min(length, max(stop + overlap, first + least))
        result.append(Span(start, stop, first, last))
    return result


def enlarge(
    network: Network, low: Image, tiling: Tiling = Tiling()
) -> Generator[int, None, Enlarged]:
    """Yield the number of tiles done, from 1 on; the large image as the generator's result.

    An image that is too small for the network is mirrored until it is not, and the rest of the
    result cut off. Raises DataError as the network's upscaler.
    """
    height, width = low.shape[:2]
    least = receptive_field.SMALLEST if network.reach.attention else 1
    lacking = [(0, max(0, least - side)) for side in (height, width)]
    low = np.pad(low, (*lacking, (0, 0)), "symmetric")
    tiles = plan(low.shape[0], low.shape[1], network.reach, tiling)
    if len(tiles) == 1:
        found = Enlarged(network.whole(low))
        yield 1
    else:
        found = yield from _tiled(network, low, tiles)
    cut = found.image[: height * network.scale, : width * network.scale]
    return Enlarged(np.ascontiguousarray(cut), found.seam, len(tiles))


def _tiled(network: Network, low: Image, tiles: list[Tile]) -> Generator[int, None, Enlarged]:
    scale, seam = network.scale, 0
    large = np.empty((low.shape[0] * scale, low.shape[1] * scale, 3), np.uint8)
    for done, (y, x) in enumerate(tiles, 1):
        got = _one(network, low, y, x)
        top, left = y.first * scale, x.first * scale
        rows, columns = (slice(s.start * scale, s.stop * scale) for s in (y, x))
        for axis, span in enumerate((y, x)):
            if span.first < span.start:  # the pixel before it, which its neighbour has made
                edge = slice((span.start - 1) * scale, span.start * scale)
                line = (edge, columns) if axis == 0 else (rows, edge)
                seam = max(seam, _difference(large[line], _moved(got, line, top, left)))
        large[rows, columns] = _moved(got, (rows, columns), top, left)
        yield done
    return Enlarged(large, seam)


def _one(network: Network, low: Image, y: Span, x: Span) -> Image:
    part = low[y.first : y.last, x.first : x.last]
    if not network.reach.attention:
        return network.whole(part)
    rows, columns = (
        receptive_field.stretching(full, s.first, s.last - s.first)
        for full, s in zip(low.shape[:2], (y, x), strict=True)
    )
    try:
        return network.part()(part, rows, np.ascontiguousarray(columns.T))
    except Exception as error:  # ONNX Runtime has no class for what is wrong with an image
        raise cannot("The network", part, error) from error


def _moved(image: Image, at: tuple[slice, slice], top: int, left: int) -> Image:
    """What lies at these places of the large image, taken from a tile that begins at top, left."""
    y, x = at
    return image[y.start - top : y.stop - top, x.start - left : x.stop - left]


def _difference(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


def upscaler(network: Network, tiling: Tiling = Tiling()) -> Upscaler:
    """A network as a function that cuts large photographs."""

    def upscale(low: Image) -> Image:
        steps = enlarge(network, low, tiling)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                image: Image = end.value.image
                return image

    return upscale
