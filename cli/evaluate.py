"""`quantnas evaluate`: PSNR and SSIM of models side by side, bicubic beside them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, options
from .columns import columns

if TYPE_CHECKING:
    from quantnas.models import Model
    from quantnas.runs import Run


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
    from quantnas import comparison, runs
    from quantnas import models as names

    found = names.resolve_all(models)
    sets = comparison.choose(found, data or [])
    plot = plot or published
    if plot:
        comparison.require_plot(found, sets, published)
    with _folder(output, name, found) as target:
        steps = comparison.perform(found, sets, target.folder, plot, published)
        result = console.follow(steps, None)
    if json:
        typer.echo(runs.to_json(result), nl=False)
        return
    for line in _lines(result):
        typer.echo(line)
    typer.echo(f"evaluation: {target.folder / 'evaluation.md'}")


@contextmanager
def _folder(output: Path, name: str | None, found: "Sequence[Model]") -> "Iterator[Run]":
    """A new folder of the evaluation; gone again when it fails."""
    from quantnas import comparison, runs

    default = comparison.slug(found[0].name) if len(found) == 1 else "comparison"
    target = runs.create(output, "evaluate", name, default)
    try:
        yield target
    except BaseException:
        shutil.rmtree(target.folder)
        raise


def _lines(result: dict[str, Any]) -> Iterator[str]:
    from quantnas import tables

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
