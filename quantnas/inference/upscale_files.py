"""Enlarging photographs and folders of photographs into files; none is skipped silently."""

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantnas.data import bicubic, image_files, image_modes, png_rows
from quantnas.data.image_modes import Picture, PictureRows
from quantnas.errors import DataError, QuantnasError, UsageError, missing
from quantnas.progress import Progress

from .tiling import Network, Tiling, enlarge, enlarge_rows, least_sides, tiles_of

VISIBLE = 1
"""Difference of neighbouring tiles, of 255, above which users are told of it."""


@dataclass(frozen=True)
class UpscaleJob:
    """A photograph and the file that its enlargement is written to."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """Jobs that succeeded and jobs that failed."""

    done: tuple[tuple[UpscaleJob, tuple[int, int], tuple[int, int]], ...]
    """(job, (height, width) before, (height, width) after) of every enlarged photograph."""
    failed: tuple[tuple[UpscaleJob, QuantnasError], ...]
    """(job, error) of every other photograph."""


def jobs(
    photos: Sequence[Path], out: Path | None, kind: str | None, scale: int
) -> list[UpscaleJob]:
    """List a job for every photograph, and for every photograph in a folder, at any depth.

    out: a file for a single photograph, else a folder. None writes the result of a photograph next
    to it, and those of a folder into a new folder next to that. kind: extension of the results;
    None = the extension of `out`, or png. Raises DataError when a photograph does not exist, and
    UsageError when `out` is one file for several photographs or contradicts `kind`.
    """
    for photo in photos:
        if not photo.exists():
            raise missing(photo, "photograph")
    single = len(photos) == 1 and not photos[0].is_dir()
    if (
        out is not None
        and not out.is_dir()
        and (single or out.suffix.lower() in image_files.FORMATS)
    ):
        return [_named(photos, out, kind, single)]
    name = f"{{}}_x{scale}.{kind or 'png'}"
    result = []
    for photo in photos:
        if not photo.is_dir():
            folder = photo.parent if out is None else out
            result.append(UpscaleJob(photo, folder / name.format(photo.stem)))
            continue
        whole = photo.resolve()
        folder = whole.with_name(f"{whole.name}_x{scale}") if out is None else out
        sources = [
            p for p in image_files.find(photo) if not p.resolve().is_relative_to(folder.resolve())
        ]
        for path in sources:
            target_folder = folder / path.relative_to(photo).parent
            result.append(UpscaleJob(path, target_folder / name.format(path.stem)))
    return result


def _named(photos: Sequence[Path], out: Path, kind: str | None, single: bool) -> UpscaleJob:
    if not single:
        raise UsageError(f"{out} is one file, for several photographs.", "Give a folder instead.")
    if kind is not None and image_files.format_of(out) != image_files.FORMATS[f".{kind}"]:
        raise UsageError(
            f"The format is {kind}, but the name of the result is {out}.", "Leave one of them out."
        )
    image_files.format_of(out)
    return UpscaleJob(photos[0], out)


def check(planned: Sequence[UpscaleJob], force: bool, skip: bool) -> list[UpscaleJob]:
    """Check all jobs before the first one begins, and return those that are left to do.

    force: existing results are overwritten; skip: jobs with an existing result are left out.
    Raises UsageError when two jobs write one file, when one overwrites a photograph, and when a
    result exists without `force` or `skip`. Raises DataError when a folder cannot be written into.
    """
    sources, owners = {job.source.resolve() for job in planned}, dict[Path, UpscaleJob]()
    for job in planned:
        target = job.target.resolve()
        if target in sources:
            raise UsageError(f"{job.target} is a photograph itself.", "Choose another output.")
        other = owners.setdefault(target, job)
        if other is not job:
            raise UsageError(
                f"{other.source} and {job.source} would both become {job.target}.",
                "Rename one of them, or enlarge them one after the other.",
            )
    existing = [job.target for job in planned if job.target.exists()]
    if existing and not (force or skip):
        more = f", and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UsageError(
            f"{existing[0]} exists already{more}.",
            "Choose another output, or add --force or --skip-existing.",
        )
    left = [job for job in planned if not (skip and job.target.exists())]
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
            "Choose another output.",
        ) from error


def perform(
    planned: Sequence[UpscaleJob], network: Network, tiling: Tiling
) -> Generator[Progress, None, Outcome]:
    """Perform all jobs; yield the progress over the tiles of all photographs.

    A photograph that fails does not stop the others; its error is part of the result.
    """
    counts = [_tiles(job, network, tiling) for job in planned]
    before, done, failed = 0, [], []
    for number, (job, count) in enumerate(zip(planned, counts, strict=True), 1):
        facts = {"photograph": f"{number}/{len(planned)}", "file": job.source.name}
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
    """Number of tiles of a job's photograph; 1 for a file that cannot be read."""
    try:
        return len(tiles_of(network, *image_files.size(job.source), tiling))
    except DataError:
        return 1


