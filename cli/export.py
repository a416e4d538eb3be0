"""`quantnas export`: an integer ONNX file, compared with torch before it is called done."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from quantnas.config import ExportConfig
from quantnas.errors import DataError, VerificationError

from . import console, options, start


def export(
    source: options.Source = None,
    file: Annotated[
        Path | None, typer.Option("-o", "--onnx", help="Copy the file here too.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="onnx, or what is written besides, and for -o: float (model.float.onnx, to "
            "compare with), qonnx (model.qonnx.onnx, for FPGA toolchains) or tflite "
            "(model.tflite, for LiteRT; needs the extra `litert`).",
            show_default=ExportConfig.format,
        ),
    ] = None,
    float_: Annotated[bool, typer.Option("--float", help="The same as --format float.")] = False,
    compat: Annotated[
        bool | None,
        typer.Option(
            help="Weights below 8 bits as bytes and a table: runs from ONNX Runtime 1.16 on.",
            show_default="no-compat",
        ),
    ] = None,
    uint8_io: Annotated[
        bool | None,
        typer.Option(help="Pixels from 0 to 255 in and out.", show_default="no-uint8-io"),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Low-resolution size, as 180x320, if the file shall take images of one size only.",
            show_default=ExportConfig.size,
            metavar="HEIGHTxWIDTH",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the file of -o.")] = False,
    output: options.Output = options.ROOT,
    name: options.Name = None,
) -> None:
    """Write the quantized network as ONNX, load it, and compare it with torch.

    Example: quantnas export runs/quantize/rfdn_small -o model.onnx

    The weights are packed to their bits; the bits of every layer are in the file's metadata. A file
    that differs from torch is left as *.rejected.onnx, and the exit code is 4.
    """
    if file is not None:
        console.refuse_existing(file, force)
        _require_writable(file)
    form = {
        "export.format": "float" if float_ else format,
        "export.compat": compat,
        "export.uint8_io": uint8_io,
        "export.size": size,
    }
    target, chosen = start.continued("export", source, None, output, name, None, None, **form)
    try:
        console.perform(target, chosen, ["export"], "export")
    except VerificationError:
        if file is not None:
            for rejected in target.folder.glob("*.rejected.*"):
                _copy(rejected, file.with_suffix(f".rejected{rejected.suffix}"))
        raise
    result = target.result("export")
    assert result is not None
    for line in console.export_lines(result):
        console.say(line, target)
    psnr = result["psnr"]
    console.say(
        f"the file: {psnr['file']:.2f} dB PSNR-Y on the middle of held-out photographs, "
        f"bicubic {psnr['bicubic']:.2f} dB",
        target,
    )
    beside = result.get("beside")
    made = target.folder / (beside or result)["file"]
    if beside:
        console.say(f"{made.name}: {beside['bytes']:,} bytes, {beside['compared']}", target)
    if file is not None:
        _copy(made, file)
    console.next_commands(
        f"evaluate {target.folder}", f"report {target.folder}", f"upscale PHOTO -m {file or made}"
    )


def _require_writable(file: Path) -> None:
    """Raise DataError when a file of that name cannot be written."""
    folder = file.parent
    if file.is_dir():
        raise DataError(f"{file} is a folder.", "Give the name of a file to -o.")
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.", "Make it first, or choose another -o.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"Nothing can be written into {folder}: {error.strerror}.", "Choose another -o."
        ) from error


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
