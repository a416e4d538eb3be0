"""The run folder: the places of its files, and which steps have finished.

No run writes into the folder of another, and a finished step is not done again. A step is
finished when its `steps/<step>.json` is there; it is written last, and whole.
"""

import itertools
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantnas.config import files, schema
from quantnas.config.files import read_json
from quantnas.errors import DataError, UsageError

from . import run_lock, step_results

MADE: dict[str, tuple[str, ...]] = {
    "search": ("space.yaml", "genotype.json", "checkpoints/searched.safetensors"),
    "train": ("checkpoints/float.safetensors", "checkpoints/trained.safetensors"),
    "quantize": (
        "precision.json",
        "carried.json",
        "damage.json",
        "checkpoints/equalised.safetensors",
        "checkpoints/quantized.safetensors",
    ),
    "export": ("model.onnx",),
    "evaluate": (),
    "report": (),
}
"""Step -> the files that it leaves for later steps; a search without choices leaves no weights."""
STEPS = tuple(MADE)
SPENT = "checkpoints/spent.json"
"""File with the seconds that an unfinished step has taken so far."""
SETTINGS = "config.yaml"
"""File with the settings of a run, which makes a folder a run; it is written last."""
SWEEP = "sweep.yaml"
"""File with the points of a sweep, which makes a folder a sweep; it is written last."""
MARK = "half_begun"
"""Empty file of the folder of a run or sweep while its first files are written."""
LISTED = 5
"""Largest number of runs that an error lists."""
FIRST = frozenset({"space.yaml", "genotype_given.json", "source.onnx"})
"""Files that earlier versions wrote before the settings, without a mark."""


