"""The share of this machine that this process may use: cores, memory, disk and GPUs.

psutil tells what the machine has. The limits of a container, which psutil does not know, are read
from Linux control groups of both versions (`quantnas.data.free_memory`).
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from quantnas.data.free_memory import control_groups, memory_limit, text_of
from quantnas.training.processes import cores

NVIDIA_DRIVER = Path("/proc/driver/nvidia")


@dataclass(frozen=True)
class Resources:
    """What this process may use. All sizes are in bytes."""

    threads: int
    """Threads with which torch computes one operation."""
    cores: int
    """Processor cores on which this process may run."""
    cores_limit: float | None
    """Cores' worth of processor time that a container grants; None = no limit."""
    load: float
    """Number of processes that ran or waited for a core, on average over the last minute."""
    memory: int
    memory_free: int
    memory_limit: int | None
    """Memory that a container grants; None = no limit."""
    output: str
    """The folder in which run folders are made."""
    output_free: int
    output_writable: bool
    gpus: tuple[tuple[str, int], ...]
    """(name, memory) of every GPU that torch can use."""
    gpu_build: str | None
    """The GPU platform for which torch is built, such as CUDA 12.8; None = processors only."""
    gpu_driver: bool
    """Whether a driver of NVIDIA is installed."""


def read(output: Path) -> Resources:
    """The resources of this process; run folders are made in `output`, which need not exist."""
    memory, limit = psutil.virtual_memory(), memory_limit(control_groups("memory"))
    place = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [torch.cuda.get_device_properties(i) for i in range(count)]
    cuda, hip = torch.version.cuda, torch.version.hip
    return Resources(
        threads=torch.get_num_threads(),
        cores=cores(),
        cores_limit=cores_limit(control_groups("cpu")),
        load=psutil.getloadavg()[0],
        memory=memory.total,
        memory_free=memory.available,
        # version 1 states a huge number where there is no limit
        memory_limit=limit if limit is not None and limit < memory.total else None,
        output=str(output),
        output_free=shutil.disk_usage(place).free,
        output_writable=place.is_dir() and os.access(place, os.W_OK | os.X_OK),
        gpus=tuple((str(device.name), int(device.total_memory)) for device in devices),
        gpu_build=f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else None,
        gpu_driver=shutil.which("nvidia-smi") is not None or NVIDIA_DRIVER.exists(),
    )


def cores_limit(groups: Iterable[Path]) -> float | None:
    """Cores' worth of processor time that these control groups grant; None without a limit."""
    limits = []
    for group in groups:
        v1 = (text_of(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        for text in (text_of(group / "cpu.max"), " ".join(v1)):
            quota, period = [*text.split(), "", ""][:2]
            if quota.isdecimal():  # neither max nor -1
                limits.append(int(quota) / int(period))
    return min(limits, default=None)
