"""What a page about runs shows of their folders: plain values, nothing measured and nothing drawn.

Steps that earlier versions did may lack a part; what is not there is left out of the page.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import damage_measured, report, runs, skeleton, slider, space, trajectory
from .cost import REFERENCE
from .damage_measured import Damages
from .errors import DataError
from .runs import STEPS, Run
from .slider import ComparedCrops

SWEEP = "sweep.yaml"
"""A folder with this file is a sweep."""
AT = f"LR {REFERENCE[0]}x{REFERENCE[1]}"
"""Key of the costs at which runs are compared."""
ROWS = 80
"""Of a search that are drawn, about."""


@dataclass(frozen=True)
class Scores:
    """A set of photographs, PSNR-Y in dB and SSIM-Y: (photograph, bicubic, float, file) each."""

    name: str
    rows: tuple[tuple[str, tuple[float, float], tuple[float, float], tuple[float, float]], ...]
    mean: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Choice:
    """One choice of a search, with the probabilities of its pairs of operation and width."""

    name: str
    ops: tuple[str, ...]
    widths: tuple[str, ...]
    curves: tuple[tuple[float | None, ...], ...]
    """(pairs, steps); widths change fastest."""


@dataclass(frozen=True)
class Search:
    """A search by gradient."""

    steps: tuple[int, ...]
    curves: dict[str, tuple[float | None, ...]]
    checks: tuple[tuple[int, float | None], ...]
    """(step, PSNR of the decided network)"""
    begins: int | None
    """Step from which the alphas learn."""
    target: float | None
    """BitOps."""
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Shown:
    """A finished run."""

    name: str
    folder: Path
    scale: int
    data: dict[str, Any]
    """As `report.collect` gives it."""
    scores: tuple[Scores, ...]
    search: Search | None
    damages: Damages | None
    views: ComparedCrops | None

    @property
    def bitops(self) -> int:
        """At AT."""
        found: int = self.data["export"]["cost"]["bitops"][AT]
        return found

    @property
    def bytes(self) -> int:
        """Of the file."""
        found: int = self.data["export"]["bytes"]
        return found


@dataclass(frozen=True)
class Unfinished:
    """A run that lacks steps."""

    name: str
    missing: str
    """The first one."""


@dataclass(frozen=True)
class Failed:
    """A point of a sweep that could not be done."""

    name: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Source:
    """What a page is made of."""

    title: str
    done: tuple[tuple[str, Run], ...]
    unfinished: tuple[Unfinished, ...]
    failed: tuple[Failed, ...]


def is_sweep(folder: Path) -> bool:
    """Whether the folder is one of a sweep."""
    return (folder / SWEEP).is_file()


def is_finished(run: Run) -> bool:
    """Whether it has everything that a page shows."""
    return run.result(STEPS[-1]) is not None


def is_whole(run: Run) -> bool:
    """Whether a finished run has all parts; one of an earlier version does not."""
    return slider.load(run) is not None


def find(folders: Sequence[Path]) -> Source:
    """The runs in these folders of runs and sweeps.

    Raises DataError for a folder that is neither, and when no run has finished.
    """
    found: list[Path] = []
    failed: list[Failed] = []
    for folder in folders:
        if is_sweep(folder):
            found += _points(folder)
            failed += _failed(folder)
        else:
            found.append(runs.existing(folder).folder)
    found = list({path.resolve(): path for path in found}.values())
    named = list(zip(_names(found), map(Run, found), strict=True))
    done = tuple((name, run) for name, run in named if is_finished(run))
    rest = tuple(Unfinished(n, _missing(r)) for n, r in named if not is_finished(r))
    if not done:
        what = str(folders[0]) if len(folders) == 1 else "these folders"
        raise DataError(
            f"No run in {what} has finished: there is nothing to show.",
            "Let one finish, or do its steps up to `quantnas export` and `quantnas report`.",
        )
    title = folders[0].resolve().name if len(folders) == 1 else "Runs side by side"
    return Source(title, done, rest, tuple(failed))


def _points(folder: Path) -> list[Path]:
    points = folder / "points"
    return sorted(path for path in points.iterdir() if path.is_dir()) if points.is_dir() else []


def _failed(folder: Path) -> Iterable[Failed]:
    for path in sorted((folder / "failed").glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            data = None
        told = data if isinstance(data, dict) else {"cause": "unknown: its file is damaged."}
        yield Failed(path.stem, str(told.get("cause", "unknown")), str(told.get("remedy", "")))


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with those of their parents where these are not enough."""
    paths = [path.resolve() for path in folders]
    names = [path.name for path in paths]
    most = max((len(path.parts) for path in paths), default=0)
    for depth in range(2, most):
        if len(set(names)) == len(names):
            break
        names = [
            "/".join(path.parts[-depth:]) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names


def _missing(run: Run) -> str:
    return next(step for step in STEPS if run.result(step) is None)


def collect(name: str, run: Run) -> Shown:
    """Everything about a run whose evaluation has finished. Raises DataError where it lacks."""
    runs.require(run, until="report")
    data = report.collect(run)
    evaluated = data["evaluate"]
    return Shown(
        name=name,
        folder=run.folder,
        scale=evaluated["scale"],
        data=data,
        scores=tuple(_scores(name, found) for name, found in evaluated["sets"].items()),
        search=_search(run, data["config"].get("search", {})),
        damages=damage_measured.load(run),
        views=slider.load(run),
    )


def _scores(name: str, found: dict[str, Any]) -> Scores:
    def three(ours: dict[str, Any], plain: dict[str, Any]) -> Any:
        return (
            (ours["bicubic_psnr"], ours["bicubic_ssim"]),
            (plain["psnr"], plain["ssim"]),
            (ours["psnr"], ours["ssim"]),
        )

    rows = zip(found["file"], found["float"], strict=True)
    return Scores(
        name,
        tuple((ours["image"], *three(ours, plain)) for ours, plain in rows),
        three(found["mean"], found["float_mean"]),
    )


def _search(run: Run, config: dict[str, Any]) -> Search | None:
    """What was recorded of a search by gradient."""
    rows = trajectory.read(run.folder / "metrics.jsonl")
    if not rows:
        return None
    kept = rows[:: max(1, math.ceil(len(rows) / ROWS))]
    kept += rows[-1:] if kept[-1] is not rows[-1] else []
    names = ("entropy", "decided", "bitops", "decided_bitops", "psnr")
    begins = config.get("warmup_epochs", 0) * config.get("steps_per_epoch", 0)
    return Search(
        steps=tuple(row["step"] for row in kept),
        curves={name: tuple(_rounded(row[name]) for row in kept) for name in names},
        checks=tuple(
            (row["step"], _rounded(row["check"]["psnr"]))
            for row in rows
            if row["check"] is not None
        ),
        begins=begins or None,
        target=config.get("target_bitops"),
        choices=tuple(_choices(run, kept)),
    )


def _choices(run: Run, rows: Sequence[dict[str, Any]]) -> Iterable[Choice]:
    slots = skeleton.slots(space.load(str(run.folder / "space.yaml")))
    decided = {slot.choice: slot for slot in reversed(slots)}
    for name in rows[-1]["probabilities"]:
        slot = decided[name]
        table = [[_rounded(p, 3) for p in row["probabilities"][name]] for row in rows]
        curves = tuple(zip(*table, strict=True))
        yield Choice(name, slot.ops, tuple(map(trajectory.bits, slot.widths)), curves)


def _rounded(value: float | None, digits: int = 4) -> float | None:
    """The same with fewer digits; BitOps are whole numbers."""
    return None if value is None else round(value) if value > 1e4 else round(value, digits)
