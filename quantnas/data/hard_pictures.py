"""Pictures in which networks reach their extremes: photographs with exaggerated colours.

They are made from bundled photographs, so that they take no room in the package. They belong to the
photographs on which ranges of activations are measured, and to nothing else. Pictures of lights at
night, text and lines were tried as well: they widened the ranges so much that all real photographs
lost by it (docs/experiments.md).
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from . import bicubic, image_files

Image = NDArray[np.uint8]

SATURATED = ("blue-periwinkle", "casa-mila", "beacon-street-sunset", "tea-gardens", "astronaut")
"""Bundled photographs whose colours are exaggerated."""


@lru_cache(3)
def low_resolution(scale: int) -> tuple[Image, ...]:
    """All pictures, (H, W, 3), shrunk by `scale`, which divides their sides."""
    return tuple(bicubic.downscale(picture, scale) for picture in pictures())


def pictures() -> Iterator[Image]:
    """All pictures in high resolution, (H, W, 3); the same ones every time."""
    photographs = {path.stem: path for path in image_files.bundled().train}
    for name in SATURATED:
        yield _saturated(image_files.read(photographs[name]))


def _saturated(image: Image) -> Image:
    """A photograph with three times as much colour."""
    grey = image.mean(2, keepdims=True)
    return bicubic.to_uint8(grey + 3 * (image - grey))
