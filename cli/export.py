"""`quantnas export`: an integer ONNX file, compared with torch before it is called done."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from quantnas import files
from quantnas.config import ExportConfig
from quantnas.errors import DataError, UsageError, VerificationError

from . import console, options, start

ELSEWHERE = ("qonnx", "tflite")
"""Formats that ONNX Runtime does not run."""


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
        require_writable(file)
    chosen_format = _format(format, float_, file)
    form = {
        "export.format": chosen_format,
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
                files.copy(rejected, file.with_suffix(f".rejected{rejected.suffix}"))
        raise
    result = target.result("export")
    assert result is not None
    for line in console.export_lines(result):
        console.say(line, target)
    if (psnr := result["psnr"]) is not None:
        console.say(
            f"the file: {psnr['file']:.2f} dB PSNR-Y, bicubic {psnr['bicubic']:.2f} dB, on "
            f"{psnr['photographs']} held-out photographs (at most {psnr['side']} pixels from "
            "their middle)",
            target,
        )
    beside = result.get("beside")
    made = target.folder / (beside or result)["file"]
    if beside:
        console.say(f"{made.name}: {beside['bytes']:,} bytes, {beside['compared']}", target)
    if file is not None:
        files.copy(made, file)
    shown = target.folder / result["file"] if chosen_format in ELSEWHERE else file or made
    console.next_commands(
        f"evaluate {target.folder}", f"report {target.folder}", f"upscale PHOTO -m {shown}"
    )


def _format(format: str | None, float_: bool, file: Path | None) -> str | None:
    """Of the options; the suffix of -o says it too."""
    if float_ and format not in (None, "float"):
        raise UsageError(f"--float and --format {format} are both given.", "Leave one of them out.")
    found = "float" if float_ else format
    if file is None or (file.suffix == ".tflite") == (found == "tflite"):
        return found
    if file.suffix == ".tflite" and found is None:
        return "tflite"
    raise UsageError(
        f"-o is {file}, but the format is {found or ExportConfig.format}.",
        "Give -o a name that ends in .tflite for --format tflite, in .onnx for all others.",
    )


def require_writable(file: Path) -> None:
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
