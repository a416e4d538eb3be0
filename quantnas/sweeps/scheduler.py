"""Schedules the points of a sweep: when each may start, and how far all of them are.

The state of a sweep is read from its folder, so that a killed sweep continues from there.
"""

import shlex
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

import yaml
from typing_extensions import TypedDict

from quantnas.config import schema
from quantnas.config.files import inside, to_json, write_text
from quantnas.errors import DataError, QuantnasError, UsageError
from quantnas.pipeline import new_run
from quantnas.pipeline.new_run import Prepared
from quantnas.runs import environment, run_folder, run_lock
from quantnas.runs.run_folder import Run

from . import point_process, shared_work
from .local_workers import Engine
from .plan import Point
from .point_process import PointJob
from .progress import Overview, Standing, State, TimeEstimate, measured, within

TRIES = 3
"""How often a point is started if its process is killed."""
TICK = 0.3
"""Seconds between two polls of the processes."""


def begin(root: Path, name: str | None, points: Sequence[Point]) -> Path:
    """Create the folder `root/sweep/name` of a sweep, with a run folder for every possible point.

    An error in the settings of a point is recorded as its failure; if no point is possible, the
    first error is raised. Raises as `run_folder.create` too.
    """
    _require_alone(points)
    ready: dict[str, Prepared] = {}
    wrong: dict[str, QuantnasError] = {}
    for each in points:
        try:
            ready[each.name] = new_run.prepare("run", each.config)
        except QuantnasError as error:
            wrong[each.name] = error
    if not ready:
        first = points[0].name
        many = f" (none of the {len(points)} points can be done)" if len(points) > 1 else ""
        raise type(wrong[first])(f"{wrong[first].cause}{many}", wrong[first].remedy)
    sweep = run_folder.create(root, "sweep", name, "sweep")
    with run_folder.beginning(sweep):
        _write(sweep.folder, points, ready, wrong)
    return sweep.folder.resolve()


def _write(
    folder: Path,
    points: Sequence[Point],
    ready: Mapping[str, Prepared],
    wrong: Mapping[str, QuantnasError],
) -> None:
    """Write the first files of a sweep: the runs of all possible points, and why others failed."""
    write_text(folder / "env.json", to_json(environment.environment()))
    for name, prepared in ready.items():
        run = run_folder.create(folder, "points", name, name)
        prepared.write(run, ["quantnas", "run", "--config", str(run.folder / "config.yaml")])
    for name, reason in wrong.items():
        point_process.fail(folder / "points" / name, reason.cause, reason.remedy)
    rows = [{"name": each.name, **each.varied} for each in points]
    text = yaml.safe_dump({"points": rows}, sort_keys=False)
    write_text(folder / run_folder.SWEEP, text)  # last, to mark the folder as complete


def _require_alone(points: Sequence[Point]) -> None:
    for each in points:
        if max(each.config.search.processes, each.config.train.processes) > 1:
            raise UsageError(
                f"Point {each.name} wants several processes, but a point of a sweep is one.",
                "Leave `processes` out, and do several points at a time (--workers).",
            )


def existing(path: Path) -> Path:
    """The absolute path of a sweep's folder. Raises DataError when it is no sweep."""
    if run_folder.is_half_begun(path):
        raise DataError(
            f"{path} was only begun: its process ended before all points had a folder.",
            f"Begin it again with the same command and --name {shlex.quote(path.name)}.",
        )
    if (path / "points").is_dir() and not (path / run_folder.SWEEP).exists():
        raise DataError(
            f"{path} is a sweep that was only begun: its process ended before all points had a "
            "folder.",
            "Remove the folder, or begin the sweep again with another --name.",
        )
    if not ((path / run_folder.SWEEP).is_file() and (path / "points").is_dir()):
        raise DataError(
            f"{path} is no folder of a sweep (it has no {run_folder.SWEEP} and points/).",
            "Give the folder that `quantnas sweep` wrote, such as runs/sweep/sweep.",
        )
    return path.resolve()


