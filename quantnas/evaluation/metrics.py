"""PSNR and SSIM on luma, which measure how close an image is to its reference.

The protocol is that of EDSR and BasicSR: both images are uint8 RGB, luma is not rounded, and
`border` pixels (the scale) are left out on each side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PEAK = 255.0

_LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255.0
_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * PEAK) ** 2
_C2 = (0.03 * PEAK) ** 2


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601 studio-range luma (H, W), 16 to 235 and not rounded, of uint8 RGB (H, W, 3).

    Raises ValueError for any other type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 of shape (H, W, 3), got {image.dtype} {image.shape}")
    result: NDArray[np.float64] = image @ _LUMA_WEIGHTS + 16.0
    return result


def psnr_y(a: NDArray[np.uint8], b: NDArray[np.uint8], border: int) -> float:
    """Peak signal-to-noise ratio of the luma of `a` and `b` in dB; infinite when equal.

    Both are uint8 RGB (H, W, 3); `border` pixels are left out on each side; the peak is 255.
    Raises ValueError for unequal shapes and when nothing is left inside the border.
    """
    first, second = _cropped_luma(a, b, border)
    error = float(np.mean(np.square(first - second)))
    return 10.0 * math.log10(PEAK**2 / error) if error else math.inf


def ssim_y(a: NDArray[np.uint8], b: NDArray[np.uint8], border: int) -> float:
    """Mean structural similarity of the luma of `a` and `b`; 1 when equal.

    Wang et al., IEEE Trans. Image Processing 13(4), 2004: 11x11 Gaussian window of sigma 1.5,
    K1 = 0.01, K2 = 0.03, only where the window lies inside the image. Both are uint8 RGB
    (H, W, 3); `border` pixels are left out on each side. Raises ValueError for unequal shapes
    and when a side inside the border is shorter than 11 pixels.
    """
    first, second = _cropped_luma(a, b, border)
    if min(first.shape) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW}x{_WINDOW} pixels, got {first.shape}")
    mean_a, mean_b = _blur(first), _blur(second)
    variance_a = _blur(first * first) - mean_a * mean_a
    variance_b = _blur(second * second) - mean_b * mean_b
    covariance = _blur(first * second) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return float(np.mean(luminance * structure))


METRICS: dict[str, Callable[[NDArray[np.uint8], NDArray[np.uint8], int], float]] = {
    "psnr_y": psnr_y,
    "ssim_y": ssim_y,
}


def _cropped_luma(
    a: NDArray[np.uint8], b: NDArray[np.uint8], border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.shape != b.shape:
        raise ValueError(f"images differ in shape: {a.shape} and {b.shape}")
    height, width = a.shape[:2]
    if border < 0 or min(height, width) <= 2 * border:
        raise ValueError(f"a border of {border} leaves nothing of {height}x{width} pixels")
    inside = np.s_[border : height - border, border : width - border]
    return luma(a[inside]), luma(b[inside])


def _blur(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """`plane` (H, W) weighted by the Gaussian window, (H - 10, W - 10)."""
    offset = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-(offset**2) / (2 * _SIGMA**2))
    window /= window.sum()
    height, width = (side - _WINDOW + 1 for side in plane.shape)
    tall = sum(weight * plane[k : k + height] for k, weight in enumerate(window))
    wide: NDArray[np.float64] = sum(
        weight * tall[:, k : k + width] for k, weight in enumerate(window)
    )
    return wide
