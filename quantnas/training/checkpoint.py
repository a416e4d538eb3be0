"""Checkpoints of an unfinished step, written whole or not at all and read without running code."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from quantnas.config import files
from quantnas.errors import DataError


class Stateful(Protocol):
    """A module, an optimizer, or anything else whose state can be saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def states(parts: Mapping[str, Stateful]) -> dict[str, dict[str, Any]]:
    """Collect the state of every part under its name."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(parts: Mapping[str, Stateful], states: Mapping[str, Any]) -> None:
    """Load into every part the state that is stored under its name."""
    for name, part in parts.items():
        part.load_state_dict(states[name])


def save(path: Path, step: int, parts: Mapping[str, Stateful]) -> None:
    """Write the state of every part after `step` updates.

    Raises DataError when it cannot be written; an earlier checkpoint is then left intact.
    """
    state = {"step": step, **states(parts)}
    try:
        with files.replacing(path) as part:
            torch.save(state, part)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter
        kept = "The last saved state is intact" if path.exists() else "Nothing was saved before"
        raise DataError(
            f"The state of this step cannot be written to {path}: {error}.",
            f"{kept}. Make room on the disk, then continue with --resume.",
        ) from error


def load(path: Path, parts: Mapping[str, Stateful]) -> int:
    """Restore every part and return the number of updates done.

    Without the file nothing is restored and the number is 0. Raises DataError when the file is
    damaged, which the checksums that it holds tell, or holds the states of other parts.
    """
    if not path.exists():
        return 0
    _require_sound(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        restore(parts, state)
        return int(state["step"])
    except Exception as error:
        raise _useless(path, "it holds the state of another network or program") from error


def _require_sound(path: Path) -> None:
    """Raise DataError unless the checksum of every part of a saved state is right.

    torch writes a zip archive with the CRC-32 of every record, but does not compare it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile raises several kinds for damaged archives
        raise _useless(path, "it is damaged or incomplete") from error
    if broken is not None:
        raise _useless(path, f"it is damaged, in its part {broken!r}")


def _useless(path: Path, why: str) -> DataError:
    return DataError(
        f"The saved state {path} cannot be restored: {why}.",
        "Put back a copy of it, or delete it to begin this step again.",
    )
