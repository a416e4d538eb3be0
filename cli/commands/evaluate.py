"""`quantnas evaluate`: PSNR and SSIM of models side by side, bicubic beside them."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .. import console, options
from ..tables import columns


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, checkpoints in them, exported ONNX files, or bundled models.",
            metavar="MODEL",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of photographs, with low-resolution files of their own or without; "
            "repeatable.",
            show_default="those that the run held out, else the bundled held-out ones",
        ),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw PSNR over BitOps, a panel per set.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="The same, with the published networks of x4 on Set14 beside."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    output: options.Output = options.ROOT,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the folder of this evaluation; must be new.",
            show_default="the model, with a free number",
        ),
    ] = None,
) -> None:
    """Measure models: PSNR-Y and SSIM-Y, with bicubic beside them, and what they get wrong.

    Example: quantnas evaluate runs/run/rfdn_small --data Set5 --data Set14

    Tables and pictures go into a folder of their own. Of a run, its exported file is measured, else
    its quantized, trained or float checkpoint.

    Protocol: LR from files where a folder has them, else by bicubic to uint8; BT.601 luma, a
    border of `scale` pixels left out.
    """
    from quantnas.api import model_verbs
    from quantnas.config import files

    where: dict[str, Any] = {"output": output, "name": name}
    with console.Display() as watch:
        found = model_verbs.evaluate(
            models, data or [], plot=plot, published=published, **where, watch=watch
        )
    if json:
        typer.echo(files.to_json(found.result), nl=False)
        return
    for line in _lines(found.result):
        typer.echo(line)
    typer.echo(f"evaluation: {found.folder / 'evaluation.md'}")


def _lines(result: dict[str, Any]) -> Iterator[str]:
    from quantnas.evaluation import tables

    alone = len(result["models"]) == 1
    yield f"x{result['scale']}, {result['protocol']}"
    for name, model in result["models"].items():
        yield f"{name}: {model['what']}"
    yield ""
    yield from columns(tables.models(result))
    for name in result["sets"] if alone else ():
        yield ""
        yield name
        yield from columns(tables.images(result, name))
        yield from tables.worst(result, name)
    yield ""
    yield "mean PSNR-Y in dB / SSIM-Y (dB over bicubic)"
    yield from columns(tables.means(result))
    for name in result["sets"] if not alone else ():
        yield from (f"{name}: {line}" for line in tables.worst(result, name))
    for name, group in result["sets"].items():
        for label, model in group["models"].items():
            if model["mean"]["psnr"] < model["mean"]["bicubic_psnr"]:
                yield f"warning: {label} is worse than bicubic on {name}"
