"""The run folder: the places of its files, and which steps have finished.

No run writes into the folder of another, and a finished step is not done again. A step is
finished when its `steps/<step>.json` is there; it is written last, and whole.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantnas.config import files
from quantnas.config.files import read_json
from quantnas.errors import DataError, UsageError

MADE: dict[str, tuple[str, ...]] = {
    "search": ("space.yaml", "genotype.json", "checkpoints/searched.safetensors"),
    "train": ("checkpoints/float.safetensors", "checkpoints/trained.safetensors"),
    "quantize": ("precision.json", "damage.json", "checkpoints/quantized.safetensors"),
    "export": ("model.onnx",),
    "evaluate": (),
    "report": (),
}
"""Step -> the files that it leaves for later steps; a search without choices leaves no weights."""
STEPS = tuple(MADE)
SPENT = "checkpoints/spent.json"
"""File with the seconds that an unfinished step has taken so far."""


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
        except DataError:  # of an older version, or damaged: the state is worth more
            return 0.0

    def spend(self, seconds: float) -> None:
        """Record the seconds that the unfinished step has taken, together with a saved state."""
        files.write_text(self.path(SPENT), files.to_json({"seconds": seconds}))

    def result(self, step: str) -> dict[str, Any] | None:
        """The results of a finished step; None when the step has not finished."""
        path = self.folder / "steps" / f"{step}.json"
        return read_json(path) if path.exists() else None

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
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [row for row in map(_row, lines) if row is not None]

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
            file.write(line + "\n")


def _row(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return row


def create(root: Path, verb: str, name: str | None, default: str) -> Run:
    """Create the run folder `root/verb/name`; without a name, `default` with the next free number.

    Raises UsageError for a name that is taken or contains separators, DataError when the folder
    cannot be created.
    """
    if name is not None and (name in ("", ".", "..") or set(name) & set("/\\\0")):
        raise UsageError(
            f"--name cannot be '{name}'.",
            "Give a plain name, without separators; --output says where the folder is made.",
        )
    folder = root / verb / (name or default)
    if name is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"The run folder {folder} is not empty.",
            "Choose another --name, or continue it with --resume.",
        )
    number = 2
    while name is None and folder.exists():
        folder = root / verb / f"{default}-{number}"
        number += 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"Cannot make the folder {folder}: {error.strerror}.", "Choose another --output."
        ) from error
    return Run(folder, new=True)


def existing(path: Path) -> Run:
    """The run in a folder. Raises DataError when the folder holds none."""
    if not (path / "config.yaml").is_file():
        raise DataError(
            f"{path} is not a run folder (it has no config.yaml).",
            "Give the folder that a command wrote, such as runs/search/rfdn_small.",
        )
    return Run(path)


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
