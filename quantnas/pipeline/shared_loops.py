"""Tasks by which the first process lets the others share a loop of a step (`processes`)."""

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
    """The data of a loop that several processes share."""

    step: str
    """`search` or `train`."""
    run: Run
    config: RunConfig
    space: SearchSpace
    learn: Patches
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further data of this loop: plain values and tensors."""

    def lead(self, steps: Iterator[S], first: int, state: Mapping[str, Stateful]) -> Iterator[S]:
        """The records of the loop from step `first`; all processes perform it if several share it.

        state: the objects that change, as they are before that step. Raises as `processes.lead`.
        """
        if getattr(self.config, self.step).processes == 1:
            yield from steps
        else:
            yield from processes.lead(lambda: self._task(first, state), steps)

    def _task(self, first: int, state: Mapping[str, Stateful]) -> dict[str, Any]:
        kind: Device = "cuda" if device(self.config).type == "cuda" else "cpu"
        same = replace(self.config, device=kind)  # `auto` may mean another device elsewhere
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
    """The search space of a task, and the patches, read from the files of this process's machine.

    Raises DataError when the patches differ from those of the first process.
    """
    space = search_space.from_yaml(task["space"])
    photos = holdout.received(task["photographs"])
    loaded = photo_cache.load(photos, space.scale, size)
    parts = patches.split(loaded.pairs, size, config.seed, shares)
    if parts[0].fingerprint() != task["fingerprint"]:
        why = f" {loaded.damaged[0]}" if loaded.damaged else ""
        raise DataError(
            f"The photographs here are not those of the first process.{why}",
            "Copy the folder to all machines, or share it.",
        )
    return space, parts
