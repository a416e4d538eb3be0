"""Photographs, single ones and whole folders, enlarged into files: nothing is skipped silently."""

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantnas.data import bicubic, image_files, image_modes
from quantnas.data.image_modes import Picture
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.progress import Progress

from .tiling import Network, Tiling, enlarge, plan

VISIBLE = 1
"""Difference of neighbouring tiles, of 255, above which it is told."""


@dataclass(frozen=True)
class UpscaleJob:
    """A photograph and the file that it becomes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of some jobs."""

    done: tuple[tuple[UpscaleJob, tuple[int, int], tuple[int, int]], ...]
    """With height and width before and after."""
    failed: tuple[tuple[UpscaleJob, QuantnasError], ...]


def jobs(
    photos: Sequence[Path], out: Path | None, kind: str | None, scale: int
) -> list[UpscaleJob]:
    """What is to be done: photographs, and folders at any depth, each to a file of its own.

    out: a file for a single photograph, else a folder; none puts results beside a photograph, and
    those of a folder into a folder beside it. kind: extension, png where neither it nor a file
    says another. Raises UsageError or DataError for what cannot be meant, and where two
    photographs would become one file.
    """
    for photo in photos:
        if not photo.exists():
            raise DataError(f"'{photo}' does not exist.", "Check the path.")
    single = len(photos) == 1 and not photos[0].is_dir()
    if (
        out is not None
        and not out.is_dir()
        and (single or out.suffix.lower() in image_files.FORMATS)
    ):
        return [_named(photos, out, kind, single)]
    name = f"{{}}_x{scale}.{kind or 'png'}"
    found = []
    for photo in photos:
        if not photo.is_dir():
            folder = photo.parent if out is None else out
            found.append(UpscaleJob(photo, folder / name.format(photo.stem)))
            continue
        whole = photo.resolve()
        folder = whole.with_name(f"{whole.name}_x{scale}") if out is None else out
        sources = [
            p for p in image_files.find(photo) if not p.resolve().is_relative_to(folder.resolve())
        ]
        for path in sources:
            place = folder / path.relative_to(photo).parent
            found.append(UpscaleJob(path, place / name.format(path.stem)))
    return found


def _named(photos: Sequence[Path], out: Path, kind: str | None, single: bool) -> UpscaleJob:
    if not single:
        raise UsageError(f"{out} is one file, for several photographs.", "Give -o a folder.")
    if kind is not None and image_files.format_of(out) != image_files.FORMATS[f".{kind}"]:
        raise UsageError(f"--format is {kind}, but -o is {out}.", "Leave one of them out.")
    image_files.format_of(out)
    return UpscaleJob(photos[0], out)


def check(found: Sequence[UpscaleJob], force: bool, skip: bool) -> list[UpscaleJob]:
    """The jobs that are left to do, checked before the first is begun.

    Raises UsageError where two write one file or one overwrites a photograph, and for results that
    exist, unless they are to be overwritten or left alone. Raises DataError when a folder cannot
    be written into.
    """
    sources, owners = {job.source.resolve() for job in found}, dict[Path, UpscaleJob]()
    for job in found:
        place = job.target.resolve()
        if place in sources:
            raise UsageError(f"{job.target} is a photograph itself.", "Choose another -o.")
        other = owners.setdefault(place, job)
        if other is not job:
            raise UsageError(
                f"{other.source} and {job.source} would both become {job.target}.",
                "Rename one of them, or enlarge them one after the other.",
            )
    there = [job.target for job in found if job.target.exists()]
    if there and not (force or skip):
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(
            f"{there[0]} exists already{more}.",
            "Choose another -o, or add --force or --skip-existing.",
        )
    left = [job for job in found if not (skip and job.target.exists())]
    for folder in {job.target.parent for job in left}:
        _require_writable(folder)
    return left


def _require_writable(folder: Path) -> None:
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be written into ({error.strerror}).",
            "Choose another -o.",
        ) from error


def perform(
    found: Sequence[UpscaleJob], network: Network, tiling: Tiling
) -> Generator[Progress, None, Outcome]:
    """Progress over the tiles of all photographs; what fails is kept for the end."""
    counts = [_tiles(job, network, tiling) for job in found]
    before, done, failed = 0, [], []
    for at, (job, count) in enumerate(zip(found, counts, strict=True), 1):
        facts = {"photograph": f"{at}/{len(found)}", "file": job.source.name}
        notes: list[str] = []
        try:
            steps = one(job, network, tiling)
            while True:
                try:
                    tile = next(steps)
                except StopIteration as end:
                    (sizes, notes) = end.value
                    break
                if tile < count:
                    yield Progress("upscale", before + tile, sum(counts), facts)
            done.append((job, *sizes))
        except QuantnasError as error:
            failed.append((job, error))
        before += count
        lines = tuple(f"{job.source}: {note}" for note in notes)
        yield Progress("upscale", before, sum(counts), facts, lines)
    return Outcome(tuple(done), tuple(failed))


def _tiles(job: UpscaleJob, network: Network, tiling: Tiling) -> int:
    """How many tiles it has; 1 for a file that cannot be read."""
    try:
        return len(plan(*image_files.size(job.source), network.reach, tiling))
    except DataError:
        return 1


Sizes = tuple[tuple[int, int], tuple[int, int]]
"""(height, width) before and after."""


def one(
    job: UpscaleJob, network: Network, tiling: Tiling
) -> Generator[int, None, tuple[Sizes, list[str]]]:
    """Yield the number of tiles done; the sizes, and what there is to be said about the result.

    Raises DataError for a file that cannot be read or written, UsageError for one that its format
    cannot hold.
    """
    low = image_modes.read(job.source)
    height, width = low.rgb.shape[:2]
    scale = network.scale
    image_modes.require_side(height * scale, width * scale, job.target)
    notes = image_modes.losses(low, job.target)
    found = yield from enlarge(network, low.rgb, tiling)
    image_modes.write(job.target, _enlarged(low, found.image, scale))
    if found.seam > VISIBLE:
        notes.append(
            f"tiles differ by up to {found.seam} of 255 where they meet; a larger --overlap or "
            "--tile makes it less"
        )
    elif found.tiles > 1 and tiling.overlap == 0:
        notes.append("tiles see nothing of their neighbours: seams may show; leave --overlap out")
    return ((height, width), (height * scale, width * scale)), notes


def _enlarged(low: Picture, rgb: NDArray[np.uint8], scale: int) -> Picture:
    """The picture with these colours; what the network does not see is enlarged bicubically."""
    alpha, deep = low.alpha, low.deep
    if alpha is not None:
        alpha = bicubic.upscale(alpha[:, :, None], scale)[:, :, 0]
    if deep is not None:
        size = rgb.shape[1], rgb.shape[0]
        deep = np.asarray(Image.fromarray(deep).resize(size, Image.Resampling.BICUBIC))
    return replace(low, rgb=rgb, alpha=alpha, deep=deep)
