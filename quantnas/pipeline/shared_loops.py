"""What the first process sends to the others so that they share a loop of a step (`crew`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from quantnas.config import search_space
from quantnas.config.run_config import Device, RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.data import holdout, patches, photo_cache
from quantnas.data.patches import Patches
from quantnas.errors import DataError
from quantnas.runs import run_settings
from quantnas.runs.run_folder import Run
from quantnas.runs.run_photographs import photographs_of
from quantnas.training import checkpoint, processes
from quantnas.training.checkpoint import Stateful
from quantnas.training.processes import device

S = TypeVar("S")


@dataclass(frozen=True)
class Shared:
    """What a loop of a step works on."""

    step: str
    """`search` or `train`."""
    run: Run
    config: RunConfig
    space: SearchSpace
    learn: Patches
    more: Mapping[str, Any] = field(default_factory=dict)
    """What only this loop has: plain data and tensors."""

    def lead(self, steps: Iterator[S], first: int, state: Mapping[str, Stateful]) -> Iterator[S]:
        """The records of the loop from step `first`, with all processes where several share it.

        state: all that changes, as it is before that step. Raises as `processes.lead`.
        """
        if getattr(self.config, self.step).processes == 1:
            yield from steps
        else:
            yield from processes.lead(lambda: self._task(first, state), steps)

    def _task(self, first: int, state: Mapping[str, Stateful]) -> dict[str, Any]:
        kind: Device = "cuda" if device(self.config).type == "cuda" else "cpu"
        same = replace(self.config, device=kind)  # for all, whatever `auto` means there
        return {
            "step": self.step,
            "config": run_settings.plain(run_settings.settled(same)),
            "space": search_space.to_yaml(self.space),
            "photographs": holdout.sent(photographs_of(self.run, self.config).train),
            "fingerprint": self.learn.fingerprint(),
            "first": first,
            "state": checkpoint.states(state),
            **self.more,
        }


def material(
    task: Mapping[str, Any], config: RunConfig, size: int, shares: Sequence[float]
) -> tuple[SearchSpace, tuple[Patches, ...]]:
    """The space of a task, and the parts of the patches, read where this process runs.

    Raises DataError when they are not those of the first process.
    """
    space = search_space.from_yaml(task["space"])
    photos = holdout.received(task["photographs"])
    loaded = photo_cache.load(photos, space.scale, size)
    found = patches.split(loaded.pairs, size, config.seed, shares)
    if found[0].fingerprint() != task["fingerprint"]:
        why = f" {loaded.damaged[0]}" if loaded.damaged else ""
        raise DataError(
            f"The photographs here are not those of the first process.{why}",
            "Copy the folder to all machines, or share it.",
        )
    return space, found
