"""Runs many mutated files through `worker`, and gathers what went wrong."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.targets import Target

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases" / "fuzz"
"""Inputs that once failed: `<target>/<number>-<reader>-<what happened>/<path in the world>`."""
BEGINNING, SILENCE = 400, 40
"""Seconds before the first result, and without another one, after which a process is killed."""


@dataclass(frozen=True)
class Finding:
    """An input that raised what it must not."""

    kind: str
    """Where the input came from: `few`, `many` or `kept`."""
    target: str
    file: str
    """Path of the mutated file in the world."""
    content: bytes
    problem: str


@dataclass(frozen=True)
class Outcome:
    """What many inputs did."""

    found: tuple[Finding, ...]
    refused: tuple[tuple[str, str], ...]
    """(origin of the input, reader and error) of the errors of the project."""
    inputs: int


Job = dict[str, Any]
"""What `worker` does: `kind` and `target`, and a `seed`, or a `file` with its new `content`, and
perhaps the only `reader`."""


def random_jobs(kind: str, targets: Sequence[str], count: int) -> list[Job]:
    """`count` random inputs, spread evenly over the targets."""
    return [
        {"kind": kind, "target": targets[k % len(targets)], "seed": f"{kind}-{k}"}
        for k in range(count)
    ]


def kept_jobs(pages: bool) -> list[Job]:
    """The inputs below `CASES` that are read for pages, which takes long, or all others."""
    jobs = []
    for path in sorted(path for path in CASES.rglob("*") if path.is_file()):
        target, title, *inner = path.relative_to(CASES).parts
        file = {"file": str(Path(*inner)), "content": str(path), "reader": title.split("-")[1]}
        jobs.append({"kind": "kept", "target": target, **file})
    return [job for job in jobs if job["reader"].startswith("page") == pages]


def sound_jobs(targets: Mapping[str, Target], folder: Path) -> list[Job]:
    """Every file of a world in `folder`, unchanged."""
    return [
        {
            "kind": "sound",
            "target": name,
            "file": str(path.relative_to(folder)),
            "content": str(path),
        }
        for name, target in targets.items()
        for path in sorted(folder.glob(target.files[0]))
    ]


def outcome(jobs: list[Job], folder: Path) -> Outcome:
    """Do all jobs, each process going on behind an input that killed the one before."""
    found: list[Finding] = []
    refused: list[tuple[str, str]] = []
    count = len(jobs)
    for attempt in range(count + 1):
        rows = _run(jobs, folder / str(attempt))
        done = [row for row in rows if "done" in row]
        for row in done:
            job, content = jobs[row["done"]], bytes.fromhex(row["content"])
            about = job["kind"], job["target"], row["file"], content
            found += [Finding(*about, text) for text in row["found"]]
            refused += [(job["kind"], text) for text in row["refused"]]
        if len(done) == len(jobs):
            break
        assert rows, (folder / str(attempt) / "output.txt").read_text()
        job = jobs[len(done)]
        about = job["kind"], job["target"], "input", json.dumps(job).encode()
        found.append(Finding(*about, "the process died or hung"))
        jobs = jobs[len(done) + 1 :]
    return Outcome(tuple(found), tuple(refused), count)


def _run(jobs: list[Job], folder: Path) -> list[dict[str, Any]]:
    """The lines that one process wrote."""
    folder.mkdir(parents=True)
    listed, results = folder / "jobs.json", folder / "results.jsonl"
    listed.write_text(json.dumps(jobs))
    results.touch()
    command = [sys.executable, "-m", "tests.fuzz.worker", listed, results, folder / "base"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    cache = {"QUANTNAS_CACHE": str(folder / "cache")}
    with (folder / "output.txt").open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env | cache, stdout=out, stderr=out)
        _wait(process, results)
    return [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]


def _wait(process: subprocess.Popen[bytes], results: Path) -> None:
    """Wait until a process ends; kill it when its results have not grown for a while."""
    size, grown = 0, time.monotonic()
    while process.poll() is None:
        before, size = size, results.stat().st_size
        grown = time.monotonic() if size > before else grown
        if time.monotonic() - grown > (SILENCE if size else BEGINNING):
            process.kill()
        time.sleep(0.1)


def summary(found: Sequence[Finding], folder: Path) -> str:
    """The findings, one line for each kind; an example of each is written below `folder`."""
    return "\n".join(_lines(found, folder))


def _lines(found: Sequence[Finding], folder: Path) -> Iterator[str]:
    kinds: dict[str, list[Finding]] = {}
    for each in found:
        kinds.setdefault(f"{each.target} / {each.problem.split(' (')[0]}", []).append(each)
    for number, (kind, each) in enumerate(sorted(kinds.items()), 1):
        smallest = min(each, key=lambda one: len(one.content))
        reader, _, what = smallest.problem.partition(": ")
        what = "".join(c if c.isalnum() else "_" for c in what.partition(" (")[0])[:60]
        path = folder / smallest.target / f"{number:03d}-{reader}-{what}" / smallest.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(smallest.content)
        yield f"{len(each)} x {kind}: {smallest.problem.partition(' (')[2][:-1]}\n    {path}"
