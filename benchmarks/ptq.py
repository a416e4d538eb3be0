"""Quantizes one trained network at several bits, with several methods and seeds, and measures it.

    python benchmarks/ptq.py WEIGHTS.safetensors --space rfdn50 --scale 4 --calib TRAIN \
        --test SET5 --test SET14 --bits w8a8 --bits w2a8 --minutes 15 --seeds 3 --baselines

WEIGHTS may be the folder of a trained run, then without --space and --scale. Every --form of our
own method is a row; every --set holds for all of them. What has been quantized into --output is
not quantized again. Prints a Markdown table: PSNR-Y in dB per set, with its deviation over the
seeds; minutes; bytes of the ONNX file; GBitOps at LR 32x32; and at last the first set's means in
one line.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import quantnas

BASELINES = ("rtn", "minmax", "gptq", "gpfq", "qronos", "adaround")
FORMS = {
    "none": (),
    "regulariser": ("--set", "quantize.hold=0.1"),
    "blocks": ("--set", "quantize.blocks=0.5"),
    "block-wise first": ("--set", "quantize.block_steps=200"),
    "clip": ("--train", "clip"),
    "lowrank:8": ("--train", "lowrank:8"),
    "no retraining": ("--train", "none"),
}
"""What --form compares: name -> options."""
OWN = ("method", "train", "steps", "minutes", "calib")
TAKEN = ("bits", "seed", "benchmarks", *(f"quantize.{name}" for name in OWN))
"""Settings that this script gives itself."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    bits: str
    """As `quantnas quantize --bits` takes them, or `average 3`, `size 200000`, `bitops 9G`."""
    method: str
    options: tuple[str, ...] = ()

    def width(self) -> list[str]:
        """The options that say how many bits."""
        kind, _, value = self.bits.partition(" ")
        names = {"average": "--average-bits", "size": "--target-size", "bitops": "--target-bitops"}
        return [names[kind], value] if value else ["--bits", self.bits]

    def name(self, seed: int) -> str:
        """Of its run folder."""
        plain = f"{self.bits}-{self.method}-{seed}"
        return "".join(c if c.isalnum() or c in "-." else "_" for c in plain)


def duration(args: argparse.Namespace) -> list[object]:
    """The options that say how long our own method retrains."""
    return ["--steps", args.steps] if args.steps else ["--minutes", args.minutes]


def quantized(row: Row, seed: int, args: argparse.Namespace) -> Path:
    """The run folder of a row, quantized and exported."""
    run: Path = args.output / "quantize" / row.name(seed)
    if not (run / "drop.json").exists():
        if run.exists():
            quantnas("quantize", "--resume", run)
        else:
            where = ["--output", args.output, "--name", row.name(seed), "--seed", seed]
            space = ["--space", args.space, "--scale", args.scale] if args.space else []
            space += ["--genotype", args.genotype] if args.genotype else []
            tests = [word for folder in args.test for word in ("--benchmark", folder)]
            long = [] if row.method in BASELINES else duration(args)
            if row.method not in BASELINES and "--train" not in row.options:
                long += ["--train", "weights"]  # whatever the run itself was done with
            calib = ["--calib", args.calib] if args.calib else []
            how = [*row.width(), *row.options, *long, *calib, *tests]
            quantnas("quantize", args.network, *space, *how, *where)
    target: Path = args.output / "export" / row.name(seed)
    if not (target / "steps" / "export.json").exists():
        quantnas("export", run, "--output", args.output, "--name", row.name(seed))
    return run


def measured(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """PSNR per set and seed; minutes, bytes and GBitOps."""
    seeds = range(args.seeds if row.method not in BASELINES else 1)
    sets: dict[str, list[float]] = {}
    minutes, export = [], {}
    for seed in seeds:
        run = quantized(row, seed, args)
        for found in json.loads((run / "drop.json").read_text())["sets"][-len(args.test) :]:
            sets.setdefault(found["name"], []).append(found["quantized"])
        minutes.append(json.loads((run / "steps" / "quantize.json").read_text())["seconds"] / 60)
        path = args.output / "export" / row.name(seed) / "steps" / "export.json"
        export = json.loads(path.read_text())
    return {
        "sets": sets,
        "minutes": statistics.mean(minutes),
        "bytes": export["bytes"],
        "bitops": export["cost"]["bitops"]["LR 32x32"] / 1e9,
    }


def cell(values: list[float]) -> str:
    """Mean, and the deviation of several."""
    spread = f" ± {statistics.stdev(values):.2f}" if values[1:] else ""
    return f"{statistics.mean(values):.2f}{spread}"


def rows_of(args: argparse.Namespace) -> list[Row]:
    """What is asked for."""
    rows, settings = [], tuple(word for setting in args.set for word in ("--set", setting))
    ours = {name: FORMS[name] for name in args.form} if args.form else {"saliency": ()}
    for bits in args.bits:
        for name, options in ours.items():
            rows.append(Row(bits, " ".join([name, *args.set]), (*options, *settings)))
        if args.baselines:
            rows += [Row(bits, name, ("--method", name)) for name in BASELINES]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", help="weights or run")
    parser.add_argument("--space")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--genotype", help="architecture, where the space leaves a choice")
    parser.add_argument("--bits", action="append", required=True, help="repeatable")
    parser.add_argument("--minutes", type=float, default=15, help="of one seed of our own method")
    parser.add_argument("--steps", type=int, help="instead: a length that needs no quiet machine")
    parser.add_argument("--seeds", type=int, default=1, help="of each row of our own method")
    parser.add_argument("--baselines", action="store_true", help="other methods too")
    parser.add_argument(
        "--form", action="append", choices=FORMS, help="of our own method instead, repeatable"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="for our own method, as quantize.rate=0.02, repeatable",
    )  # fmt: skip
    parser.add_argument("--calib", help="folder of photographs to calibrate on")
    parser.add_argument("--test", action="append", required=True, help="folder, repeatable")
    parser.add_argument("--output", type=Path, default=Path("runs/ptq"))
    args = parser.parse_args()
    for setting in args.set:
        if setting.partition("=")[0] in TAKEN:
            parser.error(f"--set {setting}: there is an option for that, or --form")
    means, lines = [], []
    for row in rows_of(args):
        found = measured(row, args)
        if not lines:
            names = " | ".join(found["sets"])
            lines = [f"| bits | method | {names} | minutes | bytes | GBitOps |"]
            lines += ["|---" * (5 + len(found["sets"])) + "|"]
        scores = " | ".join(map(cell, found["sets"].values()))
        lines.append(
            f"| {row.bits} | {row.method} | {scores} | {found['minutes']:.1f} | "
            f"{found['bytes']:,} | {found['bitops']:.2f} |"
        )
        if row.method not in BASELINES:
            first = next(iter(found["sets"].values()))
            means.append(f"{row.bits}={statistics.mean(first):.2f}")
        print(lines[-1], file=sys.stderr)
    print("\n".join(lines))
    print(" ".join(means))


if __name__ == "__main__":
    main()
