"""Compares models by their scores on sets of photographs, for evaluation.json."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from quantnas.config import files, schema
from quantnas.config.files import read_json
from quantnas.config.run_config import RunConfig
from quantnas.data import photo_sets, photographs
from quantnas.data.image_files import bundled
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError
from quantnas.inference.upscaler import Upscaler
from quantnas.progress import Progress
from quantnas.runs import run_folder, run_photographs, run_settings
from quantnas.runs.models import Model

from . import scoring
from .scoring import Score

FILE = "evaluation.json"
Table = dict[str, dict[str, list[Score]]]
"""Set -> model -> scores of its photographs."""
LOW = {
    frozenset({False}): "bicubic",
    frozenset({True}): "files of their own",
    frozenset({False, True}): "files of their own or bicubic",
}
"""Whether photographs have low-resolution files of their own -> where low resolution comes from."""


@dataclass(frozen=True)
class PhotoSet:
    """A named set of photographs on which models are measured."""

    name: str
    photos: tuple[Photograph, ...]
    folder: str | None = None
    """The folder as the caller named it; None for held-out and for bundled photographs."""

    @property
    def low(self) -> str:
        """Where the low-resolution images come from, in words."""
        return LOW[frozenset(photo.low is not None for photo in self.photos)]


def choose(models: Sequence[Model], folders: Sequence[str]) -> list[PhotoSet]:
    """The sets to measure on: the folders, else the models' held-out set, else the bundled one.

    The held-out set is used when all models have the same one.

    Raises DataError as `photographs.find`, and for a photograph that is too small.
    """
    scale = models[0].scale
    sets = _read(folders, scale)
    kept = {_held_out(model) for model in models}
    if not sets and len(kept) == 1 and None not in kept:
        sets = [PhotoSet("held-out", photos) for photos in kept if photos is not None]
    if not sets:
        sets = [PhotoSet("bundled", tuple(map(Photograph, bundled().held_out)))]
    for group in sets:
        photo_sets.require_sizes(group.photos, scale)
    return sets


def _read(folders: Sequence[str], scale: int) -> list[PhotoSet]:
    return [
        PhotoSet(name, tuple(photographs.find(folder, scale)), folder)
        for name, folder in photo_sets.named_sets(folders).items()
    ]


def sets_of(run: run_folder.Run, config: RunConfig, scale: int) -> list[PhotoSet]:
    """The sets on which a run is measured: its held-out photographs, then its benchmarks.

    Raises DataError as `photographs.find`.
    """
    held_out = PhotoSet("held-out", run_photographs.photographs_of(run, config).held_out)
    return [held_out, *_read(config.benchmarks, scale)]


def _held_out(model: Model) -> tuple[Photograph, ...] | None:
    if model.run is None:
        return None
    return run_photographs.photographs_of(model.run, run_settings.load_config(model.run)).held_out


def measure(
    upscalers: Mapping[str, Upscaler],
    sets: Sequence[PhotoSet],
    scale: int,
    references: Mapping[str, Upscaler] = scoring.NONE,
) -> Generator[Progress, None, Table]:
    """Measure upscalers on all photographs; yields progress, and returns the scores.

    references: name of a quantized network -> its float network. The progress shows the mean of the
    first upscaler so far.
    """
    table: Table = {}
    for group in sets:
        scores: dict[str, list[Score]] = {name: [] for name in upscalers}
        table[group.name] = scores
        compared = scoring.compare(upscalers, group.photos, scale, references)
        for done, by_model in enumerate(compared, 1):
            for name, row in by_model.items():
                scores[name].append(row)
            so_far = scoring.mean(next(iter(scores.values())))
            facts = {"PSNR-Y": f"{so_far.psnr:.2f}", "over bicubic": f"{so_far.gain:+.2f}"}
            yield Progress(f"evaluate {group.name}", done, len(group.photos), facts)
    return table


def collect(models: Sequence[Model], sets: Sequence[PhotoSet], table: Table) -> dict[str, Any]:
    """The content of evaluation.json: protocol, models with their cost, and scores per set."""
    return {
        "protocol": scoring.protocol(photo for group in sets for photo in group.photos),
        "scale": models[0].scale,
        "models": {model.name: _about(model) for model in models},
        "sets": {group.name: _group(group, table[group.name]) for group in sets},
    }


def _about(model: Model) -> dict[str, Any]:
    return {
        "what": model.what,
        "run": None if model.run is None else str(model.run.folder.resolve()),
        "sha256": files.sha256(model.file),
        "bytes": model.file.stat().st_size,
        "float": model.is_float,
        "cost": model.cost
        and {
            "parameters": model.cost.parameters,
            "macs": model.cost.macs,
            "bitops": model.cost.bitops,
        },
    }


def _group(group: PhotoSet, scores: Mapping[str, Sequence[Score]]) -> dict[str, Any]:
    means = {name: scoring.mean(rows) for name, rows in scores.items()}
    first = next(iter(means.values()))
    return {
        "folder": None if group.folder is None else str(Path(group.folder).resolve()),
        "low": group.low,
        "bicubic": {"psnr": first.bicubic_psnr, "ssim": first.bicubic_ssim},
        "models": {
            name: {
                "mean": asdict(means[name]),
                "worst": asdict(scoring.worst(rows)),
                "images": [asdict(row) for row in rows],
            }
            for name, rows in scores.items()
        },
    }


class _MeasuredModel(TypedDict):
    """A model in evaluation.json."""

    run: str | None


class _MeasuredSet(TypedDict):
    """A set in evaluation.json."""

    folder: str | None


class _Evaluation(TypedDict):
    """What is read from evaluation.json."""

    models: dict[str, _MeasuredModel]
    sets: dict[str, _MeasuredSet]


def of_run(folder: Path) -> tuple[Path, list[str]] | None:
    """The run that an evaluation measured, and the folders; None for a folder without evaluation.

    Raises DataError when the evaluation measured several models, or a model of no run.
    """
    if not (folder / FILE).is_file():
        return None
    evaluation = read_json(folder / FILE)
    schema.check(_Evaluation, evaluation, str(folder / FILE))
    origins = [model["run"] for model in evaluation["models"].values()]
    if len(origins) != 1 or origins[0] is None:
        raise DataError(
            f"{folder} is an evaluation, but not of one run.", "Give the folder of a run."
        )
    return Path(origins[0]), [
        g["folder"] for g in evaluation["sets"].values() if g["folder"] is not None
    ]
