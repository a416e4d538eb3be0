"""Sweeps as the rows of a table, and what a difference between two rows says."""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from command import quantnas

from quantnas.sweeps import point_process

Settings = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One arm of a part, over its seeds."""

    name: str
    points: tuple[Settings, ...]
    """Settings of each seed."""
    found: tuple[Settings, ...] = ()
    """What each has come to; those that failed are missing."""

    def values(self, what: str) -> list[float]:
        """A figure of every seed: the name of a set (PSNR of the file in dB), or another key."""
        return [
            row["psnr"][what]["file"] if what in row["psnr"] else row[what] for row in self.found
        ]


def measured(part: str, base: Settings, rows: Sequence[Row], args: argparse.Namespace) -> list[Row]:
    """The rows with what their points have come to."""
    folder = args.output / "sweep" / part
    data = {**base, "benchmarks": args.test, "points": [p for row in rows for p in row.points]}
    file = args.output / f"{part}.yaml"
    if not (folder / "sweep.yaml").exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        begin = ["--config", file, "--name", part, "--output", args.output]
    else:
        begin = ["--resume", folder]
        if yaml.safe_load(file.read_text()) != data:
            raise SystemExit(f"{file} has other settings. Choose another --output.")
    if not args.finished:
        quantnas("sweep", *begin, "--workers", args.workers, ok=(0, 7))
    each = iter(_results(folder))
    filled = [replace(row, found=tuple(next(each) for _ in row.points)) for row in rows]
    return [replace(row, found=tuple(one for one in row.found if "psnr" in one)) for row in filled]


def _results(folder: Path) -> list[Settings]:
    """The rows of sweep.json, with what the searches say of themselves."""
    rows: list[Settings] = json.loads((folder / "sweep.json").read_text())
    for row in rows:
        run = folder / "points" / row["name"]
        steps, spent = run / "steps", point_process.seconds(run)
        if "psnr" in row:
            said = json.loads((steps / "search.json").read_text())
            row["decided"] = said.get("share_decided", 1.0)
            gap = ("psnr_patches_supernet", "psnr_patches_rounded")
            row["gap"] = said[gap[0]] - said[gap[1]] if gap[0] in said else 0.0
            for step in ("search", "train", "quantize"):  # those taken over have not told
                taken = json.loads((steps / f"{step}.json").read_text())["seconds"]
                row[f"{step} minutes"] = spent.get(step, taken) / 60
    return rows


def table(rows: Sequence[Row], further: Sequence[str] = ()) -> list[str]:
    """Markdown: means and deviations over the seeds; of minutes the median."""
    sets = list(next(row.found[0]["psnr"] for row in rows if row.found))
    base = next(row.found[0]["psnr"] for row in rows if row.found)
    lines = ["| | GBitOps | bytes | " + " | ".join([*sets, *further]) + " |"]
    lines += ["|---" * (3 + len(sets) + len(further)) + "|"]
    bicubic = " | ".join(f"{base[name]['bicubic']:.2f}" for name in sets)
    lines += [f"| bicubic | | | {bicubic} |" + " |" * len(further)]
    for row in rows:
        if row.found:
            cells = [middle(row, key) for key in ("gbitops", *sets, *further)]
            bytes_ = f"{statistics.mean(row.values('bytes')):,.0f}"
            lines += [f"| {row.name} | " + " | ".join([cells[0], bytes_, *cells[1:]]) + " |"]
    return lines


def middle(row: Row, what: str) -> str:
    """The median of minutes, which other work may prolong; of other figures mean and deviation."""
    values = row.values(what)
    return f"{statistics.median(values):.1f}" if "minutes" in what else mean(values)


def mean(values: Sequence[float]) -> str:
    """Mean, and the deviation of several."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def verdict(claim: str, better: Row, worse: Row, what: Sequence[str]) -> str:
    """Confirmed, not confirmed or reversed: the mean difference over the seeds, on all sets,
    against twice its standard error."""
    sides = [[statistics.mean(v) for v in zip(*map(row.values, what), strict=True)]
             for row in (better, worse)]  # fmt: skip
    difference = statistics.mean(sides[0]) - statistics.mean(sides[1])
    if min(map(len, sides)) < 2:
        return f"**{claim}: not tested**, which takes two seeds at least."
    error = sum(statistics.variance(side) / len(side) for side in sides) ** 0.5
    word = "not confirmed"
    if abs(difference) > 2 * error:
        word = "confirmed" if difference > 0 else "reversed"
    return (
        f"**{claim}: {word}.** {better.name} is {difference:+.3f} dB from {worse.name} "
        f"(mean of {' and '.join(what)}, {len(sides[0])} and {len(sides[1])} seeds, standard "
        f"error {error:.3f})."
    )
