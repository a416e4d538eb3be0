"""What a sweep has found: every point's cost and quality, as a table."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantnas.config.files import to_json, write_text
from quantnas.reporting import seed_groups
from quantnas.runs.run_folder import Run

from . import point_process, scheduler

COSTS = {"gbitops": 3, "bytes": 0}
"""Key -> digits that are shown."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """One per point: its name, what varies, and its state; of finished ones also GBitOps at LR
    32x32, bytes of the file, PSNR-Y in dB per set of file, float network and bicubic, seconds per
    step."""
    return [_row(folder, name, varied) for name, varied in scheduler.names(folder).items()]


def _row(folder: Path, name: str, varied: Mapping[str, Any]) -> dict[str, Any]:
    run = Run(folder / "points" / name)
    row: dict[str, Any] = {"name": name, "varied": dict(varied)}
    found, exported = run.result("evaluate"), run.result("export")
    if found is None or exported is None:
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
            for label, group in found["sets"].items()
        },
        "seconds": steps,
    }


def write(folder: Path) -> Path:
    """sweep.json and sweep.md, anew; the latter's path."""
    found = rows(folder)
    write_text(folder / "sweep.json", to_json(found))
    target = folder / "sweep.md"
    write_text(target, "\n".join(markdown(found)) + "\n")
    return target


def markdown(found: list[dict[str, Any]]) -> Iterator[str]:
    """The points by cost, and why others are missing."""
    done = sorted((row for row in found if "psnr" in row), key=lambda row: row["gbitops"])
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
    for row in found:
        if "cause" in row:
            yield ""
            yield f"{row['name']}: {row['cause']}"


def _means(done: Sequence[dict[str, Any]], sets: Sequence[str]) -> Iterator[str]:
    """Points that differ in their seed alone, where there are any."""
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
        found = [[r["psnr"].get(name, {}).get("file") for r in rows] for name in sets]
        scores = [seed_groups.spread(each, 2) for each in found]
        yield "| " + " | ".join([group.name, str(len(rows)), *costs, *scores]) + " |"


def _scores(psnr: Mapping[str, float] | None) -> str:
    return f"{psnr['file']:.2f} ({psnr['file'] - psnr['bicubic']:+.2f})" if psnr else "-"
