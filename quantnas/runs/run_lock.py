"""The lock of a run folder: one process at a time writes into a run, and says who it is.

The lock is that of the file `lock`, which the system releases when its process ends, however that
happens. The file `lock.json` beside it tells who holds it.
"""

import errno
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from quantnas.config import files
from quantnas.errors import DataError, UsageError

FILE, HOLDER = "lock", "lock.json"
WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
"""Errors of a file system that has no locks, such as NFS without their service."""


@contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder; a thread that holds it already may take it again.

    patience: seconds to wait for another process. Raises UsageError, which names that process,
    when it does not end, and DataError for a folder that cannot be written into. On a file system
    without locks nothing is held.
    """
    lock = _acquired(folder, patience)
    if lock is None:
        yield
        return
    try:
        _sign(folder)
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):
                (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquired(folder: Path, patience: float) -> FileLock | None:
    """The acquired lock of a folder; None on a file system without locks. Raises as `held`."""
    lock = FileLock(folder.resolve() / FILE, is_singleton=True)
    try:
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise UsageError(
            f"Another process is at work in {folder}{_holder(folder)}.", "Wait for it, or stop it."
        ) from error
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return None
        raise DataError(
            f"Nothing can be written into {folder}: {error.strerror}.",
            "Make the folder writable, or copy it.",
        ) from error
    return lock


def is_held(folder: Path) -> bool:
    """Whether another process or thread holds the lock of a folder."""
    try:
        with held(folder):
            return False
    except UsageError:
        return True


def _sign(folder: Path) -> None:
    """Write who holds the lock."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
    with suppress(OSError):  # it is only told to people
        files.write_text(folder / HOLDER, files.to_json(facts))


def _holder(folder: Path) -> str:
    """Who holds the lock, as the end of a sentence; empty where that is unknown."""
    try:
        facts = files.read_json(folder / HOLDER)
        return (
            f": process {facts['pid']} on {facts['host']}, since {facts['since']} "
            f"({str(facts['command'])[:200]})"
        )
    except (DataError, KeyError):
        return ""
