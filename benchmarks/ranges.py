"""Quantizes networks with ranges from whole photographs and from the crops alone, and compares.

    python benchmarks/ranges.py rfdn.safetensors other.onnx --bits w8a8 --test SET5 --each FOLDER

Nothing is retrained. Networks are ONNX files, or safetensors files of the space in --space and
--scale. Prints a Markdown table: loss of PSNR-Y on the set of --test against the float network, and
mean and worst loss over the photographs of --each, dB; the least PSNR to the float network of
these, dB; seconds of the step; largest share of the values beyond an 8-bit grid.
"""

import argparse
import json
from pathlib import Path

from command import quantnas

PHOTOGRAPHS = (0, 100)


def row(file: Path, bits: str, count: int, args: argparse.Namespace) -> str:
    """One line of the table."""
    name = f"{file.stem}-{bits}-{count}"
    folders = sorted(args.output.joinpath("each").iterdir())
    tests = [word for folder in (args.test, *folders) for word in ("--benchmark", folder)]
    space = ["--space", args.space, "--scale", args.scale] if file.suffix != ".onnx" else []
    more = ["--train", "none", "--set", f"quantize.range_photos={count}", "--output", args.output]
    run = args.output / "quantize" / name
    if not (run / "drop.json").exists():
        words = ["quantize", file, *space, "--bits", bits, *more, *tests, "--name", name]
        quantnas(*words, ok=(0, 5))  # 5: far more was lost than predicted
    sets = json.loads((run / "drop.json").read_text())["sets"]
    first, each = sets[-len(folders) - 1], sets[-len(folders) :]
    losses = [one["full"] - one["quantized"] for one in each]
    close = [one["to_float"] for one in each if one["to_float"] is not None]
    result = json.loads((run / "steps" / "quantize.json").read_text())
    beyond = max((cut["share"] for cut in result["cut"] if cut["bits"] == 8), default=0.0)
    return (
        f"| {file.stem} | {bits} | {count} | {first['full'] - first['quantized']:.3f} | "
        f"{sum(losses) / len(losses):.3f} | {max(losses):.3f} | {min(close):.1f} | "
        f"{result['seconds']:.0f} | {beyond:.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="+", type=Path)
    parser.add_argument("--space", default="rfdn50")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--bits", action="append", required=True, help="repeatable")
    parser.add_argument("--test", required=True, help="folder, measured as a whole")
    parser.add_argument("--each", type=Path, required=True, help="folder, measured one by one")
    parser.add_argument("--output", type=Path, default=Path("runs/ranges"))
    args = parser.parse_args()
    for path in args.each.iterdir():
        alone = args.output / "each" / path.stem
        alone.mkdir(parents=True, exist_ok=True)
        if not (alone / path.name).exists():
            (alone / path.name).symlink_to(path.resolve())
    print("| network | bits | photographs | set | each, mean | each, worst | to float | s | cut |")
    print("|---" * 9 + "|")
    for file in args.networks:
        for bits in args.bits:
            for count in PHOTOGRAPHS:
                print(row(file, bits, count, args), flush=True)


if __name__ == "__main__":
    main()