def names(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a point -> its varied settings, in the order of the sweep.

    Raises DataError or UsageError for a damaged file, and for names that lead out of the sweep.
    """
    path = existing(folder) / run_folder.SWEEP
    data = schema.read_yaml(path)
    schema.check(_Points, data, str(path))
    rows = data["points"]
    for row in rows:
        inside(folder / "points", row["name"], path)
    if len({row["name"] for row in rows}) < len(rows):
        raise DataError(f"{path} names a point twice.", "Take the file from a copy.")
    return {row["name"]: {k: v for k, v in row.items() if k != "name"} for row in rows}


class _Row(TypedDict):
    """A point in the file of a sweep: its name and its varied settings, of which `seed` is read."""

    name: str
    seed: NotRequired[int | float | str | bool]


class _Points(TypedDict):
    """The file of a sweep."""

    points: list[_Row]


def perform(folder: Path, engine: Engine) -> Iterator[Overview]:
    """Perform all points that are not finished, including those that failed; yields overviews.

    Closing the generator stops the points, which save their states.

    Raises UsageError while another process is at work on the sweep.
    """
    with run_lock.held(folder):
        try:
            (folder / point_process.STOP).unlink(missing_ok=True)
            yield from _Sweep(folder, engine).steps()
        finally:
            engine.stop()


@dataclass
class _Sweep:
    """The points of a sweep while they are performed."""

    folder: Path
    engine: Engine
    runs: dict[str, Run] = field(default_factory=dict)
    keys: dict[str, dict[str, str | None]] = field(default_factory=dict)
    running: dict[str, PointJob] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    furthest: dict[tuple[str, str], float] = field(default_factory=dict)
    """(point, step) -> largest share of the step that was reached."""
    share: float = 0.0
    """Largest share of all work that was displayed, so that the display never goes back."""

    def __post_init__(self) -> None:
        self.names = list(names(self.folder))
        for name in self.names:
            folder = self.folder / "points" / name
            if not (folder / "config.yaml").exists():  # its settings were refused
                continue
            self.runs[name] = Run(folder)
            self.keys[name] = shared_work.keys(self.runs[name])
            point_process.failure(folder).unlink(missing_ok=True)
        self.own = {name: self._own_steps(name) for name in self.runs}

    def steps(self) -> Generator[Overview, None, None]:
        pace = TimeEstimate()
        while True:
            for job, code in self.engine.ended():
                self._handle_end(job, code)
            for name in self.runs:
                if self.engine.room() and self._ready(name):
                    self._start(name)
            yield self.overview(pace)
            if all(map(self._ended, self.runs)) and not self.running:
                return
            time.sleep(TICK)

    def _handle_end(self, job: PointJob, code: int) -> None:
        """Handle a process that has ended; a killed one fails its point after `TRIES` attempts."""
        del self.running[job.name]
        if self._ended(job.name):
            return
        if self.tries[job.name] >= TRIES:
            cause = (
                f"Its process ended {TRIES} times without finishing (the last time with {code})."
            )
            remedy = f"Read {job.run / 'errors.txt'}; fewer points at a time need less memory."
            point_process.fail(job.run, cause, remedy)

    def _ended(self, name: str) -> bool:
        run = self.runs[name]
        return (
            run.result(run_folder.STEPS[-1]) is not None
            or point_process.failure(run.folder).exists()
        )

    def _ready(self, name: str) -> bool:
        """Whether a point may start: not while a running one computes a step that both share."""
        if name in self.running or self._ended(name):
            return False
        return not any(
            self._common_step(name, other) and not self._shared_done(name, other)
            for other in self.running
        )

    def _common_step(self, name: str, other: str) -> str | None:
        """The last step that two points have in common."""
        first, second = self.keys[name], self.keys[other]
        same = [step for step in first if first[step] is not None and first[step] == second[step]]
        return same[-1] if same else None

    def _shared_done(self, name: str, other: str) -> bool:
        """Whether the common step is finished, or `name` has gone beyond it already."""
        run, common = self.runs[name], self._common_step(name, other)
        if common == "warmup":
            warm = self._warm(name)
            begun = run.resumable or run.result("search") is not None
            return begun or (warm is not None and warm.exists())
        assert common is not None
        return any(each.result(common) is not None for each in (run, self.runs[other]))

    def _warm(self, name: str) -> Path | None:
        """The file of the state after the warm-up, if several different searches share it."""
        key = self.keys[name]["warmup"]
        searches = {keys["search"] for keys in self.keys.values() if keys["warmup"] == key}
        return self.folder / "warm" / f"{key}.pt" if key and len(searches) > 1 else None

    def _start(self, name: str) -> None:
        run = self.runs[name]
        try:
            with run_lock.held(run.folder):
                for step, until in (("train", "quantize"), ("search", "train")):
                    source = self._source(name, step)
                    if source is not None:
                        shared_work.take(source, run, until)
        except QuantnasError as error:  # another process is at work there, or it is damaged
            point_process.fail(run.folder, error.cause, error.remedy)
            return
        job = PointJob(run.folder, self._warm(name))
        self.tries[name] = self.tries.get(name, 0) + 1
        self.engine.start(job)
        self.running[name] = job

    def _source(self, name: str, step: str) -> Run | None:
        key = self.keys[name][step]
        for other, keys in self.keys.items():
            if other != name and keys[step] == key and self.runs[other].result(step) is not None:
                return self.runs[other]
        return None

    def overview(self, pace: TimeEstimate) -> Overview:
        """The current progress of all points."""
        records = {name: point_process.progress(run.folder) for name, run in self.runs.items()}
        weights = measured(records.values())
        work, done, rows = 0.0, 0.0, []
        for name in self.names:
            if name not in self.runs:
                why = point_process.why(self.folder / "points" / name) or {}
                rows.append(Standing(name, "failed", 0.0, {}, **why))
                continue
            own_work = sum(weights[step] for step in self.own[name])
            row = self._standing(name, records[name], weights, own_work)
            rows.append(row)
            if row.state != "failed":
                work, done = work + own_work, done + own_work * row.share
        self.share = max(
            self.share, done / work if work else 1.0
        )  # the estimates change on the way
        return Overview(tuple(rows), self.share, pace.left(done, work))

    def _standing(
        self, name: str, record: Mapping[str, Any], weights: Mapping[str, float], own_work: float
    ) -> Standing:
        run = self.runs[name]
        if run.result(run_folder.STEPS[-1]) is not None:
            return Standing(name, "done", 1.0, record)
        why = point_process.why(run.folder)
        if why is not None:
            return Standing(name, "failed", 0.0, record, **why)
        own = self.own[name]
        done = sum(weights[step] for step in own if run.result(step) is not None)
        step = record.get("step")
        if step in own and run.result(step) is None:
            far = max(self.furthest.get((name, step), 0.0), within(record))
            self.furthest[name, step] = far  # a step of several rounds does not go back
            done += weights[step] * far
        state: State = "running" if name in self.running else "waiting"
        return Standing(name, state, done / own_work, record)

    def _own_steps(self, name: str) -> list[str]:
        """The steps that a point performs itself, being the first of the points with equal keys."""
        taken = set()
        for step in ("search", "train"):
            alike = [n for n, keys in self.keys.items() if keys[step] == self.keys[name][step]]
            if alike[0] != name:
                taken.add(step)
        return [step for step in run_folder.STEPS if step not in taken]
