"""The verbs of sweeps: sweep and resume_sweep."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

import torch

from quantnas.config.layered_settings import together
from quantnas.reporting import html_data, html_page
from quantnas.sweeps import plan, results_table, scheduler
from quantnas.sweeps.local_workers import Engine, Workers
from quantnas.sweeps.plan import Point
from quantnas.sweeps.progress import Overview, Standing
from quantnas.training import processes

from .run_verbs import Place, Run, Settings
from .sweep_watcher import SILENT, SweepWatcher

__all__ = ["Overview", "Point", "Standing", "Sweep", "plan_sweep", "resume_sweep", "sweep"]

SOURCE = "configuration"
"""What errors call settings that come from no file."""


@dataclass(frozen=True)
class Sweep:
    """A sweep whose points have ended."""

    folder: Path
    points: tuple[Standing, ...]
    """Where every point stands, in the order of the sweep."""
    rows: list[dict[str, Any]]
    """Cost and quality of every point, or the cause of its failure, as in `sweep.json`."""
    table: Path
    """The rows as a Markdown file."""
    page: Path | None
    """The HTML page of the finished points; none where no point has finished."""

    @property
    def failed(self) -> tuple[Standing, ...]:
        """The points that failed, each with the cause and the remedy."""
        return tuple(point for point in self.points if point.state == "failed")

    @property
    def best(self) -> Run | None:
        """The run with the highest PSNR-Y of its file on the first set; none without a result."""
        finished = [row for row in self.rows if "psnr" in row]
        if not finished:
            return None
        return Run(self.folder / "points" / max(finished, key=_quality)["name"])


def sweep(
    space: Place | Sequence[Place] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    config: Place | Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    workers: int = 1,
    ray: str | None = None,
    cores: int | None = None,
    output: Place = "runs",
    name: str | None = None,
    watch: SweepWatcher = SILENT,
) -> Sweep:
    """Do the steps of `run` for every point of a grid of settings, and compare the results.

    Work that points have in common is done once. A point that fails does not stop the others.

    Args:
        space: One or several search spaces, by name or YAML file.
        vary: Setting -> its values; every combination is a point.
        config: Settings of every run: a mapping, or a YAML file, which may hold `vary` or
            `points` too.
        settings: Single settings of all points, over those of `config`.
        workers: Points at a time on this machine, each with its share of the cores.
        ray: Address of a Ray cluster that computes the points instead, or "auto".
        cores: Processor cores for each point; by default the machine's divided by `workers`, and
            1 with `ray`.
        output: Folder in which `sweep/<name>` is made.
        name: Name of that folder, which must be new; by default a free one is chosen.
        watch: Is told of the points, and may stop them.

    Returns:
        The finished sweep, with `sweep.json`, `sweep.md` and `report.html` in its folder.

    Raises:
        UsageError: For settings that cannot be, a grid of a single point, or a missing package.
        DataError: For a file or photographs that cannot be read; also the reason of the first
            point, where no point can be done.

    Example:
        ```python
        quantnas.sweep("rfdn_small", {"search.target_bitops": ["0.3G", "1.0G"], "seed": [0, 1]})
        ```
    """
    points = plan_sweep(space, vary, config=config, settings=settings)
    engine = _engine(workers, ray, cores, any(p.config.device != "cpu" for p in points))
    watch.plan(points)
    return _performed(scheduler.begin(Path(output), name, points), engine, watch)


def resume_sweep(
    folder: Place,
    *,
    workers: int = 1,
    ray: str | None = None,
    cores: int | None = None,
    watch: SweepWatcher = SILENT,
) -> Sweep:
    """Finish the points of an interrupted sweep, and try those again that failed.

    Args:
        folder: Folder of the sweep.
        workers: Points at a time on this machine, as in `sweep`.
        ray: Address of a Ray cluster, as in `sweep`.
        cores: Processor cores for each point, as in `sweep`.
        watch: Is told of the points, and may stop them.

    Returns:
        The finished sweep.

    Raises:
        DataError: For a folder that is not one of a sweep.
        UsageError: While another process works on the sweep, or for a missing package.

    Example:
        ```python
        quantnas.resume_sweep("runs/sweep/sweep", workers=2)
        ```
    """
    existing = scheduler.existing(Path(folder))
    return _performed(existing, _engine(workers, ray, cores, _wants_gpu(existing)), watch)


def plan_sweep(
    space: Place | Sequence[Place] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    config: Place | Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> list[Point]:
    """The points that `sweep` would do with these arguments; nothing is made.

    Raises UsageError and DataError as `sweep` does for settings.
    """
    spaces = [space] if isinstance(space, str | PathLike) else space or ()
    values = {"space": [fspath(one) for one in spaces], **(vary or {})}
    typed = plan.Sweep(together(settings or {}), {k: list(v) for k, v in values.items() if v})
    if isinstance(config, str | PathLike):
        return plan.points(plan.read(Path(config)), fspath(config), typed)
    return plan.points(plan.Sweep(dict(config or {}), {}), SOURCE, typed)


def _wants_gpu(folder: Path) -> bool:
    """Whether a point of a sweep may use a GPU."""
    points = (Run(folder / "points" / name) for name in scheduler.names(folder))
    begun = [point for point in points if (point.folder / "config.yaml").exists()]
    return any(point.config.device != "cpu" for point in begun)


def _engine(workers: int, ray: str | None, cores: int | None, gpu: bool) -> Engine:
    """What computes the points. Raises UsageError or DataError where there is no Ray cluster."""
    if ray is not None:
        from quantnas.sweeps.ray_cluster import Cluster

        return Cluster(ray, cores or 1, gpu)
    share = max(1, min(torch.get_num_threads(), processes.cores() // workers))
    return Workers(workers, cores or share, torch.cuda.device_count() if gpu else 0)


def _performed(folder: Path, engine: Engine, watch: SweepWatcher) -> Sweep:
    """Do the points of a sweep; the tables are written even when the watcher stops it."""
    watch.begin(folder)
    points: tuple[Standing, ...] = ()
    steps = cast("Generator[Overview, None, None]", scheduler.perform(folder, engine))
    try:
        with closing(steps):
            for overview in steps:
                points = overview.points
                watch(overview)
    finally:
        watch.end()
        table = results_table.write(folder)
    page = None
    if any(point.state == "done" for point in points):
        page = folder / html_page.FILE
        html_page.write(html_data.find([folder]), page)
    return Sweep(folder, points, results_table.rows(folder), table, page)


def _quality(row: Mapping[str, Any]) -> float:
    """PSNR-Y of a point's file on the first set, dB."""
    return float(next(iter(row["psnr"].values()))["file"])
