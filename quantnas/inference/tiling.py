"""Enlarging photographs of any size in little memory: tile by tile, with overlap.

A tile is computed with as much around it as the receptive field covers, so the tiles of a
convolutional network equal the whole image. Neighbouring tiles are compared where they meet, which
tells for every network how visible the seams can be.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.config.search_space import Pixels
from quantnas.data.patches import to_image, to_tensor
from quantnas.onnx_import.onnx_session import open_session

from . import receptive_field, tile_memory
from .receptive_field import ReceptiveField
from .upscaler import (
    Upscaler,
    enlarge_error,
    fixed_size,
    load_session,
    onnx_upscaler,
    run_session,
    session_upscaler,
    torch_upscaler,
)

SIDE = 512
"""Length of a tile's side with its overlap, pixels; less for networks that need much memory for
each pixel (`tile_memory`)."""
LARGEST = 1024
"""Length of a tile's side with its overlap for networks whose receptive field is the whole image,
pixels: larger than `SIDE`, so that these images are cut only when they must be."""
UNKNOWN = 64
"""Overlap of tiles for networks whose receptive field is not known, pixels."""
LEAST = 64
"""Least length of a tile's side without its overlap, pixels."""
SHARE = 4
"""Part of a fixed side by which tiles overlap at each end, if it is less than `UNKNOWN`."""

Image = NDArray[np.uint8]
FixedSize = tuple[int | None, int | None]
Part = Callable[[Image, NDArray[np.float32], NDArray[np.float32]], Image]
"""Function (part of an image, matrix for its rows, matrix for its columns) -> enlarged part.

The matrices are those of `receptive_field.stretching`.
"""


