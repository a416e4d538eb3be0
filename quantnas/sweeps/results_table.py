"""The results of a sweep: a table of the cost and quality of every point."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantnas.config.files import to_json, write_text
from quantnas.reporting import seed_groups
from quantnas.runs.run_folder import Run

from . import point_process, scheduler

COSTS = {"gbitops": 3, "bytes": 0}
"""Cost column -> number of displayed decimals."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """The results of every point: its name and its varied settings, and more by its state.

    A finished point also has GBitOps at LR 32x32, the bytes of its file, PSNR-Y in dB of file,
    float network and bicubic per set, and seconds per step; any other point has a cause.
    """
    return [_row(folder, name, varied) for name, varied in scheduler.names(folder).items()]


def _row(folder: Path, name: str, varied: Mapping[str, Any]) -> dict[str, Any]:
    run = Run(folder / "points" / name)
    row: dict[str, Any] = {"name": name, "varied": dict(varied)}
    evaluation, exported = run.whole_result("evaluate"), run.whole_result("export")
    if evaluation is None or exported is None:
        why = point_process.why(run.folder)
        return {**row, "cause": why["cause"] if why else "not finished"}
    steps = {step: (run.result(step) or {}).get("seconds") for step in ("search", "train")}
    return {
        **row,
        "gbitops": exported["cost"]["bitops"]["LR 32x32"] / 1e9,
        "bytes": exported["bytes"],
        "psnr": {
            label: {
                "file": group["mean"]["psnr"],
                "float": group["float_mean"]["psnr"],
                "bicubic": group["mean"]["bicubic_psnr"],
            }
            for label, group in evaluation["sets"].items()
        },
        "seconds": steps,
    }


def write(folder: Path) -> Path:
    """Write sweep.json and sweep.md anew; the path of sweep.md."""
    results = rows(folder)
    write_text(folder / "sweep.json", to_json(results))
    target = folder / "sweep.md"
    write_text(target, "\n".join(markdown(results)) + "\n")
    return target


def markdown(results: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of sweep.md: the points by cost, and why others are missing."""
    done = sorted((row for row in results if "psnr" in row), key=lambda row: row["gbitops"])
    if done:
        sets = list(dict.fromkeys(name for row in done for name in row["psnr"]))
        yield "| point | GBitOps at LR 32x32 | bytes | " + " | ".join(sets) + " |"
        yield "|---" * (3 + len(sets)) + "|"
        for row in done:
            scores = " | ".join(_scores(row["psnr"].get(name)) for name in sets)
            yield f"| {row['name']} | {row['gbitops']:.3f} | {row['bytes']:,} | {scores} |"
        yield ""
        yield "PSNR-Y of the file in dB, in parentheses over bicubic."
        yield from _means(done, sets)
    for row in results:
        if "cause" in row:
            yield ""
            yield f"{row['name']}: {row['cause']}"


def _means(done: Sequence[dict[str, Any]], sets: Sequence[str]) -> Iterator[str]:
    """The lines of the table of means over points that differ in their seed alone."""
    groups = seed_groups.groups(
        [r["name"] for r in done], [{"seed": 0} | r["varied"] for r in done]
    )
    if groups:
        yield ""
        yield "| mean over seeds | seeds | GBitOps at LR 32x32 | bytes | " + " | ".join(sets) + " |"
        yield "|---" * (4 + len(sets)) + "|"
    for group in groups:
        rows = [done[at] for at in group.members]
        costs = [seed_groups.spread([row[key] for row in rows], n) for key, n in COSTS.items()]
        by_set = [[r["psnr"].get(name, {}).get("file") for r in rows] for name in sets]
        scores = [seed_groups.spread(each, 2) for each in by_set]
        yield "| " + " | ".join([group.name, str(len(rows)), *costs, *scores]) + " |"


def _scores(psnr: Mapping[str, float] | None) -> str:
    return f"{psnr['file']:.2f} ({psnr['file'] - psnr['bicubic']:+.2f})" if psnr else "-"
