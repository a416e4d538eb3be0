"""A process that reads mutated files, with a limit of memory and of time for each of them.

`python -m tests.fuzz.worker JOBS RESULTS FOLDER` does the jobs in the JSON file JOBS, and appends a
line to RESULTS before and after each of them. `harness` starts it.
"""

import json
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch

from quantnas.errors import QuantnasError
from tests.fuzz import world
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, Reader

MEMORY = 2 * 2**30
"""Bytes that reading a file may need beyond what the process has."""
SECONDS = 10
"""Seconds that reading a file may take."""
ROOT = str(Path(__file__).parents[2])


class TooSlow(BaseException):
    """Reading a file took too long; no `except Exception` of a parser hides it."""


def limit_memory() -> None:
    """Let the process have only `MEMORY` more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def limited() -> Iterator[None]:
    """Raise TooSlow after `SECONDS` seconds."""

    def stop(number: int, frame: Any) -> None:
        raise TooSlow(f"not read within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Files:
    """All files below a folder as they are now, to which they can be put back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents = {path: path.read_bytes() for path in self.present()}
        self.stamps = {path: self.stamp(path) for path in self.contents}

    def present(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() or path.is_symlink()]

    def stamp(self, path: Path) -> tuple[int, int]:
        stat = path.lstat()
        return stat.st_mtime_ns, stat.st_size

    def put_back(self) -> list[Path]:
        """Undo every change of files; the paths that had changed."""
        changed = []
        for path in {*self.present(), *self.contents}:
            known = self.stamps.get(path)
            if path.exists() and known == self.stamp(path):
                continue
            changed.append(path)
            if known is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.contents[path])
                self.stamps[path] = self.stamp(path)
        return changed


def signature(error: BaseException) -> str:
    """Type of an exception, and the last function of the project that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(ROOT) and "/tests/" not in f.filename]
    at = own[-1] if own else frames[-1]
    name = Path(at.filename)
    return f"{type(error).__name__} in {name.parent.name}/{name.name}:{at.name}"


def read(reader: Reader, folder: Path, file: Path) -> tuple[str | None, str | None]:
    """(message of the project's error, signature of any other error) of reading a file."""
    try:
        with limited():
            reader(folder, file)
    except QuantnasError as error:
        return str(error), None
    except (Exception, TooSlow, SystemExit) as error:
        return None, f"{signature(error)} ({str(error)[:120]})"
    return None, None


def inputs(job: dict[str, Any], folder: Path) -> tuple[Path, bytes]:
    """The file that a job replaces, and its new content."""
    if "file" in job:
        return folder / job["file"], Path(job["content"]).read_bytes()
    rng = Random(f"{job['target']} {job['seed']}")
    patterns = TARGETS[job["target"]].files
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    file = rng.choice(files)
    return file, mutated(file.name, file.read_bytes(), rng)


def perform(job: dict[str, Any], files: Files, folder: Path) -> dict[str, Any]:
    """Do one job; what came out."""
    file, content = inputs(job, folder)
    file.write_bytes(content)
    found, refused = [], []
    for reader in TARGETS[job["target"]].readers:
        if reader.__name__ != job.get("reader", reader.__name__):
            continue
        message, problem = read(reader, folder, file)
        if message is not None:
            refused.append(f"{reader.__name__}: {message}")
        if problem is not None:
            found.append(f"{reader.__name__}: {problem}")
        outside = [path for path in files.put_back() if not path.is_relative_to(folder)]
        if outside:
            found.append(f"{reader.__name__}: changed {outside[0].name} outside of its folder")
        file.write_bytes(content)
    files.put_back()
    name = str(file.relative_to(folder))
    return {"file": name, "content": content.hex(), "found": found, "refused": refused}


def main(arguments: list[str]) -> None:
    """Do the jobs in a file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    jobs, results, base = map(Path, arguments)
    folder = world.make(base)
    os.chdir(folder)
    files = Files(base)
    limit_memory()
    with results.open("a", encoding="utf-8", buffering=1) as out:
        for number, job in enumerate(json.loads(jobs.read_text(encoding="utf-8"))):
            out.write(json.dumps({"begins": number}) + "\n")
            row = perform(job, files, folder)
            out.write(json.dumps({"done": number, **row}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
