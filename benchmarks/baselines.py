"""Trains networks with one recipe and one time limit, and measures them in float and rounded.

    python benchmarks/baselines.py --scale 2 --hours 0.15 --data TRAIN --test SET5 --test SET14 \
        espcn fsrcnn quicksrnet_small benchmarks/genotypes/plain_x2.json

Networks are spaces without choices, or genotypes (JSON). What has been trained into --output is
not trained again. Prints a Markdown table: PSNR-Y in dB of the float network / of the one with
rounding, bicubic above; GBitOps at LR 32x32.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from command import quantnas

RECIPE = Path(__file__).parent / "recipe.yaml"


def name_of(network: str) -> str:
    """Of its run folder."""
    return Path(network).stem


def train(network: str, args: argparse.Namespace) -> Path:
    """The run folder of the trained network."""
    run: Path = args.output / "train" / name_of(network)
    if (run / "steps" / "train.json").exists():
        return run
    if run.exists():
        quantnas("train", "--resume", run)
        return run
    where = ["--output", args.output, "--name", name_of(network)]
    how = ["--config", RECIPE, "--max-hours", args.hours, "--seed", args.seed]
    quantnas("train", network, "--scale", args.scale, "--data", args.data, *how, *where)
    return run


def measure(runs: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """What `quantnas evaluate` says about the float and the rounded networks."""
    files = [run / "checkpoints" / f"{kind}.safetensors" for run in runs for kind in KINDS]
    data = [word for folder in args.test for word in ("--data", folder)]
    found: dict[str, Any] = json.loads(
        quantnas("evaluate", *files, *data, "--json", "--output", args.output)
    )
    return found


KINDS = ("float", "trained")


def table(runs: list[Path], found: dict[str, Any]) -> list[str]:
    """The rows in Markdown."""
    sets = found["sets"]
    lines = [
        "| network | parameters | GBitOps | minutes | " + " | ".join(sets) + " |",
        "|---" * (4 + len(sets)) + "|",
        "| bicubic | | | | " + " | ".join(f"{s['bicubic']['psnr']:.2f}" for s in sets.values()),
    ]
    lines[-1] += " |"
    for run in runs:
        names = [f"{run.name} {kind}" for kind in KINDS]
        cost = found["models"][names[1]]["cost"]
        minutes = json.loads((run / "steps" / "train.json").read_text())["seconds"] / 60
        cells = [
            " / ".join(f"{s['models'][name]['mean']['psnr']:.2f}" for name in names)
            for s in sets.values()
        ]
        bitops = cost["bitops"]["LR 32x32"] / 1e9
        lines.append(
            f"| {run.name} | {cost['parameters']:,} | {bitops:.2f} | {minutes:.0f} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--hours", type=float, default=0.15, help="per network")
    parser.add_argument("--data", required=True, help="folder of photographs to learn from")
    parser.add_argument("--test", action="append", required=True, help="folder, repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/baselines"))
    args = parser.parse_args()
    runs = [train(network, args) for network in args.networks]
    print("\n".join(table(runs, measure(runs, args))))


if __name__ == "__main__":
    main()
