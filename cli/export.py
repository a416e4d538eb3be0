"""`quantnas export`: an integer ONNX file, compared with torch before it is called done."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from . import console, options, start


def export(
    source: options.Source = None,
    file: Annotated[
        Path | None, typer.Option("-o", "--onnx", help="Copy the file here too.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the file of -o.")] = False,
    output: options.Output = options.ROOT,
    name: options.Name = None,
) -> None:
    """Write the quantized network as ONNX, load it, and compare it with torch.

    Example: quantnas export runs/quantize/rfdn_small -o model.onnx

    The weights are packed to their bits; bits per layer and BitOps are in the file's metadata.
    """
    if file is not None:
        console.refuse_existing(file, force)
        file.parent.mkdir(parents=True, exist_ok=True)
    target, chosen = start.continued("export", source, None, output, name, None, None)
    console.perform(target, chosen, ["export"], "export")
    result = target.result("export")
    assert result is not None
    for line in console.export_lines(result):
        console.say(line, target)
    model = target.folder / "model.onnx"
    if file is not None:
        shutil.copyfile(model, file)
    console.next_commands(
        f"evaluate {target.folder}", f"report {target.folder}", f"upscale PHOTO -m {file or model}"
    )