@dataclass(frozen=True)
class Network:
    """A network that enlarges whole images and parts of them."""

    scale: int
    whole: Upscaler
    """Enlarges an image by itself."""
    receptive_field: ReceptiveField
    part: Callable[[], Part]
    """Loads the function that enlarges a part as it would be in the whole image; only networks
    with attention need it."""
    largest: Callable[[], int] = lambda: LARGEST
    """Estimates the side of the largest tile for which there is memory, pixels."""
    fixed: FixedSize = (None, None)
    """Height and width of the only images that the network takes, pixels; None = any."""


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles; lengths are pixels of the low-resolution image."""

    side: int | None = None
    """Length of a tile's side without its overlap; 0 = do not cut. None: chosen so that little
    memory is needed, and small images are not cut."""
    overlap: int | None = None
    """Overlap on each side of a tile; None = the receptive field of the network."""


@dataclass(frozen=True)
class Span:
    """A tile along one axis: it makes the pixels [start, stop) and reads [first, last)."""

    start: int
    stop: int
    first: int
    last: int


Tile = tuple[Span, Span]
"""Spans of a tile along height and width."""


@dataclass(frozen=True)
class Enlarged:
    """An enlarged image, and how well its tiles fit."""

    image: Image
    """uint8 RGB (scale*H, scale*W, 3)."""
    seam: int = 0
    """Largest difference of neighbouring tiles where they meet, of 255."""
    tiles: int = 1
    """Number of tiles."""


def load(source: Path | nn.Module, scale: int, pixels: Pixels | None = None) -> Network:
    """Make an exported file or a network ready to run. Raises DataError when it cannot be loaded.

    pixels: pixel conventions of an imported file. The receptive field of an imported network is
    not known.
    """
    imported = pixels is not None or isinstance(source, ImportedNetwork)
    unknown = ReceptiveField(UNKNOWN, whole=True)  # without attention, so `part` is never called
    fixed: FixedSize = (None, None)
    if isinstance(source, Path):
        session, part = load_session(source), partial(_file_part, source)
        whole = session_upscaler(session, source.name, pixels)
        fixed = fixed_size(session, pixels) if imported else fixed
        field = unknown if imported else receptive_field.of_file(source)
        needed = partial(tile_memory.of_file, source)
    else:
        fixed = _only(source.pixels) if isinstance(source, ImportedNetwork) else fixed
        whole, part = torch_upscaler(source), partial(_network_part, source)
        field = unknown if imported else receptive_field.of_network(source)
        needed = partial(tile_memory.of_network, source)
    largest = cache(lambda: tile_memory.largest_side(needed()))
    return Network(scale, whole, field, cache(part), largest, fixed)


def _only(pixels: Pixels) -> FixedSize:
    """The (height, width) of the only images that an imported network computes; None = any."""
    if pixels.only is None:
        return None, None
    height, width = pixels.only
    return height - 2 * pixels.border, width - 2 * pixels.border


def whole_upscaler(source: Path | nn.Module, scale: int, pixels: Pixels | None = None) -> Upscaler:
    """Return a function that enlarges images of any size as a whole, with a file or a network.

    Only what computes images of a single size cuts them into tiles. Raises as `load`.
    """
    if isinstance(source, Path) and pixels is None:
        return onnx_upscaler(source)
    if not isinstance(source, Path | ImportedNetwork):
        return torch_upscaler(source)
    network = load(source, scale, pixels)
    return network.whole if network.fixed == (None, None) else upscaler(network)


def _file_part(path: Path) -> Part:
    run = open_session(receptive_field.file_for_parts(path))

    def enlarge(low: Image, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Image:
        return run_session(run, low, {"rows": rows, "columns": columns})

    return enlarge


def _network_part(network: nn.Module) -> Part:
    net, device = receptive_field.network_for_parts(network), next(network.parameters()).device

    @torch.no_grad()
    def enlarge(low: Image, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Image:
        matrices: list[Tensor] = [torch.from_numpy(m).to(device) for m in (rows, columns)]
        return to_image(net(to_tensor(low[None]).to(device), *matrices)[0])

    return enlarge


def least_sides(network: Network) -> tuple[int, int]:
    """The (height, width) to which `enlarge` extends smaller images, pixels."""
    least = receptive_field.SMALLEST if network.receptive_field.attention else 1
    height, width = network.fixed
    return height or least, width or least


def tiles_of(network: Network, height: int, width: int, tiling: Tiling) -> list[Tile]:
    """Tiles of an image for a network, as `plan` gives them, within its memory.

    They are those of the extended image where the network does not take a smaller one.
    """
    height, width = (max(pair) for pair in zip((height, width), least_sides(network), strict=True))
    small = tiling.side is not None or height * width <= LEAST**2
    most = LARGEST if small or None not in network.fixed else network.largest()
    return plan(height, width, network.receptive_field, tiling, most, network.fixed)


def plan(
    height: int,
    width: int,
    field: ReceptiveField,
    tiling: Tiling,
    most: int = LARGEST,
    fixed: FixedSize = (None, None),
) -> list[Tile]:
    """Tiles of an image, row after row; a single tile when the image is not cut.

    most: side of the largest tile for which there is memory, pixels. fixed: height and width that
    all tiles must have, overlap included; None = any.
    """
    overlap = field.pixels if tiling.overlap is None else tiling.overlap
    side, limit = tiling.side, min(most, LARGEST if field.whole else SIDE)
    if side is None:
        side = 0 if height * width <= limit**2 else max(LEAST, limit - 2 * overlap)
    rows, columns = (
        spans(length, side, overlap, field)
        if only is None or tiling.side == 0
        else equal_spans(length, only, min(overlap, only // SHARE))
        for length, only in zip((height, width), fixed, strict=True)
    )
    return [(y, x) for y in rows for x in columns]


def equal_spans(length: int, side: int, overlap: int) -> list[Span]:
    """Cut an axis into spans that all read `side` pixels, and overlap by `overlap` at least."""
    count = -(-(length - side) // (side - 2 * overlap)) + 1
    firsts = [(length - side) * k // max(1, count - 1) for k in range(count)]
    inner = [(first + side + following) // 2 for first, following in pairwise(firsts)]
    ends = pairwise([0, *inner, length])
    return [Span(*end, first, first + side) for end, first in zip(ends, firsts, strict=True)]


def spans(length: int, side: int, overlap: int, field: ReceptiveField) -> list[Span]:
    """Cut an axis into spans of about equal length, at most `side` pixels; side 0 = one span."""
    grid, least = (receptive_field.GRID, receptive_field.SMALLEST) if field.attention else (1, 1)
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
    """Enlarge an image; yield the number of tiles done, and return the large image.

    low: uint8 RGB (H, W, 3). An image that is too small for the network is extended by mirroring,
    and the result is cut to size. Raises DataError as the network's upscaler.
    """
    height, width = low.shape[:2]
    sides = zip((height, width), least_sides(network), strict=True)
    lacking = [(0, max(0, least - side)) for side, least in sides]
    low = np.pad(low, (*lacking, (0, 0)), "symmetric")
    tiles = tiles_of(network, low.shape[0], low.shape[1], tiling)
    if len(tiles) == 1:
        large = Enlarged(network.whole(low))
        yield 1
    else:
        large = yield from _tiled(network, low, tiles)
    cut = large.image[: height * network.scale, : width * network.scale]
    return Enlarged(np.ascontiguousarray(cut), large.seam, len(tiles))


def _tiled(network: Network, low: Image, tiles: list[Tile]) -> Generator[int, None, Enlarged]:
    large = np.empty((low.shape[0] * network.scale, low.shape[1] * network.scale, 3), np.uint8)
    filled = 0

    def add(rows: Image) -> None:
        nonlocal filled
        large[filled : filled + len(rows)] = rows
        filled += len(rows)

    size = low.shape[0], low.shape[1]
    seam = yield from enlarge_rows(network, size, lambda first, last: low[first:last], add, tiles)
    return Enlarged(large, seam)


def enlarge_rows(
    network: Network,
    size: tuple[int, int],
    read: Callable[[int, int], Image],
    add: Callable[[Image], None],
    tiles: Sequence[Tile],
) -> Generator[int, None, int]:
    """Enlarge an image in tiles; only the rows of one row of tiles are in memory.

    size: its (height, width). read: gives the rows (first, last) of it, uint8 RGB. add: takes the
    next rows of the large image. Yields the number of tiles done, and returns the largest
    difference of neighbouring tiles where they meet, of 255. Raises DataError as the network's
    upscaler.
    """
    scale, done, seam, above = network.scale, 0, 0, None
    for y, row in groupby(tiles, lambda tile: tile[0]):
        part = read(y.first, y.last)
        band = np.empty(((y.stop - y.start) * scale, size[1] * scale, 3), np.uint8)
        for _, x in row:
            tile = _enlarge_part(network, part, size, y, x)
            left, inner = x.first * scale, (y.start - y.first) * scale
            columns = slice(x.start * scale, x.stop * scale)
            cut = slice(columns.start - left, columns.stop - left)
            made = tile[inner : inner + len(band)]
            if above is not None and inner:  # compare the last pixel that its neighbour has made
                seam = max(seam, _difference(above[:, columns], tile[inner - scale : inner, cut]))
            if x.first < x.start:
                edge = slice((x.start - 1) * scale, x.start * scale)
                own = made[:, edge.start - left : edge.stop - left]
                seam = max(seam, _difference(band[:, edge], own))
            band[:, columns] = made[:, cut]
            done += 1
            yield done
        add(band)
        above = band[-scale:]
    return seam


def _enlarge_part(network: Network, rows: Image, size: tuple[int, int], y: Span, x: Span) -> Image:
    """Enlarge a tile of an image of `size`, of which `rows` are those that the tile reads."""
    part = rows[:, x.first : x.last]
    if not network.receptive_field.attention:
        return network.whole(part)
    down, columns = (
        receptive_field.stretching(full, s.first, s.last - s.first)
        for full, s in zip(size, (y, x), strict=True)
    )
    try:
        return network.part()(part, down, np.ascontiguousarray(columns.T))
    except Exception as error:  # ONNX Runtime has no exception class for unsuitable images
        raise enlarge_error("The network", part, error) from error


def _difference(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


def upscaler(network: Network, tiling: Tiling = Tiling()) -> Upscaler:
    """Return a function that enlarges photographs with a network and cuts large ones into tiles."""

    def upscale(low: Image) -> Image:
        steps = enlarge(network, low, tiling)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                image: Image = end.value.image
                return image

    return upscale
