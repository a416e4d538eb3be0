"""What can be written beside model.onnx: the float network, and files for other toolchains."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantnas.architectures import cost
from quantnas.config.run_config import ExportConfig, RunConfig
from quantnas.errors import UsageError, VerificationError
from quantnas.exporters import onnx_export, qonnx, tflite, verification
from quantnas.inference import upscaler
from quantnas.runs.networks import checkpoint, quantized
from quantnas.runs.run_folder import Run

Samples = Sequence[NDArray[np.uint8]]
"""Low-resolution images (H, W, 3) on which a file is compared."""
LEAST = 45.0
"""dB of a TFLite file against torch, at least: LiteRT multiplies by fixed-point numbers."""


@dataclass(frozen=True)
class ExtraFile:
    """A file that was written beside model.onnx."""

    file: str
    bytes: int
    compared: str
    """With what, and what came out."""


def _float(run: Run, config: RunConfig, samples: Samples) -> ExtraFile:
    """The float network of the same run."""
    where, net, totals = checkpoint(run, "float")
    target, candidate = run.path("model.float.onnx"), run.path("model.float.rejected.onnx")
    onnx_export.to_onnx(net, totals, where.scale, candidate, config.export)
    found = verification.verify(candidate, net, samples)
    return _made(candidate.replace(target), f"at most {found.max_steps} of 255 steps from torch")


def _qonnx(run: Run, config: RunConfig, samples: Samples) -> ExtraFile:
    """For FPGA toolchains; nothing here can run it."""
    where, net, totals = quantized(run)
    target = run.path("model.qonnx.onnx")
    qonnx.to_qonnx(net, totals, where.scale, _sides(config.export, where.scale), target)
    return _made(target, "checked by ONNX, not run")


def _tflite(run: Run, config: RunConfig, samples: Samples) -> ExtraFile:
    """For LiteRT, compared with torch in it. Raises VerificationError below `LEAST`."""
    where, net, totals = quantized(run)
    target, candidate = run.path("model.tflite"), run.path("model.rejected.tflite")
    sides, pixels = _sides(config.export, where.scale), config.export.uint8_io
    tflite.to_tflite(net, totals, where.scale, sides, candidate, pixels)
    ours, theirs = upscaler.torch_upscaler(net), tflite.upscaler(candidate)
    psnr = min(_psnr(ours, theirs, _fitting(sample, sides)) for sample in samples)
    if psnr < LEAST:
        raise VerificationError(
            f"{candidate.name} differs from the network by {psnr:.1f} dB in LiteRT "
            f"(allowed: {LEAST:.0f} dB).",
            "Give its activations 8 bits, or use model.onnx.",
        )
    return _made(candidate.replace(target), f"{psnr:.1f} dB from torch in LiteRT")


FORMATS: dict[str, Callable[[Run, RunConfig, Samples], ExtraFile]] = {
    "float": _float,
    "qonnx": _qonnx,
    "tflite": _tflite,
}
"""`export.format` -> what writes such a file into the run."""


def _made(path: Path, compared: str) -> ExtraFile:
    return ExtraFile(path.name, path.stat().st_size, compared)


def _sides(form: ExportConfig, scale: int) -> tuple[int, int]:
    """(height, width) of the low resolution: for an output of 1280x720 where nothing is said."""
    return form.sides or cost.resolutions(scale)["1280x720 output"]


def _fitting(image: NDArray[np.uint8], sides: tuple[int, int]) -> NDArray[np.uint8]:
    """The image, cut or repeated to that height and width."""
    for axis, side in enumerate(sides):
        image = image.take(range(side), axis, mode="wrap")
    return image


def _psnr(ours: upscaler.Upscaler, theirs: upscaler.Upscaler, low: NDArray[np.uint8]) -> float:
    """dB between the two, over all values; infinite = equal."""
    mse = float(np.mean((ours(low).astype(np.float64) - theirs(low)) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def named_format(format: str | None, file: Path | None) -> str | None:
    """The `export.format` of a file to be exported; its name says it, too.

    Raises UsageError where both say different things.
    """
    if file is None or (file.suffix == ".tflite") == (format == "tflite"):
        return format
    if file.suffix == ".tflite" and format is None:
        return "tflite"
    raise UsageError(
        f"-o is {file}, but the format is {format or ExportConfig.format}.",
        "Give -o a name that ends in .tflite for --format tflite, in .onnx for all others.",
    )