def _is_large(job: UpscaleJob, network: Network, tiling: Tiling) -> bool:
    """Whether a job's photograph is cut into tiles; those that are extended first are not."""
    sides = image_files.size(job.source)
    extended = any(n < least for n, least in zip(sides, least_sides(network), strict=True))
    return not extended and _tiles(job, network, tiling) > 1


Sizes = tuple[tuple[int, int], tuple[int, int]]
"""(height, width) before and after."""


def one(
    job: UpscaleJob, network: Network, tiling: Tiling
) -> Generator[int, None, tuple[Sizes, list[str]]]:
    """Enlarge one photograph; yield the number of tiles done, and return its sizes and notes.

    The notes tell users of losses and visible seams. Raises DataError for a file that cannot be
    read or written, and UsageError when the result does not fit into its file format. A large
    opaque photograph that becomes a PNG file is never in memory as a whole, nor is its result.
    """
    if image_files.format_of(job.target) == "PNG" and _is_large(job, network, tiling):
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with image_modes.rows(job.source, job.target.parent) as rows:
            if rows is not None:
                return (yield from _streamed(job, rows, network, tiling))
    low = image_modes.read(job.source)
    height, width = low.rgb.shape[:2]
    scale = network.scale
    image_modes.require_side(height * scale, width * scale, job.target)
    notes = image_modes.losses(low, job.target)
    large = yield from enlarge(network, low.rgb, tiling)
    image_modes.write(job.target, _enlarged(low, large.image, scale))
    notes += _seam_notes(large.seam, large.tiles, tiling)
    return ((height, width), (height * scale, width * scale)), notes


def _streamed(
    job: UpscaleJob, rows: PictureRows, network: Network, tiling: Tiling
) -> Generator[int, None, tuple[Sizes, list[str]]]:
    """Enlarge one photograph as `one` does, reading and writing it row of tiles by row of tiles."""
    before, scale = (rows.height, rows.width), network.scale
    after = rows.height * scale, rows.width * scale
    icc = rows.icc if rows.icc is not None and image_modes.is_profile(rows.icc, rows.grey) else None
    tiles = tiles_of(network, *before, tiling)
    with png_rows.writing(job.target, after, 1 if rows.grey else 3, icc, rows.dpi) as write:

        def add(band: NDArray[np.uint8]) -> None:
            grey = np.asarray(Image.fromarray(band).convert("L"))[:, :, None] if rows.grey else band
            write(grey)

        seam = yield from enlarge_rows(network, before, rows.read, add, tiles)
    return (before, after), _seam_notes(seam, len(tiles), tiling)


def _seam_notes(seam: int, tiles: int, tiling: Tiling) -> list[str]:
    """Notes on visible seams. seam: largest difference of neighbouring tiles, of 255."""
    if seam > VISIBLE:
        return [
            f"tiles differ by up to {seam} of 255 where they meet; a larger --overlap or "
            "--tile makes it less"
        ]
    if tiles > 1 and tiling.overlap == 0:
        return ["tiles see nothing of their neighbours: seams may show; leave --overlap out"]
    return []


def _enlarged(low: Picture, rgb: NDArray[np.uint8], scale: int) -> Picture:
    """The large picture with these colours.

    Transparency and the lower bits of 16-bit grey, which the network does not read, are enlarged
    bicubically.
    """
    alpha, deep = low.alpha, low.deep
    if alpha is not None:
        alpha = bicubic.upscale(alpha[:, :, None], scale)[:, :, 0]
    if deep is not None:
        size = rgb.shape[1], rgb.shape[0]
        deep = np.asarray(Image.fromarray(deep).resize(size, Image.Resampling.BICUBIC))
    return replace(low, rgb=rgb, alpha=alpha, deep=deep)
