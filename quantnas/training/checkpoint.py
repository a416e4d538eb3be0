"""Checkpoints of an unfinished step, written whole or not at all and read without running code."""

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
    damaged or holds the states of other parts.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        restore(parts, state)
        return int(state["step"])
    except Exception as error:
        raise DataError(
            f"The checkpoint {path} cannot be restored: {error}.",
            "Delete it to begin this step again.",
        ) from error