@dataclass(frozen=True)
class Run:
    """A run, which is its folder."""

    folder: Path
    new: bool = field(default=False, compare=False)
    """Whether this process created the folder."""

    def __fspath__(self) -> str:
        """The folder, so that a run can be given wherever a path can."""
        return str(self.folder)

    @property
    def resumable(self) -> bool:
        """Whether an unfinished step has saved a state."""
        return any((self.folder / "checkpoints").glob("*.resume"))

    def path(self, name: str) -> Path:
        """The path of the file `name` of this run, whose parent folder is created."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def weights(self, name: str) -> Path:
        """The path of a checkpoint: `searched`, `float`, `trained`, `quantized` or `given`."""
        return self.path(f"checkpoints/{name}.safetensors")

    def resume_point(self, phase: str) -> Path:
        """The path of the saved state of an unfinished phase."""
        return self.path(f"checkpoints/{phase}.resume")

    @property
    def spent(self) -> float:
        """Seconds that the unfinished step had taken when its state was last saved, without the
        reading of photographs; 0 where there is no state."""
        if not self.resumable:
            return 0.0
        try:
            return float(read_json(self.folder / SPENT).get("seconds", 0.0))
        # It is of an older version, or damaged: the state is worth more.
        except (DataError, TypeError, ValueError):
            return 0.0

    def spend(self, seconds: float) -> None:
        """Record the seconds that the unfinished step has taken, together with a saved state."""
        files.write_text(self.path(SPENT), files.to_json({"seconds": seconds}))

    def result(self, step: str) -> dict[str, Any] | None:
        """The results of a finished step; None when the step has not finished.

        Raises DataError for a value of another type than `step_results` says.
        """
        path = self.folder / "steps" / f"{step}.json"
        if not path.exists():
            return None
        result = read_json(path)
        schema.check(step_results.KINDS[step], result, str(path), partial=True)
        return result

    def whole_result(self, step: str) -> dict[str, Any] | None:
        """The results as `result` gives them. Raises DataError when one of them is missing, too."""
        result = self.result(step)
        if result is not None:
            path = self.folder / "steps" / f"{step}.json"
            step_results.check_whole(step, result, str(path))
        return result

    def finish(self, step: str, result: dict[str, Any]) -> None:
        """Mark a step as finished, and remove the saved states of its phases."""
        (self.folder / SPENT).unlink(missing_ok=True)  # first, so that the next step begins at 0
        files.write_text(self.path(f"steps/{step}.json"), files.to_json({"step": step, **result}))
        for state in (self.folder / "checkpoints").glob("*.resume"):
            state.unlink()

    def record(self, phase: str, values: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        with self.path("metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(files.plain({"phase": phase, **values})) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, without a line that a killed process left incomplete."""
        return step_results.records(self.folder / "metrics.jsonl")

    def forget(self, phase: str, after: int) -> None:
        """Remove from `metrics.jsonl` what a phase did after a step, and an incomplete last line.

        A killed process had gone beyond its last saved state; those steps are done again.
        """
        if not (self.folder / "metrics.jsonl").exists():
            return
        kept = [row for row in self.records() if row["phase"] != phase or row["step"] <= after]
        self.replace_records(kept)

    def replace_records(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the lines of `metrics.jsonl`."""
        lines = [json.dumps(row) + "\n" for row in rows]
        files.write_text(self.path("metrics.jsonl"), "".join(lines))

    def log(self, line: str) -> None:
        """Append a line to `log.txt`."""
        with self.path("log.txt").open("a", encoding="utf-8") as file:
            file.write(files.readable(line) + "\n")


def create(root: Path, verb: str, name: str | None, default: str) -> Run:
    """Create the run folder `root/verb/name`; without a name, `default` with the next free number.

    A folder of that name is used if it is empty, or if a process ended while it began a run there.
    Two processes never get the same new folder.

    Raises UsageError for a name that is taken or is no plain one, DataError when the folder cannot
    be created.
    """
    if name is not None and not files.is_plain_name(name):
        raise UsageError(
            f"--name cannot be '{files.readable(name[:100])}'.",
            f"Give a plain name in UTF-8, without separators and of at most {files.LONGEST} bytes; "
            "--output says where the folder is made.",
        )
    numbers = itertools.count(2)
    folder = root / verb / (name or default)
    while not _made(folder):
        if name is not None:
            _require_unused(folder)
            break
        folder = root / verb / f"{default}-{next(numbers)}"
    return Run(folder, new=True)


def _made(folder: Path) -> bool:
    """Make a folder; False if it is there already. Raises DataError when it cannot be made."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        if folder.parent.is_dir():
            return False
        raise DataError(
            f"Cannot make the folder {folder}: {folder.parent} is a file.",
            "Choose another --output.",
        ) from None
    except OSError as error:
        raise DataError(
            f"Cannot make the folder {folder}: {error.strerror}.", "Choose another --output."
        ) from error
    return True


def _require_unused(folder: Path) -> None:
    """Raise UsageError for a folder that holds anything but the beginning of a run."""
    if folder.is_dir() and (not _found(folder) or is_half_begun(folder)):
        return
    goes_on = ", or continue it with --resume" if _is_begun(folder) else ""
    remedy = f"Choose another --name{goes_on}."
    if _is_perhaps_half_begun(folder):
        remedy = _remedy_without_mark(folder)
    raise UsageError(f"The run folder {folder} is not empty.", remedy)


def _found(folder: Path) -> set[str]:
    """The names of the files in a folder, without those of its lock."""
    return {path.name for path in folder.iterdir()} - {run_lock.FILE, run_lock.HOLDER}


def _is_begun(folder: Path) -> bool:
    """Whether the first files of a run or sweep are all in a folder."""
    return any((folder / file).is_file() for file in (SETTINGS, SWEEP))


def is_half_begun(folder: Path) -> bool:
    """Whether a process ended while it began a run or sweep in a folder, before any work."""
    return (folder / MARK).exists() and not _is_begun(folder)


def _is_perhaps_half_begun(folder: Path) -> bool:
    """Whether a folder looks like one that an earlier version began, which left no mark.

    Its files may as well be those of a user, so that nothing removes them.
    """
    return folder.is_dir() and bool(_found(folder)) and _found(folder) <= FIRST


def _remedy_without_mark(folder: Path) -> str:
    return (
        f"If an earlier version began a run there, remove {folder} and begin it again; if the "
        "files are yours, choose another --name."
    )


@contextmanager
def beginning(run: Run) -> Iterator[None]:
    """Mark a new folder as half begun until the block ends; what was half begun is removed.

    The run's `config.yaml`, which is written last, makes it a run, and `sweep.yaml` a sweep. Raises
    UsageError when another process has begun one there in the meantime.
    """
    with run_lock.held(run.folder):
        if _is_begun(run.folder):
            raise UsageError(f"The run folder {run.folder} is not empty.", "Choose another --name.")
        for path in run.folder.iterdir() if is_half_begun(run.folder) else ():
            if path.name not in (run_lock.FILE, run_lock.HOLDER):
                linked = path.is_symlink()
                shutil.rmtree(path) if path.is_dir() and not linked else path.unlink()
        run.path(MARK).touch()
        yield
        run.path(MARK).unlink()


def remove_half_begun(run: Run) -> None:
    """Remove the folder of a run whose beginning failed, unless a process is at work there.

    What cannot be removed stays: the error of the beginning is the one to tell.
    """
    with suppress(OSError, DataError):
        if not _is_begun(run.folder) and not run_lock.is_held(run.folder):
            shutil.rmtree(run.folder, ignore_errors=True)


def existing(path: Path) -> Run:
    """The run in a folder. Raises DataError when the folder holds none."""
    if is_half_begun(path):
        raise DataError(
            f"{path} was only begun: its process ended before the settings were written.",
            f"Begin it again with the same command and --name {shlex.quote(path.name)}.",
        )
    if _is_perhaps_half_begun(path):
        raise DataError(
            f"{path} is not a run folder: it has only {', '.join(sorted(_found(path)))}.",
            _remedy_without_mark(path),
        )
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"Cannot read {path}: permission denied.", "Change its permissions.")
    if not (path / SETTINGS).is_file():
        raise DataError(
            f"{path} is not a run folder (it has no {SETTINGS}).", _remedy_with_runs(path)
        )
    return Run(path)


def _remedy_with_runs(path: Path) -> str:
    """The remedy for a folder that is no run: the runs in it, or else those beside it."""
    folders = [path, *([] if path.is_dir() else [path.parent])]
    depths = ("*", "*/*", "*/*/*", "*/points/*")
    for folder, depth in itertools.product(folders, depths):
        found = sorted(file.parent for file in folder.glob(f"{depth}/{SETTINGS}"))
        if found:
            more = f", or one of {len(found) - LISTED} more" if len(found) > LISTED else ""
            shown = ", ".join(files.readable(str(run)) for run in found[:LISTED])
            return f"Give the folder of a run, such as {shown}{more}."
    return "Give the folder that a command wrote, such as runs/search/rfdn_small."


def require(run: Run, until: str) -> None:
    """Raise DataError unless every step before `until` has finished."""
    for step in STEPS[: STEPS.index(until)]:
        if run.result(step) is None:
            raise DataError(
                f"The step '{step}' has not finished in {run.folder}.",
                f"Do `quantnas {step}` first, or give a run that has it.",
            )


def carry(source: Run, target: Run, until: str) -> None:
    """Copy from `source` to `target` the files of the steps before `until`, and nothing else."""
    for step in STEPS[: STEPS.index(until)]:
        for name in MADE[step]:
            if (source.folder / name).exists():
                shutil.copy2(source.folder / name, target.path(name))
        target.finish(step, source.result(step) or {})
