"""The verb upscale_files: photographs in files and folders, enlarged into other files."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from quantnas.data import image_files
from quantnas.errors import UsageError
from quantnas.inference import upscale_files as files
from quantnas.inference.tiling import Tiling
from quantnas.inference.upscale_files import Outcome, UpscaleJob
from quantnas.runs import bundled_models, models
from quantnas.runs.models import Model
from quantnas.runs.watcher import SILENT, Watcher, follow

from .run_verbs import Place

__all__ = ["Outcome", "UpscalePlan", "plan_upscale", "upscale_files"]

SCALE = 2
"""Magnification where neither a model nor a scale is given."""


@dataclass(frozen=True)
class UpscalePlan:
    """Photographs that are to be enlarged, checked before the first one is begun."""

    model: Model
    jobs: list[UpscaleJob]
    """Photographs to enlarge, each with the file that it becomes."""
    finished: int
    """Number of photographs whose result is there already and is left alone."""
    others: list[Path]
    """Files in the folders that are not photographs."""
    tiling: Tiling

    def perform(self, watch: Watcher = SILENT) -> Outcome:
        """Enlarge the photographs; what failed is in the result, beside what was done."""
        return follow(files.perform(self.jobs, self.model.network(), self.tiling), watch)


def upscale_files(
    photos: Place | Sequence[Place],
    out: Place | None = None,
    *,
    model: Place | None = None,
    scale: int | None = None,
    format: str | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    watch: Watcher = SILENT,
) -> Outcome:
    """Enlarge photographs into files. Grey, transparency, colour profile and resolution are kept.

    Args:
        photos: One or several files (png, jpg, webp or bmp), or folders of them.
        out: The image to write, or the folder for several; by default PHOTO_xSCALE.png beside a
            photograph, and a folder FOLDER_xSCALE beside a folder.
        model: A bundled model, an ONNX file, a run, or a checkpoint in one; by default the bundled
            model of `scale` with the best PSNR.
        scale: Magnification of the bundled model; 2 by default.
        format: "png", "jpg" or "webp"; by default that of `out`, or png.
        tile: Side of the tiles in which large photographs are computed, pixels of the photograph;
            0 = as a whole, by default what fits into 1 GB of memory.
        overlap: Pixels that a tile sees of its neighbours; by default the receptive field.
        overwrite: Whether files that are there are replaced.
        skip_existing: Whether photographs whose result is there are left out.
        watch: Is told how far the work is, and may stop it.

    Returns:
        The photographs that were done, with (height, width) before and after, and those that
            failed, with their errors.

    Raises:
        UsageError: For a model that does not exist or has another scale, for results that are
            there already, and where two photographs would become one file.
        DataError: For a photograph that is not there, and a folder that cannot be written into.

    Example:
        ```python
        quantnas.upscale_files("photos", "large", skip_existing=True)
        ```
    """
    one = isinstance(photos, str | PathLike)
    paths = [Path(photos)] if one else [Path(photo) for photo in photos]  # type: ignore[arg-type, union-attr]
    plan = plan_upscale(
        paths, None if out is None else Path(out), model=model, scale=scale, format=format,
        tile=tile, overlap=overlap, overwrite=overwrite, skip_existing=skip_existing,
    )  # fmt: skip
    return plan.perform(watch) if plan.jobs else Outcome((), ())


def plan_upscale(
    photos: Sequence[Path],
    out: Path | None = None,
    *,
    model: Place | None = None,
    scale: int | None = None,
    format: str | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> UpscalePlan:
    """What `upscale_files` would do with these arguments; raises as it, and computes nothing."""
    chosen = _chosen(model, scale)
    jobs = files.jobs(photos, out, format, chosen.scale)
    left = files.check(jobs, overwrite, skip_existing)
    others = [path for photo in photos if photo.is_dir() for path in image_files.others(photo)]
    return UpscalePlan(chosen, left, len(jobs) - len(left), others, Tiling(tile, overlap))


def _chosen(name: Place | None, scale: int | None) -> Model:
    """The model of that name, or the best bundled one. Raises UsageError for another scale."""
    model = models.resolve(str(name or bundled_models.best(scale or SCALE)))
    if scale is not None and scale != model.scale:
        raise UsageError(
            f"`scale` is {scale}, but {model.what} enlarges x{model.scale}.",
            "Leave `scale` out, or give another model.",
        )
    return model
