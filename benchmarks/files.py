"""Exports one network at several widths and forms, and measures the files side by side.

    python benchmarks/files.py rfdn_deploy --channels 48

The network has random weights and a 3x3 convolution on every edge that offers one: bytes and speed
do not depend on training. First and last convolution stay at 8/8. Each file is compared with torch
on two bundled photographs, and timed by turns with its own float file: one thread, 180x320 pixels
(at x4 an output of 1280x720), processor time. Prints a Markdown table.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import torch

from quantnas.architectures import cost, network, registry
from quantnas.architectures.cost import Cost
from quantnas.config import genotype, search_space
from quantnas.config.genotype import Choice, Genotype
from quantnas.config.run_config import ExportConfig
from quantnas.config.search_space import Precision, SearchSpace
from quantnas.data import image_files, patches
from quantnas.evaluation import latency, processor
from quantnas.exporters import onnx_export, verification
from quantnas.quantization import post_training
from quantnas.runs import models

T = TypeVar("T")
WIDTHS = ((8, 8), (4, 8), (4, 4), (3, 8), (2, 8), (2, 4), (2, 2))
FORMS = {
    "": ExportConfig(),
    "uint8 in and out": ExportConfig(uint8_io=True),
    "for old runtimes": ExportConfig(compat=True),
}


def chosen(where: SearchSpace) -> Genotype:
    """The first 3x3 convolution, or else the first operation, of every slot."""
    choices = {}
    for slot in registry.slots(where):
        op = next((op for op in slot.ops if op.startswith("conv3x3")), slot.ops[0])
        choices[slot.name] = Choice(op, slot.weight_bits[-1], slot.act_bits[-1])
    return Genotype(where.name, choices)


def priced(where: SearchSpace, found: Genotype, precision: dict[str, Precision]) -> Cost:
    """What the layers cost, for the file's metadata."""
    rows = cost.layers(registry.slots(where), found, precision, where.scale)
    return cost.total(rows, where.scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("space")
    parser.add_argument("--channels", type=int, help="instead of the space's")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10, help="of timing, per file")
    args = parser.parse_args()
    where = search_space.load(args.space, args.scale)
    where = dataclasses.replace(where, channels=args.channels or where.channels)
    torch.manual_seed(0)
    found, slots = chosen(where), registry.slots(where)
    shown = [image_files.read(path) for path in image_files.bundled().held_out[:2]]
    shown = [shown[0][:96, :128], shown[1][:120, :80]]
    low = torch.cat([patches.to_tensor(image[None, :80, :80]) for image in shown])
    net, checks = network.build(where, found, None).eval(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for weights, acts in WIDTHS:
            precision = genotype.uniform_precision(slots, weights, acts)
            rounded = network.build(where, found, precision)
            network.inherit(rounded, net)
            network.initialise(rounded, low)
            frozen, totals = post_training.freeze(rounded), priced(where, found, precision)
            for form, config in FORMS.items():
                if form and acts < 8:
                    continue
                path = folder / (f"w{weights}a{acts} {form}".strip() + ".onnx")
                onnx_export.to_onnx(frozen, totals, where.scale, path, config)
                print(f"comparing {path.stem} with torch", file=sys.stderr)
                checks[path.stem] = verification.verify(path, frozen, shown)
        whole = folder / "float.onnx"
        in_float = priced(where, found, {slot.name: Precision(32, 32) for slot in slots})
        onnx_export.to_onnx(net, in_float, where.scale, whole)
        full = whole.stat().st_size
        files = models.resolve_all([str(folder / f"{name}.onnx") for name in checks])
        result = finished(latency.measure(files, latency.Setting(seconds=args.seconds)))
    print(f"{in_float.parameters:,} parameters, {full:,} bytes in float; {result.rounds} rounds on")
    print(f"{processor.here().processor}, ONNX Runtime {processor.here().onnxruntime}\n")
    print("| file | bytes | of float | time, of float | convolutions in integers | from torch |")
    print("|---|---|---|---|---|---|")
    for row in result.rows:
        check, ratio = checks[row.name], row.ratio.cpu
        print(
            f"| {row.name} | {row.bytes:,} | 1/{full / row.bytes:.1f} | "
            f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) | "
            f"{check.integer_convolutions} of {check.convolutions} | "
            f"{check.max_steps} steps, {check.psnr:.0f} dB |"
        )


def finished(steps: Generator[Any, None, T]) -> T:
    """What a generator returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


if __name__ == "__main__":
    main()
