"""The two parts of the photographs of a run: what is learned from, and what is held out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from quantnas.config import search_space
from quantnas.config.files import read_json, to_json, write_text
from quantnas.config.run_config import RunConfig

from . import image_files, photo_sets, photographs
from .photographs import Photograph

FILE = "photographs.json"
"""Where a run keeps them; it is not there when they are the bundled ones."""

HOME = Path(str(resources.files("quantnas"))).resolve()
"""The folder in which the package is installed."""


@dataclass(frozen=True)
class Photographs:
    """What is learned from, and what is kept for the evaluation."""

    train: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]
    known: tuple[Path, ...] = ()
    """What the runs from which this one goes on had learned from."""


def choose(config: RunConfig, known: Collection[Path] = ()) -> Photographs:
    """The photographs that these settings mean now; of the `known` files none is drawn.

    Raises DataError as `photographs.find` and `photographs.split`, and when the parts overlap.
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
    ours = {photo.high.resolve() for photo in learn}
    photographs.require_apart(held_out, ours, "among those to learn from")
    return Photographs(learn, held_out)


def _find(folder: str, config: RunConfig) -> tuple[Photograph, ...]:
    """The photographs of a folder, for the scale of a run."""
    return tuple(photographs.find(folder, search_space.load(config.space, config.scale).scale))


def load(path: Path) -> Photographs:
    """What `save` has written."""
    rows = read_json(path)
    learn, held_out = (tuple(map(_photograph, rows[part])) for part in ("train", "held_out"))
    return Photographs(learn, held_out, tuple(_here(Path(k)) for k in rows.get("known", ())))


def _here(path: Path) -> Path:
    """The place of a photograph now; one that came with the package may have moved with it."""
    if path.parent.name != "photographs" or path.exists():
        return path
    moved = HOME / "assets" / "photographs" / path.name
    return moved if moved.exists() else path


def _photograph(row: Mapping[str, str | None]) -> Photograph:
    high, low = (path and _here(Path(path)) for path in (row["high"], row["low"]))
    assert high
    return Photograph(high, low or None)


def save(path: Path, chosen: Photographs) -> None:
    """Keep them, with absolute paths."""
    both = {"train": chosen.train, "held_out": chosen.held_out}
    rows = {part: [_row(photo) for photo in photos] for part, photos in both.items()}
    write_text(path, to_json({**rows, "known": [str(known) for known in chosen.known]}))


def sent(photos: Sequence[Photograph]) -> list[dict[str, str | None]]:
    """For another machine: those of the package by their place in it, which may differ there."""
    return [{part: path and _place(path) for part, path in _row(p).items()} for p in photos]


def received(rows: Sequence[Mapping[str, str | None]]) -> list[Photograph]:
    """What `sent` means here."""
    return [_photograph({k: path and str(HOME / path) for k, path in row.items()}) for row in rows]


def _place(path: str) -> str:
    found = Path(path)
    return str(found.relative_to(HOME)) if found.is_relative_to(HOME) else path


def _row(photo: Photograph) -> dict[str, str | None]:
    low = None if photo.low is None else str(photo.low.resolve())
    return {"high": str(photo.high.resolve()), "low": low}
