"""Processes on this machine that compute the points of a sweep, each on some of the cores."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from . import point_process
from .point_process import PATIENCE, PointJob


class Engine(Protocol):
    """An engine computes points, on this machine or on a cluster."""

    def room(self) -> bool:
        """Whether another point can be started now."""

    def start(self, job: PointJob) -> None:
        """Start a process that begins or continues a point."""

    def ended(self) -> Iterator[tuple[PointJob, int]]:
        """The points that have ended since the last call, with their exit codes.

        The code is `point_process.DONE` for a finished point.
        """

    def stop(self) -> None:
        """Let all points save their state and end."""


class Workers:
    """The engine that computes `count` points at a time in processes on this machine.

    cores: cores for each process; gpus: number of GPUs, which are assigned in turn.
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
            devices = visible.split(",") if visible else [str(n) for n in range(self.gpus)]
            env["CUDA_VISIBLE_DEVICES"] = devices[place % self.gpus]
        words = [sys.executable, "-m", point_process.__name__, str(job.run)]
        words += [str(job.warm)] if job.warm else []
        with (job.run / "errors.txt").open(
            "ab"
        ) as errors:  # output of libraries, above all about crashes
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
