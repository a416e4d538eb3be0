"""`quantnas evaluate`: PSNR and SSIM of models side by side, bicubic beside them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import console, options
from ..tables import columns

if TYPE_CHECKING:
    from quantnas.api import Evaluation


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
            help="Folder of photographs, with or without low-resolution files of their own; "
            "repeatable.",
            show_default="those that the run held out, else the bundled held-out ones",
        ),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw PSNR over BitOps, one panel per set.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="As --plot, with the published networks of x4 on Set14 beside."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    output: options.Output = options.ROOT,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the evaluation's folder, which must be new.",
            show_default="the model, with a free number",
        ),
    ] = None,
) -> None:
    """Measure PSNR-Y and SSIM-Y of models, with bicubic beside them, and draw their errors.

    Example: quantnas evaluate runs/run/rfdn_small --data Set5 --data Set14

    Tables and pictures go into a folder of their own. Of a run, the exported file is measured, or
    else its quantized, trained or float checkpoint.

    Beside the scores of a quantized network stands its PSNR to the float network of its run.

    Low resolution comes from files where a folder has them, and otherwise from bicubic, rounded to
    uint8. Scores are those of the BT.601 luma without a border of `scale` pixels.
    """
    from quantnas.api import model_verbs
    from quantnas.config import files

    place: dict[str, Any] = {"output": output, "name": name}
    with console.Display() as watch:
        found = model_verbs.evaluate(
            models, data or [], plot=plot, published=published, **place, watch=watch
        )
    if json:
        typer.echo(files.to_json(found.result), nl=False)
        return
    for line in _lines(found):
        typer.echo(line)
    typer.echo(f"evaluation: {found.folder / 'evaluation.md'}")


def _lines(found: "Evaluation") -> Iterator[str]:
    """The tables of an evaluation, and warnings about models worse than bicubic."""
    result = found.result
    alone = len(result["models"]) == 1
    yield f"x{result['scale']}, {result['protocol']}"
    for name, model in result["models"].items():
        yield f"{name}: {model['what']}"
    yield ""
    yield from columns(found.model_table)
    for name in result["sets"] if alone else ():
        yield ""
        yield name
        yield from columns(found.image_table(name))
        yield from found.worst(name)
    yield ""
    yield "mean PSNR-Y in dB / SSIM-Y (dB over bicubic)"
    yield from columns(found.mean_table)
    for name in result["sets"] if not alone else ():
        yield from (f"{name}: {line}" for line in found.worst(name))
    for name, group in result["sets"].items():
        for label, model in group["models"].items():
            if model["mean"]["psnr"] < model["mean"]["bicubic_psnr"]:
                yield f"warning: {label} is worse than bicubic on {name}"
