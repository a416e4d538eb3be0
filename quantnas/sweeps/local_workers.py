"""Processes on this machine that do the points of a sweep, each with its share of the cores."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from . import point_process
from .point_process import PATIENCE, PointJob


class Engine(Protocol):
    """Where points are computed."""

    def room(self) -> bool:
        """Whether another one can be started now."""

    def start(self, job: PointJob) -> None:
        """Begin or continue a point."""

    def ended(self) -> Iterator[tuple[PointJob, int]]:
        """Those that have ended since, with `point_process.DONE` or another number."""

    def stop(self) -> None:
        """Let all save their state and end."""


class Workers:
    """So many processes at a time.

    `cores` for each; `gpus` on this machine are dealt out in turn.
    """

    def __init__(self, count: int, cores: int, gpus: int = 0) -> None:
        self.count, self.cores, self.gpus = count, cores, gpus
        self.places: dict[int, tuple[PointJob, subprocess.Popen[bytes]]] = {}

    def room(self) -> bool:
        return len(self.places) < self.count

    def start(self, job: PointJob) -> None:
        place = min(set(range(self.count)) - set(self.places))
        env = {**os.environ, "OMP_NUM_THREADS": str(self.cores)}
        if self.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            known = visible.split(",") if visible else [str(n) for n in range(self.gpus)]
            env["CUDA_VISIBLE_DEVICES"] = known[place % self.gpus]
        words = [sys.executable, "-m", point_process.__name__, str(job.run)]
        words += [str(job.warm)] if job.warm else []
        with (job.run / "errors.txt").open("ab") as errors:  # what libraries say, a crash above all
            process = subprocess.Popen(
                words, env=env, stdin=subprocess.PIPE, stdout=errors, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        self.places[place] = job, process

    def ended(self) -> Iterator[tuple[PointJob, int]]:
        for place, (job, process) in list(self.places.items()):
            code = process.poll()
            if code is not None:
                del self.places[place]
                yield job, code

    def stop(self) -> None:
        processes = [process for _, process in self.places.values()]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.places.clear()
