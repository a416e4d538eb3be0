"""`quantnas evaluate`: PSNR and SSIM of an exported file, bicubic beside it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console, options, start


def evaluate(
    model: Annotated[Path, typer.Argument(help="An exported ONNX file, or a run folder.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of photographs, beside those that a run held out; repeatable.",
            show_default="those held out",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    output: options.Output = options.ROOT,
    name: options.Name = None,
) -> None:
    """Measure an exported file with ONNX Runtime: PSNR-Y, SSIM-Y, bicubic beside them.

    Example: quantnas evaluate runs/run/rfdn_small/model.onnx --data Set5

    Protocol: LR by bicubic to uint8, BT.601 luma, a border of `scale` pixels left out.
    """
    from quantnas import runs

    if model.is_dir():
        target, chosen = start.continued(
            "evaluate", model, None, output, name, None, None, benchmarks=data or None
        )
        console.perform(target, chosen, ["evaluate"], "evaluate")
        result = target.result("evaluate")
        assert result is not None
    else:
        result = _file(model, data or [])
    if json:
        typer.echo(runs.to_json(result), nl=False)
        return
    for line in [*_rows(result), *console.scores(result)]:
        typer.echo(line)


def _file(model: Path, data: list[str]) -> dict[str, Any]:
    """The scores of a lone file."""
    import dataclasses

    from quantnas import evaluate, export, images, pipeline

    upscale = evaluate.onnx_upscaler(model)
    scale = export.read_metadata(model)["scale"]
    sets = {name: images.find(folder) for name, folder in evaluate.named_sets(data).items()}
    if not sets:
        sets = {"bundled": list(images.bundled().held_out)}
    result: dict[str, Any] = {}
    for name, paths in sets.items():
        scores = console.follow(pipeline.score_set(name, upscale, paths, scale), None)
        rows = [dataclasses.asdict(row) for row in scores]
        result[name] = {"file": rows, "mean": dataclasses.asdict(evaluate.mean(scores))}
    return {"protocol": evaluate.PROTOCOL, "scale": scale, "sets": result}


def _rows(result: dict[str, Any]) -> list[str]:
    rows = [row for group in result["sets"].values() for row in group["file"]]
    width = max(len(row["image"]) for row in rows)
    return [
        f"{row['image']:<{width}}  bicubic {row['bicubic_psnr']:6.2f} dB  file "
        f"{row['psnr']:6.2f} dB  {row['psnr'] - row['bicubic_psnr']:+.2f}  SSIM {row['ssim']:.4f}"
        for row in rows
    ]
