"""`quantnas export`: an integer ONNX file, compared with torch before it is called done."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quantnas.config.run_config import ExportConfig
from quantnas.errors import UsageError

from .. import console, options

NOT_RUNNABLE = ("qonnx", "tflite")
"""Formats that ONNX Runtime does not run."""


def export(
    source: options.Source = None,
    file: Annotated[
        Path | None, typer.Option("-o", "--onnx", help="File to which the exported one is copied.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="onnx, or a further file that is written beside it and copied to -o: float "
            "(model.float.onnx, to compare with), qonnx (model.qonnx.onnx, for FPGA toolchains) or "
            "tflite (model.tflite, for LiteRT; needs the extra `litert`).",
            show_default=ExportConfig.format,
        ),
    ] = None,
    float_: Annotated[
        bool, typer.Option("--float", help="Write the float network too, as --format float does.")
    ] = False,
    compat: Annotated[
        bool | None,
        typer.Option(
            help="Store weights below 8 bits as bytes and a table, for ONNX Runtime from 1.16 on.",
            show_default="no-compat",
        ),
    ] = None,
    uint8_io: Annotated[
        bool | None,
        typer.Option(help="Take and give pixels from 0 to 255.", show_default="no-uint8-io"),
    ] = None,
    plain: Annotated[
        bool | None,
        typer.Option(
            help="Write every convolution as its layer is, and not in the form that ONNX Runtime "
            "runs quickest.",
            show_default="no-plain",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Low-resolution size, as 180x320, for a file that takes images of that size only.",
            show_default=ExportConfig.size,
            metavar="HEIGHTxWIDTH",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the file of -o.")] = False,
    output: options.Output = options.ROOT,
    name: options.Name = None,
) -> None:
    """Write the quantized network as ONNX, load that file, and compare it with torch.

    Example: quantnas export runs/quantize/rfdn_small -o model.onnx

    The weights are packed to their bit widths, which are in the file's metadata. A file that
    differs from torch is left as *.rejected.onnx, and the exit code is 4.
    """
    from quantnas.api import run_verbs

    if file is not None:
        console.refuse_existing(file, force)
    form: dict[str, Any] = {
        "format": _format(format, float_),
        "compat": compat,
        "uint8_io": uint8_io,
        "plain": plain,
        "size": size,
    }
    flags = {f"export.{key}": value for key, value in form.items()}
    new: dict[str, Any] = {"output": output, "name": name}
    with console.Display("export") as watch, options.named(flags):
        made = run_verbs.export(_required(source), file, **form, **new, watch=watch)
    target = watch.run
    assert target is not None
    result = target.result("export")
    assert result is not None
    for line in console.export_lines(result):
        console.say(line, target)
    if (psnr := result["psnr"]) is not None:
        ours, bicubic = (  # null where two images are equal
            "infinite" if value is None else f"{value:.2f} dB"
            for value in (psnr["file"], psnr["bicubic"])
        )
        console.say(
            f"the file: {ours} PSNR-Y, bicubic {bicubic}, on "
            f"{psnr['photographs']} held-out photographs (at most {psnr['side']} pixels from "
            "their middle)",
            target,
        )
    beside = result.get("beside")
    if beside:
        line = f"{beside['file']}: {beside['bytes']:,} bytes, {beside['compared']}"
        console.say(line, target)
    other = target.config.export.format in NOT_RUNNABLE
    shown = target.folder / result["file"] if other else made
    console.next_commands(
        ["evaluate", target.folder],
        ["report", target.folder],
        ["upscale", "PHOTO", "-m", shown],
    )


def _format(format: str | None, float_: bool) -> str | None:
    """The format that --format and --float ask for. Raises UsageError where they differ."""
    if float_ and format not in (None, "float"):
        raise UsageError(f"--float and --format {format} are both given.", "Leave one of them out.")
    return "float" if float_ else format


def _required(source: Path | None) -> Path:
    """The run to export. Raises UsageError where none is given."""
    if source is None:
        raise UsageError(
            "`quantnas export` needs a run to go on from.",
            "Give its folder, as in: quantnas export runs/run/rfdn_small",
        )
    return source
