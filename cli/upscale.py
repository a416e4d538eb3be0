"""`quantnas upscale`: a photograph through a model."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantnas.errors import UsageError

from . import console

if TYPE_CHECKING:
    from quantnas.models import Model

SCALE = 2
"""Where neither a model nor a scale is given."""


def upscale(
    photo: Annotated[Path, typer.Argument(help="png, jpg, webp or bmp.")],
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
        typer.Option("-o", "--out", help="Image to write.", show_default="PHOTO_xSCALE.png"),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the image.")] = False,
) -> None:  # fmt: skip
    """Enlarge a photograph with a bundled model, or with one of yours.

    Example: quantnas upscale holiday.jpg -m runs/run/rfdn_small/model.onnx -o large.png
    """
    from quantnas import images

    chosen = _chosen(model, scale)
    target = out or photo.with_name(f"{photo.stem}_x{chosen.scale}.png")
    console.refuse_existing(target, force)
    images.format_of(target)
    image = images.read(photo)
    enlarge = chosen.upscaler()
    started = time.perf_counter()
    result = enlarge(image)
    seconds = time.perf_counter() - started
    images.write(target, result)
    height, width = image.shape[:2]
    typer.echo(
        f"{target}: {width}x{height} -> {result.shape[1]}x{result.shape[0]} by {chosen.name}, "
        f"{seconds:.2f} s"
    )


def _chosen(name: str | None, scale: int | None) -> "Model":
    from quantnas import models

    found = models.resolve(name or models.best(scale or SCALE))
    if scale is not None and scale != found.scale:
        raise UsageError(
            f"--scale is {scale}, but {found.what} enlarges x{found.scale}.",
            "Leave --scale out, or give another model.",
        )
    return found
