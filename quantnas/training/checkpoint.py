"""States of an unfinished step: written whole or not at all, read without running code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from quantnas.config import files
from quantnas.errors import DataError


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def states(parts: Mapping[str, Stateful]) -> dict[str, dict[str, Any]]:
    """The state of every part."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(parts: Mapping[str, Stateful], states: Mapping[str, Any]) -> None:
    """Give every part its state."""
    for name, part in parts.items():
        part.load_state_dict(states[name])


def save(path: Path, step: int, parts: Mapping[str, Stateful]) -> None:
    """Write the state of every part after `step` updates.

    Raises DataError when it cannot be written; the state saved before is then still there.
    """
    state = {"step": step, **states(parts)}
    try:
        with files.replacing(path) as part:
            torch.save(state, part)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter
        kept = "The last saved state is intact" if path.exists() else "Nothing was saved before"
        raise DataError(
            f"The state of this step cannot be written to {path}: {error}.",
            f"{kept}. Make room on the disk, and continue with --resume.",
        ) from error


def load(path: Path, parts: Mapping[str, Stateful]) -> int:
    """Restore every part; the number of updates done. 0, and nothing done, without the file.

    Raises DataError when the file is damaged or of other parts.
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
