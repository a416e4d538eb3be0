"""Writes further files next to model.onnx: the float network, and files for other toolchains."""

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
"""Least PSNR of a TFLite file against torch, dB: LiteRT multiplies by fixed-point numbers."""


@dataclass(frozen=True)
class ExtraFile:
    """A file that was written next to model.onnx."""

    file: str
    bytes: int
    compared: str
    """How the file was compared, and the result, in words."""


def _float(run: Run, config: RunConfig, samples: Samples) -> ExtraFile:
    """Write the float network of the run as ONNX."""
    space, net, totals = checkpoint(run, "float")
    target, candidate = run.path("model.float.onnx"), run.path("model.float.rejected.onnx")
    onnx_export.to_onnx(net, totals, space.scale, candidate, config.export)
    verified = verification.verify(candidate, net, samples)
    return _extra_file(
        candidate.replace(target), f"at most {verified.max_steps} of 255 steps from torch"
    )


def _qonnx(run: Run, config: RunConfig, samples: Samples) -> ExtraFile:
    """Write QONNX for FPGA toolchains; the file is not run, since nothing here can."""
    space, net, totals = quantized(run)
    target = run.path("model.qonnx.onnx")
    qonnx.to_qonnx(net, totals, space.scale, _sides(config.export, space.scale), target)
    return _extra_file(target, "checked by ONNX, not run")


def _tflite(run: Run, config: RunConfig, samples: Samples) -> ExtraFile:
    """Write TFLite for LiteRT. Raises VerificationError below `LEAST` dB against torch."""
    space, net, totals = quantized(run)
    target, candidate = run.path("model.tflite"), run.path("model.rejected.tflite")
    sides, pixels = _sides(config.export, space.scale), config.export.uint8_io
    tflite.to_tflite(net, totals, space.scale, sides, candidate, pixels)
    in_torch, in_litert = upscaler.torch_upscaler(net), tflite.upscaler(candidate)
    psnr = min(_psnr(in_torch, in_litert, _fitting(sample, sides)) for sample in samples)
    if psnr < LEAST:
        raise VerificationError(
            f"{candidate.name} differs from the network by {psnr:.1f} dB in LiteRT "
            f"(allowed: {LEAST:.0f} dB).",
            "Give its activations 8 bits, or use model.onnx.",
        )
    return _extra_file(candidate.replace(target), f"{psnr:.1f} dB from torch in LiteRT")


FORMATS: dict[str, Callable[[Run, RunConfig, Samples], ExtraFile]] = {
    "float": _float,
    "qonnx": _qonnx,
    "tflite": _tflite,
}
"""`export.format` -> the function that writes such a file into the run folder."""


def _extra_file(path: Path, compared: str) -> ExtraFile:
    return ExtraFile(path.name, path.stat().st_size, compared)


def _sides(form: ExportConfig, scale: int) -> tuple[int, int]:
    """(height, width) of the low-resolution image, by default for an output of 1280x720."""
    return form.sides or cost.resolutions(scale)["1280x720 output"]


def _fitting(image: NDArray[np.uint8], sides: tuple[int, int]) -> NDArray[np.uint8]:
    """The image, cropped or repeated to (height, width) `sides`."""
    for axis, side in enumerate(sides):
        image = image.take(range(side), axis, mode="wrap")
    return image


def _psnr(first: upscaler.Upscaler, second: upscaler.Upscaler, low: NDArray[np.uint8]) -> float:
    """PSNR between two upscalers on an image, over all values, dB; infinity where equal."""
    mse = float(np.mean((first(low).astype(np.float64) - second(low)) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def named_format(format: str | None, file: Path | None) -> str | None:
    """The `export.format`, given as such or by the extension of the file to be exported.

    Raises UsageError where the two contradict each other.
    """
    if file is None or (file.suffix == ".tflite") == (format == "tflite"):
        return format
    if file.suffix == ".tflite" and format is None:
        return "tflite"
    raise UsageError(
        f"The file is called {file.name}, but the format is {format or ExportConfig.format}.",
        "Give a name that ends in .tflite for the format tflite, in .onnx for all others.",
    )
