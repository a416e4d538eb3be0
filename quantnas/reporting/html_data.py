"""Data of a page about runs, read from run folders; nothing is measured or drawn here.

Runs of earlier versions may lack parts, which the page then leaves out.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantnas.architectures.cost import REFERENCE
from quantnas.config.files import read_json, readable
from quantnas.config.search_space import SearchSpace
from quantnas.errors import DataError
from quantnas.evaluation import layer_damage
from quantnas.evaluation.layer_damage import Damages
from quantnas.reporting.plots import search_curves
from quantnas.runs import run_folder, run_settings
from quantnas.runs.run_folder import STEPS, SWEEP, Run

from . import photo_slider, run_report
from .photo_slider import ComparedCrops

AT = f"LR {REFERENCE[0]}x{REFERENCE[1]}"
"""Key of the costs at which runs are compared."""
ROWS = 80
"""Approximate number of rows of a search that are drawn."""


@dataclass(frozen=True)
class Scores:
    """Scores on a set of photographs: (PSNR-Y in dB, SSIM-Y) of bicubic, float network and file."""

    name: str
    rows: tuple[tuple[str, tuple[float, float], tuple[float, float], tuple[float, float]], ...]
    mean: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    to_float: tuple[float | None, ...] = ()
    """PSNR-Y of the file against the float network on each photograph, then their mean, dB; empty
    for a run of an earlier version."""


@dataclass(frozen=True)
class Search:
    """Recorded course of a gradient search."""

    rows: tuple[search_curves.Row, ...]
    """Some of its rows in metrics.jsonl: about ROWS of them, and all with a check."""
    settings: dict[str, Any]
    """Section `search` of the run's configuration."""
    space: SearchSpace


@dataclass(frozen=True)
class Shown:
    """A finished run."""

    name: str
    folder: Path
    scale: int
    data: dict[str, Any]
    """Result of `run_report.collect`."""
    scores: tuple[Scores, ...]
    search: Search | None
    damages: Damages | None
    views: ComparedCrops | None

    @property
    def bitops(self) -> int:
        """BitOps at the resolution AT."""
        bitops: int = self.data["export"]["cost"]["bitops"][AT]
        return bitops

    @property
    def bytes(self) -> int:
        """Size of the exported file."""
        size: int = self.data["export"]["bytes"]
        return size


@dataclass(frozen=True)
class Unfinished:
    """A run with steps still to do."""

    name: str
    missing: str
    """First missing step."""


@dataclass(frozen=True)
class Failed:
    """A point of a sweep that failed."""

    name: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Source:
    """Runs of a page, finished and not."""

    title: str
    done: tuple[tuple[str, Run], ...]
    unfinished: tuple[Unfinished, ...]
    failed: tuple[Failed, ...]


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / SWEEP).is_file()


def is_finished(run: Run) -> bool:
    """Whether a run has done its last step."""
    return run.result(STEPS[-1]) is not None


def is_whole(run: Run) -> bool:
    """Whether a finished run has photographs to compare, which earlier versions did not write."""
    return photo_slider.load(run) is not None


def find(folders: Sequence[Path]) -> Source:
    """Return the runs in folders of runs and sweeps.

    Raises DataError for a folder that is neither, and when no run has finished.
    """
    found: list[Path] = []
    failed: list[Failed] = []
    for folder in folders:
        if is_sweep(folder):
            found += _points(folder)
            failed += _failed(folder)
        else:
            found.append(run_folder.existing(folder).folder)
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
            error = read_json(path)
        except DataError:
            error = {"cause": "unknown: its file is damaged."}
        yield Failed(path.stem, str(error.get("cause", "unknown")), str(error.get("remedy", "")))


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of folders, with those of their parents where needed to be unique."""
    paths = [path.resolve() for path in folders]
    names = [readable(path.name) for path in paths]
    most = max((len(path.parts) for path in paths), default=0)
    for depth in range(2, most):
        if len(set(names)) == len(names):
            break
        names = [
            readable("/".join(path.parts[-depth:])) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names


def _missing(run: Run) -> str:
    return next(step for step in STEPS if run.result(step) is None)


def collect(name: str, run: Run) -> Shown:
    """Return everything that a page shows of a run.

    Raises DataError when a step before the report is missing.
    """
    run_folder.require(run, until="report")
    data = run_report.collect(run)
    evaluated = data["evaluate"]
    return Shown(
        name=name,
        folder=run.folder,
        scale=evaluated["scale"],
        data=data,
        scores=tuple(_scores(name, found) for name, found in evaluated["sets"].items()),
        search=_search(run, data["config"].get("search", {})),
        damages=layer_damage.load(run),
        views=photo_slider.load(run),
    )


def _scores(name: str, found: dict[str, Any]) -> Scores:
    def three(ours: dict[str, Any], plain: dict[str, Any]) -> Any:
        return (
            (ours["bicubic_psnr"], ours["bicubic_ssim"]),
            (plain["psnr"], plain["ssim"]),
            (ours["psnr"], ours["ssim"]),
        )

    rows = zip(found["file"], found["float"], strict=True)
    close = tuple(row.get("to_float") for row in (*found["file"], found["mean"]))
    return Scores(
        name,
        tuple((ours["image"], *three(ours, plain)) for ours, plain in rows),
        three(found["mean"], found["float_mean"]),
        () if None in close else close,
    )


def _search(run: Run, config: dict[str, Any]) -> Search | None:
    """Return the recorded gradient search of a run, if there was one."""
    rows = search_curves.read(run.folder / "metrics.jsonl")
    if not rows:
        return None
    every = max(1, math.ceil(len(rows) / ROWS))
    kept = [
        row
        for i, row in enumerate(rows)
        if i % every == 0 or row["check"] is not None or row is rows[-1]
    ]
    return Search(tuple(kept), config, run_settings.space_of(run))
