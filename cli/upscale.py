"""`quantnas upscale`: a photograph through an exported file."""

import time
from pathlib import Path
from typing import Annotated

import typer

from . import console


def upscale(
    photo: Annotated[Path, typer.Argument(help="png, jpg, webp or bmp.")],
    model: Annotated[Path, typer.Option("-m", "--model", help="An exported ONNX file.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Image to write.", show_default="PHOTO_xSCALE.png"),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the image.")] = False,
) -> None:
    """Enlarge a photograph with an exported file, in ONNX Runtime.

    Example: quantnas upscale holiday.jpg -m runs/run/rfdn_small/model.onnx -o large.png
    """
    from quantnas import evaluate, export, images

    scale = export.read_metadata(model)["scale"]
    target = out or photo.with_name(f"{photo.stem}_x{scale}.png")
    console.refuse_existing(target, force)
    images.format_of(target)
    image = images.read(photo)
    enlarge = evaluate.onnx_upscaler(model)
    started = time.perf_counter()
    result = enlarge(image)
    seconds = time.perf_counter() - started
    images.write(target, result)
    height, width = image.shape[:2]
    typer.echo(
        f"{target}: {width}x{height} -> {result.shape[1]}x{result.shape[0]}, {seconds:.2f} s"
    )
