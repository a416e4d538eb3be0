"""`quantnas upscale`: photographs through a model."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantnas.errors import DataError, UsageError

from .. import console

if TYPE_CHECKING:
    from quantnas.inference.upscale_files import Outcome
    from quantnas.runs.models import Model

SCALE = 2
"""Where neither a model nor a scale is given."""


def upscale(
    photos: Annotated[
        list[Path],
        typer.Argument(
            help="Files (png, jpg, webp or bmp), or folders of them.", metavar="PHOTO"
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "-m", "--model", help="A bundled model (`quantnas models`), an exported ONNX file, a "
            "run folder, or a checkpoint in one.", show_default="the best bundled one",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(help="Magnification of the bundled model.", show_default=str(SCALE)),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Image to write, or folder for several.",
            show_default="PHOTO_xSCALE.png; FOLDER_xSCALE",
        ),
    ] = None,
    format: Annotated[
        Literal["png", "jpg", "webp"] | None,
        typer.Option(help="Of the images to write.", show_default="that of -o, or png"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of the parts that large photographs are computed in, in pixels of the "
            "photograph; 0 = as a whole.", min=0, show_default="for 1 GB of memory",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Pixels that a part sees of its neighbours.", min=0,
            show_default="as far as the network looks",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite images.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave images that are there, do the others.")
    ] = False,
) -> None:  # fmt: skip
    """Enlarge photographs with a bundled model, or with one of yours.

    Example: quantnas upscale holiday.jpg -m runs/run/rfdn_small/model.onnx -o large.png

    Example: quantnas upscale photos -o large --skip-existing

    Grey stays grey, in 16 bits too; transparency, colour profile and resolution are kept.
    """
    from quantnas.data import image_files
    from quantnas.inference import upscale_files
    from quantnas.inference.tiling import Tiling

    if force and skip_existing:
        raise UsageError("--force and --skip-existing are both given.", "Leave one of them out.")
    chosen = _chosen(model, scale)
    found = upscale_files.jobs(photos, out, format, chosen.scale)
    left = upscale_files.check(found, force, skip_existing)
    others = [path for folder in photos if folder.is_dir() for path in image_files.others(folder)]
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        console.say(f"left out, no photographs: {others[0]}{more}", progress=True)
    if len(left) < len(found):
        console.say(f"{len(found) - len(left)} of {len(found)} are there already", progress=True)
    if not left:
        return
    started = time.perf_counter()
    steps = upscale_files.perform(left, chosen.network(), Tiling(tile, overlap))
    outcome = console.follow(steps, _again() if len(left) > 1 else None)
    _tell(outcome, chosen.name, time.perf_counter() - started)


def _tell(outcome: "Outcome", name: str, seconds: float) -> None:
    """One line per image; raises the error of a single one, and DataError where some failed."""
    for job, (height, width), (tall, wide) in outcome.done:
        typer.echo(f"{job.target}: {width}x{height} -> {wide}x{tall} by {name}")
    if outcome.done:
        typer.echo(f"{len(outcome.done)} in {seconds:.2f} s")
    count = len(outcome.done) + len(outcome.failed)
    if count == 1 and outcome.failed:
        raise outcome.failed[0][1]
    for job, error in outcome.failed:
        typer.echo(f"failed: {job.source}: {error.cause}", err=True)
    if outcome.failed:
        raise DataError(
            f"{len(outcome.failed)} of {count} photographs could not be enlarged.",
            "The others are done; --skip-existing goes on from there.",
        )


def _again() -> str:
    """This command, to go on with what is not done yet."""
    given = [a for a in sys.argv[1:] if a not in ("--force", "--skip-existing")]
    return shlex.join(["quantnas", *given, "--skip-existing"])


def _chosen(name: str | None, scale: int | None) -> "Model":
    from quantnas.runs import bundled_models, models

    found = models.resolve(name or bundled_models.best(scale or SCALE))
    if scale is not None and scale != found.scale:
        raise UsageError(
            f"--scale is {scale}, but {found.what} enlarges x{found.scale}.",
            "Leave --scale out, or give another model.",
        )
    return found
