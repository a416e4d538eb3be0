"""The memory that this process may still take: of the machine, of a container, of the process.

psutil tells what the machine has. The limits of a container, which psutil does not know, are read
from Linux control groups of both versions.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import psutil

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def free_memory() -> int:
    """Bytes that this process may still take."""
    left = [psutil.virtual_memory().available]
    limit = memory_limit(control_groups("memory"))
    used = psutil.Process().memory_info()
    if limit is not None:
        left.append(limit - used.rss)
    if resource is not None:
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            left.append(most - used.vms)
    return max(0, min(left))


def control_groups(
    controller: str, membership: str | None = None, root: Path = CGROUPS
) -> list[Path]:
    """Folders that may limit this process, from its own control group outwards.

    controller: cpu or memory. membership: the text of /proc/self/cgroup, which is read where it is
    None. A container may not see its own group's path; its limits then stand in the root.
    """
    folders = []
    for line in (text_of(MEMBERSHIP) if membership is None else membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            mounts = [root]
        elif controller in controllers.split(","):
            mounts = [root / controllers, root / controller]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        folders += [mount / part for mount in mounts for part in (group, *group.parents)]
    return folders


def memory_limit(groups: Iterable[Path]) -> int | None:
    """Bytes of memory that these control groups grant; None without a limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [text_of(group / name).strip() for group in groups for name in names]
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def text_of(path: Path) -> str:
    """The text of a file, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
