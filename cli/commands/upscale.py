"""`quantnas upscale`: photographs enlarged by a model."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantnas.errors import DataError, UsageError

from .. import console, options

if TYPE_CHECKING:
    from quantnas.api.upscaling import Outcome, UpscalePlan

SCALE = 2
"""Magnification where neither a model nor a scale is given."""


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
        typer.Option(help="Format of the images to write.", show_default="that of -o, or png"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of the tiles in which large photographs are computed, in pixels of the "
            "photograph; 0 = as a whole.", min=0, show_default="what fits into 1 GB of memory",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Pixels that a tile sees of its neighbours.", min=0,
            show_default="the receptive field of the network",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite images that are there.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Leave out photographs whose result is there already."
        ),
    ] = False,
) -> None:  # fmt: skip
    """Enlarge photographs with a bundled model, or with one of yours.

    Example: quantnas upscale holiday.jpg -m runs/run/rfdn_small/model.onnx -o large.png

    Example: quantnas upscale photos -o large --skip-existing

    Grey stays grey, also in 16 bits. Transparency, colour profile and resolution are kept.
    """
    from quantnas.api import upscaling

    if force and skip_existing:
        raise UsageError("--force and --skip-existing are both given.", "Leave one of them out.")
    with options.named({"scale": scale}):
        plan = upscaling.plan_upscale(
            photos, out, model=model, scale=scale, format=format, tile=tile, overlap=overlap,
            overwrite=force, skip_existing=skip_existing,
        )  # fmt: skip
    _tell_left_out(plan)
    if not plan.jobs:
        return
    started = time.perf_counter()
    with console.Display(again=_again() if len(plan.jobs) > 1 else None) as watch:
        outcome = plan.perform(watch)
    _tell(outcome, plan.model.name, time.perf_counter() - started)


def _tell_left_out(plan: "UpscalePlan") -> None:
    """Name the files that are not enlarged."""
    if plan.others:
        more = f" and {len(plan.others) - 1} more" if plan.others[1:] else ""
        console.say(f"left out, no photographs: {plan.others[0]}{more}", progress=True)
    if plan.finished:
        total = plan.finished + len(plan.jobs)
        console.say(f"{plan.finished} of {total} are there already", progress=True)


def _tell(outcome: "Outcome", name: str, seconds: float) -> None:
    """Print a line per image; raise the error of a single one, and DataError where some failed."""
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
    """The command that goes on with what is not done yet."""
    words = [word for word in sys.argv[1:] if word not in ("--force", "--skip-existing")]
    return shlex.join(["quantnas", *words, "--skip-existing"])
