"""Crops of held-out photographs in several versions, which the page lays over each other.

The run folder keeps them as lossless WebP with the PSNR of each crop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantnas.config import schema
from quantnas.config.files import read_json, to_json, write_text
from quantnas.data import bicubic, image_files, photographs
from quantnas.data.photographs import Photograph
from quantnas.evaluation import metrics
from quantnas.evaluation.scoring import MOST
from quantnas.inference.upscaler import Upscaler
from quantnas.reporting.plots import crop_strip
from quantnas.reporting.plots.canvas import Image
from quantnas.runs.run_folder import Run

FOLDER, FILE = "crops", "crops.json"
WIDTH, HEIGHT = 512, 384
"""Largest size of a crop, high-resolution pixels."""
COUNT = 3
"""Number of photographs of a run that are cropped."""
MARGIN = 16
"""Low-resolution pixels around a crop that are enlarged with it, to avoid border effects."""
BICUBIC, ORIGINAL = "bicubic", "original"


@dataclass(frozen=True)
class Version:
    """One version of a crop."""

    name: str
    file: str
    """File name in the folder of the crops."""
    psnr: float | None
    """PSNR-Y of the crop, dB; None for the original."""


@dataclass(frozen=True)
class ComparedCrop:
    """A crop of one photograph in all versions."""

    photograph: str
    width: int
    height: int
    """Width and height are in high-resolution pixels."""
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class ComparedCrops:
    """All crops of a run."""

    scale: int
    views: tuple[ComparedCrop, ...]


def make(
    run: Run,
    photos: Sequence[Photograph],
    upscalers: Mapping[str, Upscaler],
    scale: int,
    whole: bool = False,
) -> ComparedCrops:
    """Write crops of a few photographs: bicubic, one per upscaler, and the original.

    whole: enlarge whole photographs, for a file that accepts only one image size.
    """
    folder = run.path(FOLDER)
    for old in folder.glob("*.webp"):
        old.unlink()
    chosen = photos[:: max(1, len(photos) // COUNT)][:COUNT]
    views = ComparedCrops(
        scale, tuple(_view(folder, i, p, upscalers, scale, whole) for i, p in enumerate(chosen))
    )
    write_text(run.path(f"{FOLDER}/{FILE}"), to_json(views))
    return views


def load(run: Run) -> ComparedCrops | None:
    """Return what `make` wrote for a run, or None where there is nothing."""
    path = run.folder / FOLDER / FILE
    return schema.parse(ComparedCrops, read_json(path), str(path)) if path.exists() else None


def _view(
    folder: Path,
    number: int,
    photo: Photograph,
    upscalers: Mapping[str, Upscaler],
    scale: int,
    whole: bool,
) -> ComparedCrop:
    pair = photographs.read(photo, scale)
    plain = bicubic.upscale(pair.low, scale)
    height, width = (
        min(most // scale, side)
        for most, side in zip((HEIGHT, WIDTH), pair.low.shape[:2], strict=True)
    )
    place = crop_strip.region(plain, pair.high, height * scale, width * scale)
    top, left = (at // scale for at in place)
    inside = (top, left, height, width)
    margin = max(pair.low.shape) if whole else MARGIN
    images = {BICUBIC: plain, ORIGINAL: pair.high}
    parts = {name: _cut(image, inside, scale) for name, image in images.items()}
    for name, upscale in upscalers.items():
        parts[name] = _enlarged(upscale, pair.low, inside, margin, scale)
    order = [BICUBIC, *upscalers, ORIGINAL]
    versions = tuple(
        _version(folder, f"{number}-{i}.webp", name, parts[name], parts[ORIGINAL], scale)
        for i, name in enumerate(order)
    )
    return ComparedCrop(pair.name, width * scale, height * scale, versions)


def _version(
    folder: Path, file: str, name: str, image: Image, original: Image, scale: int
) -> Version:
    image_files.write(folder / file, image)
    if name == ORIGINAL:
        return Version(name, file, None)
    return Version(name, file, min(metrics.psnr_y(image, original, scale), MOST))


def _enlarged(
    upscale: Upscaler, low: Image, inside: tuple[int, int, int, int], margin: int, scale: int
) -> Image:
    """Return the crop `inside` (top, left, height, width; low resolution) of an enlarged view."""
    top, left, height, width = inside
    y, x = max(0, top - margin), max(0, left - margin)
    made = upscale(low[y : top + height + margin, x : left + width + margin])
    return _cut(made, (top - y, left - x, height, width), scale)


def _cut(image: Image, inside: tuple[int, int, int, int], scale: int) -> Image:
    top, left, height, width = (n * scale for n in inside)
    return image[top : top + height, left : left + width]
