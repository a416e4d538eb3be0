"""Measures the main job: `quantnas run` on the bundled photographs, several seeds, 2-bit as well.

    python benchmarks/main_job.py --benchmark path/to/set5

Prints a Markdown table, and as the last line the means:
`seconds=A gain=B gain_2bit=C agreement_steps=D help_seconds=E`, plus one `NAME=` per benchmark.
A = wall seconds of the run, B and C = PSNR-Y of the exported files over bicubic on the four
held-out photographs in dB, D = largest difference between file and torch in 1/255.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from command import quantnas


def seconds(*words: object) -> float:
    """Wall time of a command."""
    began = time.monotonic()
    quantnas(*words)
    return time.monotonic() - began


def step(folder: Path, name: str) -> dict[str, Any]:
    """What a step of a run left."""
    result: dict[str, Any] = json.loads((folder / "steps" / f"{name}.json").read_text())
    return result


def gains(folder: Path) -> dict[str, tuple[float, float]]:
    """Set -> (PSNR-Y of the file, gain over bicubic)."""
    sets = step(folder, "evaluate")["sets"]
    return {
        name: (group["mean"]["psnr"], group["mean"]["psnr"] - group["mean"]["bicubic_psnr"])
        for name, group in sets.items()
    }


def one_seed(seed: int, output: Path, extra: list[str]) -> dict[str, Any]:
    """The main job and, from its trained network, a 2-bit file."""
    took = seconds("run", "--seed", seed, "--output", output, *extra)
    run = output / "run" / "rfdn_small"
    quantnas("quantize", run, "--bits", "2", "--output", output)
    quantnas("export", output / "quantize" / "rfdn_small", "--output", output)
    quantnas("evaluate", output / "export" / "rfdn_small", "--output", output)
    low = output / "evaluate" / "rfdn_small"
    return {
        "seed": seed,
        "seconds": took,
        "sets": gains(run),
        "sets_2bit": gains(low),
        "gbitops": next(iter(step(run, "search")["bitops"].values())) / 1e9,
        "steps": step(run, "export")["verification"]["max_steps"],
        "steps_2bit": step(low, "export")["verification"]["max_steps"],
        "bytes": step(run, "export")["bytes"],
        "bytes_2bit": step(low, "export")["bytes"],
        "parameters": step(run, "export")["cost"]["parameters"],
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows in Markdown."""
    names = list(rows[0]["sets"])
    head = ["seed", "seconds", "GBitOps 32x32", "parameters", "bytes", "bytes 2-bit"]
    head += [f"{name}{bits}" for name in names for bits in ("", " 2-bit")]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [str(row["seed"]), f"{row['seconds']:.0f}", f"{row['gbitops']:.2f}"]
        cells += [f"{row[key]:,}" for key in ("parameters", "bytes", "bytes_2bit")]
        for name in names:
            for psnr, gain in (row["sets"][name], row["sets_2bit"][name]):
                cells.append(f"{psnr:.2f} ({gain:+.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--benchmark", action="append", default=[], help="folder, repeatable")
    parser.add_argument("--set", action="append", default=[], help="passed on to quantnas run")
    options = parser.parse_args()
    extra = [word for folder in options.benchmark for word in ("--benchmark", folder)]
    extra += [word for setting in options.set for word in ("--set", setting)]
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(seed, Path(folder), extra))
        print(f"seed {seed}: {rows[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    spread = {
        "seconds": [row["seconds"] for row in rows],
        "gain": [row["sets"]["held-out"][1] for row in rows],
        "gain_2bit": [row["sets_2bit"]["held-out"][1] for row in rows],
    }
    for name in list(rows[0]["sets"])[1:]:
        spread[name] = [row["sets"][name][0] for row in rows]
        spread[f"{name}_2bit"] = [row["sets_2bit"][name][0] for row in rows]
    for name, values in spread.items():
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: mean {statistics.mean(values):.3f}, deviation {deviation:.3f}")
    most = max(max(row["steps"], row["steps_2bit"]) for row in rows)
    help_seconds = min(seconds("--help") for _ in range(5))
    means = " ".join(f"{name}={statistics.mean(values):.2f}" for name, values in spread.items())
    print(f"{means} agreement_steps={most} help_seconds={help_seconds:.2f}")


if __name__ == "__main__":
    main()
