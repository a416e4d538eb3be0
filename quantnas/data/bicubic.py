"""Bicubic resizing that equals MATLAB's imresize, with which published results are measured.

It is antialiased when it shrinks, mirrors the edges, resizes rows before columns, and rounds to
uint8 after each of the two passes.
"""

import numpy as np
from numpy.typing import NDArray

from quantnas.errors import DataError

# Elements of one float64 block while resizing: small enough to stay in the cache.
_BLOCK_ELEMENTS = 1 << 17


def crop_to_multiple(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Cut `image` (H, W, C) at the bottom and the right until `scale` divides both sides.

    Raises DataError when a side is shorter than `scale`.
    """
    height, width = (side - side % scale for side in image.shape[:2])
    if not height or not width:
        raise DataError(
            f"An image of {image.shape[1]}x{image.shape[0]} pixels is too small for x{scale}.",
            "Use larger images.",
        )
    return image[:height, :width]


def downscale(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Shrink `image` (H, W, C) to (H / scale, W / scale, C) as MATLAB's imresize does.

    Raises ValueError when `scale` does not divide both sides (see `crop_to_multiple`).
    """
    height, width = image.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"sides {height} and {width} are not multiples of {scale}")
    return resize(image, height // scale, width // scale, antialias=True)


def upscale(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Enlarge `image` (H, W, C) to (H * scale, W * scale, C) by bicubic interpolation."""
    height, width = image.shape[:2]
    return resize(image, height * scale, width * scale, antialias=False)


def resize(image: NDArray[np.uint8], out_h: int, out_w: int, antialias: bool) -> NDArray[np.uint8]:
    """Resize `image` (H, W, C) to (out_h, out_w, C) as MATLAB's bicubic imresize does on uint8.

    The kernel is that of Keys with a = -0.5; edges are mirrored, the vertical pass comes first,
    and each pass is rounded to uint8. `antialias` widens the kernel along a side that shrinks.
    Raises ValueError for types other than uint8 and for empty sizes.
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"expected uint8 of shape (H, W, C), got {image.dtype} {image.shape}")
    if min(out_h, out_w, *image.shape) < 1:
        raise ValueError(f"cannot resize {image.shape} to {out_h}x{out_w}")
    tall = _resize_rows(image, out_h, antialias)
    wide = _resize_rows(tall.swapaxes(0, 1), out_w, antialias)
    return np.ascontiguousarray(wide.swapaxes(0, 1))


def to_uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Round half up and clip to 0..255, as MATLAB's uint8() does for values above zero."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5 (IEEE Trans. ASSP 29(6), 1981)."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _taps(length: int, out: int, antialias: bool) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Source indices and weights, each (out, taps), that resize an axis from `length` to `out`."""
    ratio = length / out
    stretch = max(ratio, 1.0) if antialias else 1.0
    centre = (np.arange(out) + 0.5) * ratio - 0.5
    first = np.floor(centre - 2 * stretch).astype(np.intp)
    index = first[:, None] + np.arange(int(np.ceil(4 * stretch)) + 2)
    weight = _keys((centre[:, None] - index) / stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    used = np.any(weight != 0, axis=0)
    mirrored = np.mod(index[:, used], 2 * length)
    return np.minimum(mirrored, 2 * length - 1 - mirrored), weight[:, used]


def _resize_rows(image: NDArray[np.uint8], out: int, antialias: bool) -> NDArray[np.uint8]:
    """Resize `image` (H, W, C) to `out` rows of uint8, block by block in float64."""
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    index, weight = _taps(len(image), out, antialias)
    result = np.empty((out, rows.shape[1]), np.uint8)
    block = max(1, _BLOCK_ELEMENTS // rows.shape[1])
    for start in range(0, out, block):
        part = slice(start, start + block)
        total = np.zeros((len(index[part]), rows.shape[1]))
        for tap in range(index.shape[1]):
            total += rows[index[part, tap]] * weight[part, tap, None]
        result[part] = to_uint8(total)
    return result.reshape(out, *image.shape[1:])
