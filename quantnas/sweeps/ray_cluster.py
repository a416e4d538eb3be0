"""Computes the points of a sweep on a Ray cluster, whose machines share the sweep's folder.

Ray (the extra `quantnas[ray]`) places and watches the tasks, which write their results into the
shared folder. A point whose machine dies continues on another one from its last saved state.
"""

import importlib
import importlib.util
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantnas.errors import DataError, UsageError

from .point_process import PATIENCE, STOP, PointJob, perform

LOST = -1
"""Exit code of a point whose process or machine is gone."""
LOOK = 2.0
"""Seconds between two counts of the machines."""


def require() -> None:
    """Raise UsageError when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "--ray needs Ray, which is not installed.",
            "Install it on every machine with: pip install 'quantnas[ray]', or give --workers.",
        )


def task(job: PointJob, cores: int) -> int:
    """The task of a machine of the cluster: perform a point until it ends or the sweep stops."""
    import torch

    torch.set_num_threads(cores)
    if not job.run.is_dir():
        raise FileNotFoundError(f"{job.run} is not there: this machine does not share the folder")
    return perform(job, _stop(job).exists)


def _stop(job: PointJob) -> Path:
    return job.run.parent.parent / STOP


def _knock(address: str) -> None:
    """Raise OSError when nothing answers at the address; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


class Cluster:
    """The engine that computes points on a running Ray cluster.

    address: as `ray.init` takes it, `auto` for the cluster of this machine; cores: cores for each
    point; gpu: whether each point gets a GPU, if the cluster has any. Raises UsageError without
    Ray, DataError when there is no such cluster, or no machine with enough cores and GPUs.
    """

    def __init__(self, address: str, cores: int, gpu: bool = True) -> None:
        require()
        ray: Any = importlib.import_module("ray")
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"There is no Ray cluster at '{address}': {str(error).splitlines()[0]}",
                "Start one with `ray start --head`, and on the other machines with "
                "`ray start --address HOST:6379`.",
            ) from error
        self.ray, self.cores = ray, cores
        self.needs: dict[str, float] = {"CPU": cores}
        if gpu and ray.cluster_resources().get("GPU"):
            self.needs["GPU"] = 1
        options = {"num_cpus": cores, "num_gpus": self.needs.get("GPU", 0), "max_retries": 0}
        self.remote = ray.remote(**options, scheduling_strategy="SPREAD")(task)
        self.tasks: dict[Any, PointJob] = {}
        self.places, self.looked = 0, -LOOK
        if not self.room():
            ray.shutdown()
            needs = " and ".join(f"{v:g} {k}" for k, v in self.needs.items())
            raise DataError(
                f"No machine of the Ray cluster at '{address}' has {needs} for a point.",
                "Give fewer --cores, or start Ray on larger machines.",
            )

    def room(self) -> bool:
        if time.monotonic() - self.looked > LOOK:
            nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            each = [min(n.get(k, 0) // v for k, v in self.needs.items()) for n in nodes]
            self.places, self.looked = int(sum(each)), time.monotonic()
        return len(self.tasks) < self.places

    def start(self, job: PointJob) -> None:
        self.tasks[self.remote.remote(job, self.cores)] = job

    def ended(self) -> Iterator[tuple[PointJob, int]]:
        if not self.tasks:
            return
        ready, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        for reference in ready:
            job, code = self.tasks.pop(reference), LOST
            try:
                code = self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                line = str(error).strip().splitlines()[-1]
                with (job.run / "errors.txt").open("a", encoding="utf-8") as errors:
                    errors.write(f"{type(error).__name__}: {line}\n")
            yield job, code

    def stop(self) -> None:
        if self.tasks:
            stop = _stop(next(iter(self.tasks.values())))
            stop.touch()
            running = list(self.tasks)
            _, late = self.ray.wait(running, num_returns=len(running), timeout=PATIENCE)
            for reference in late:
                self.ray.cancel(reference, force=True)
            stop.unlink(missing_ok=True)
        self.ray.shutdown()
