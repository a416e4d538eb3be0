"""The photographs of a run in two parts: a training set and a held-out set."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from quantnas.config import schema, search_space
from quantnas.config.files import read_json, to_json, write_text
from quantnas.config.run_config import RunConfig
from quantnas.errors import DataError

from . import image_files, photo_sets, photographs
from .photographs import Photograph

FILE = "photographs.json"
"""Name of the file in a run folder that lists the photographs; bundled ones need no file."""

HOME = Path(str(resources.files("quantnas"))).resolve()
"""The folder in which the package is installed."""


@dataclass(frozen=True)
class Photographs:
    """The training set and the held-out set of a run."""

    train: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]
    known: tuple[Path, ...] = ()
    """Photographs that the earlier runs behind this one were trained on."""


def choose(config: RunConfig, known: Collection[Path] = ()) -> Photographs:
    """Find the photographs that the settings name and split them into training and held-out set.

    known: files that earlier runs were trained on; they are never drawn for the held-out set.

    Raises DataError as `photographs.find` and `photographs.split`, and when the two sets overlap.
    """
    if config.data is None:
        bundled = image_files.bundled()
        learn, held_out = (tuple(map(Photograph, p)) for p in (bundled.train, bundled.held_out))
    else:
        learn, held_out = _find(config.data, config), ()
    if config.eval_data is not None:
        held_out = _find(config.eval_data, config)
    elif config.data is not None:
        scale = search_space.load(config.space, config.scale).scale
        barred = {photo for photo in learn if not photo_sets.measurable(photo, scale)}
        barred |= {photo for photo in learn if photo.high.resolve() in known}
        learn, held_out = photographs.split(learn, barred=barred)
    training_files = {photo.high.resolve() for photo in learn}
    photographs.require_apart(held_out, training_files, "among those to learn from")
    return Photographs(learn, held_out)


def _find(folder: str, config: RunConfig) -> tuple[Photograph, ...]:
    """Find the photographs in a folder, with low resolution at the scale of the run."""
    return tuple(photographs.find(folder, search_space.load(config.space, config.scale).scale))


class _Row(TypedDict):
    """The files of a photograph."""

    high: str
    low: str | None


class _Rows(TypedDict):
    """The file that `save` writes."""

    train: list[_Row]
    held_out: list[_Row]
    known: NotRequired[list[str]]


def load(path: Path) -> Photographs:
    """Read the file that `save` wrote. Raises DataError when it cannot be read."""
    rows = read_json(path)
    schema.check(_Rows, rows, str(path))
    learn, held_out = (tuple(map(_photograph, rows[part])) for part in ("train", "held_out"))
    return Photographs(
        learn, held_out, tuple(_present_path(Path(k)) for k in rows.get("known", ()))
    )


def _present_path(path: Path) -> Path:
    """The present path of a photograph; a bundled one may have moved with the package."""
    if path.parent.name != "photographs" or path.exists():
        return path
    moved = HOME / "assets" / "photographs" / path.name
    return moved if moved.exists() else path


def _photograph(row: Mapping[str, str | None]) -> Photograph:
    """The inverse of `_row`."""
    high, low = (path and _present_path(Path(path)) for path in (row["high"], row["low"]))
    if not high:
        raise DataError("A photograph of the run has no path.", "Take its list from a copy.")
    return Photograph(high, low or None)


def save(path: Path, chosen: Photographs) -> None:
    """Write the photographs to a file, with absolute paths, for `load`. Raises OSError."""
    both = {"train": chosen.train, "held_out": chosen.held_out}
    rows = {part: [_row(photo) for photo in photos] for part, photos in both.items()}
    write_text(path, to_json({**rows, "known": [str(known) for known in chosen.known]}))


def sent(photos: Sequence[Photograph]) -> list[dict[str, str | None]]:
    """Describe photographs for a process on another machine, which calls `received`.

    The paths of bundled photographs are relative to the package, which may lie elsewhere there.
    """
    return [{part: path and _portable_path(path) for part, path in _row(p).items()} for p in photos]


def received(rows: Sequence[Mapping[str, str | None]]) -> list[Photograph]:
    """The photographs on this machine that `sent` described on another one."""
    return [_photograph({k: path and str(HOME / path) for k, path in row.items()}) for row in rows]


def _portable_path(path: str) -> str:
    """A path relative to the package if it lies there; any other path as it is."""
    full = Path(path)
    return str(full.relative_to(HOME)) if full.is_relative_to(HOME) else path


def _row(photo: Photograph) -> dict[str, str | None]:
    """The absolute paths of a photograph, as JSON."""
    low = None if photo.low is None else str(photo.low.resolve())
    return {"high": str(photo.high.resolve()), "low": low}
