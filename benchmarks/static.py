"""ONNX Runtime's own static quantization (8 bits) of a float file, measured as ours is.

    quantnas export RUN --float -o float.onnx
    python benchmarks/static.py float.onnx --scale 4 --calib TRAIN --test SET5 --test SET14

Three ways of finding the ranges of activations; uint8 activations, int8 weights per channel,
QuantizeLinear/DequantizeLinear form. Prints a Markdown table: PSNR-Y in dB per set, minutes, bytes,
convolutions in integers.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from quantnas.data import bicubic, image_files, patches, photographs
from quantnas.evaluation import scoring
from quantnas.exporters import integer_fusion, verification
from quantnas.exporters.onnx_graph import CONVOLUTIONS
from quantnas.inference import upscaler

METHODS = {
    "min and max": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


class Reader(CalibrationDataReader):
    """Low-resolution crops of 64x64 from the middle of photographs, one after the other.

    entry: name of the file's input.
    """

    def __init__(self, folder: Path, scale: int, count: int, entry: str = "lr") -> None:
        self.entry = entry
        paths = image_files.find(folder)
        chosen = paths[:: max(1, len(paths) // count)][:count]
        self.crops = iter([self._crop(path, scale) for path in chosen])

    def _crop(self, path: Path, scale: int) -> dict[str, Any]:
        whole = bicubic.crop_to_multiple(image_files.read(path), scale)
        low = bicubic.downscale(whole, scale)
        y, x = ((side - 64) // 2 for side in low.shape[:2])
        return {self.entry: patches.to_tensor(low[None, y : y + 64, x : x + 64]).numpy()}

    def get_next(self) -> dict[str, Any] | None:
        return next(self.crops, None)


def quantize(ready: Path, target: Path, reader: Reader, method: CalibrationMethod) -> None:
    """Write the static quantization of a file that was prepared by `quant_pre_process`."""
    quantize_static(
        str(ready),
        str(target),
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
    )


def row(name: str, path: Path, minutes: float, args: argparse.Namespace) -> str:
    """One line of the table."""
    run = upscaler.onnx_upscaler(path)
    cells = []
    for folder in args.test:
        scores = list(scoring.score(run, photographs.find(folder, args.scale), args.scale))
        cells.append(f"{scoring.mean(scores).psnr:.2f}")
    nodes = onnx.load(path).graph.node
    integers = [
        n for n in verification.optimised(path).graph.node if n.op_type in integer_fusion.INTEGER
    ]
    convolutions = sum(n.op_type in CONVOLUTIONS for n in nodes)
    told = f"{len(integers)} of {convolutions}"
    return f"| {name} | {' | '.join(cells)} | {minutes:.1f} | {path.stat().st_size:,} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="float ONNX file")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--calib", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--crops", type=int, default=32)
    parser.add_argument("--test", action="append", required=True, help="folder, repeatable")
    args = parser.parse_args()
    names = " | ".join(Path(folder).name for folder in args.test)
    print(f"| ranges | {names} | minutes | bytes | convolutions in integers |")
    print("|---" * (4 + len(args.test)) + "|")
    print(row("float", args.file, 0, args))
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(args.file), str(ready))
        for name, method in METHODS.items():
            target, began = Path(folder) / f"{method.name}.onnx", time.monotonic()
            quantize(ready, target, Reader(args.calib, args.scale, args.crops), method)
            print(row(name, target, (time.monotonic() - began) / 60, args), flush=True)


if __name__ == "__main__":
    main()
