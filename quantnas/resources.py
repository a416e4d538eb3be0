"""What this process may use of the machine: time of cores, memory, disk, GPUs; read, not judged.

Parsing stands apart from reading, and takes the texts that Linux gives. Other systems tell less:
there, what is not known is None.
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
DRIVER = Path("/proc/driver/nvidia")


@dataclass(frozen=True)
class Threads:
    """What a process computes with, and what it gets."""

    torch: int
    """Threads that torch computes one operation with."""
    wanted: str | None
    """OMP_NUM_THREADS."""
    cores: int
    """That this process may run on."""
    limit: float | None
    """Cores' worth of time that a container leaves to it."""
    load: float | None
    """Processes that wanted a core, on average over the last minute."""


@dataclass(frozen=True)
class Memory:
    """In bytes."""

    total: int
    available: int | None
    limit: int | None = None
    """What a container leaves."""


@dataclass(frozen=True)
class Disk:
    """Where a folder is, or will be."""

    folder: str
    free: int
    """Bytes."""
    writable: bool


@dataclass(frozen=True)
class Gpus:
    """What torch can compute on, and whether there is more."""

    build: str | None
    """What torch was built for, as CUDA 12.8; none = processors alone."""
    devices: tuple[tuple[str, int], ...]
    """(name, bytes of memory)"""
    driver: bool
    """Whether a driver of NVIDIA is installed."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    trouble: str = ""
    """What torch says where it finds none."""


def threads(cores: int) -> Threads:
    """Of this process."""
    limit = cores_allowed(_text(MEMBERSHIP))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Threads(torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), cores, limit, load)


def cores_allowed(membership: str, root: Path = CGROUPS) -> float | None:
    """Cores' worth of time that the groups of a process have, those around them included.

    membership: /proc/self/cgroup; both versions of control groups are understood.
    """
    found = []
    for folder in _folders(membership, "cpu", root):
        found.append(quota(_text(folder / "cpu.max")))
        v1 = (_text(folder / f"cpu.cfs_{what}_us") for what in ("quota", "period"))
        found.append(quota(" ".join(v1)))
    return min((cores for cores in found if cores is not None), default=None)


def quota(text: str) -> float | None:
    """Cores' worth of time in "quota period"; none where there is no limit."""
    parts = text.split()
    try:
        used, period = (int(part) for part in parts)
    except ValueError:  # max, or nothing at all
        return None
    return used / period if used > 0 and period > 0 else None


def memory_allowed(membership: str, root: Path = CGROUPS) -> int | None:
    """The least limit of the groups of a process, in bytes."""
    names = ("memory.max", "memory.limit_in_bytes")
    folders = _folders(membership, "memory", root)
    texts = [_text(folder / name).strip() for folder in folders for name in names]
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _folders(membership: str, controller: str, root: Path) -> Iterator[Path]:
    """Where the limits of a process may stand, from its own group outwards."""
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounts = [root / controllers, root / controller] if controllers else [root]
        parts = [] if ".." in path else [part for part in path.split("/") if part]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])


def memory() -> Memory | None:
    """Of this machine; none where the system does not tell."""
    limit = memory_allowed(_text(MEMBERSHIP))
    found = in_meminfo(_text(MEMINFO))
    if "MemTotal" in found:
        total, available = found["MemTotal"], found.get("MemAvailable")
    else:
        try:
            total, available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
        except (AttributeError, ValueError, OSError):
            return None
    if limit is None or limit >= total:  # v1 states a huge number where there is no limit
        return Memory(total, available)
    return Memory(total, available, limit)


def in_meminfo(text: str) -> dict[str, int]:
    """Name -> bytes, of /proc/meminfo."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if number.isdecimal() and unit == "kB":
            found[name] = 1024 * int(number)
    return found


def disk(folder: Path) -> Disk:
    """Of a folder, or of where it will be made."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    able = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return Disk(str(folder), shutil.disk_usage(place).free, able)


def gpus() -> Gpus:
    """That torch sees."""
    cuda, hip = torch.version.cuda, getattr(torch.version, "hip", None)
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [torch.cuda.get_device_properties(i) for i in range(seen)]
    return Gpus(
        build,
        tuple((str(device.name), int(device.total_memory)) for device in devices),
        shutil.which("nvidia-smi") is not None or DRIVER.exists(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        " ".join(str(told[0].message).split()) if told else "",
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
