"""Can this machine do what is offered here, and what helps where it cannot?

The judgements are functions of what was read (`requirements`, `machine`, `resources`), so they can
be asked about machines that are not at hand. `runnable` tries instead: it writes files and runs
them. Packages are judged in `requirements`, since nothing here can be imported without them.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from . import machine, resources, runnable, store
from .checks import Check
from .machine import Machine
from .phases import Progress
from .resources import Disk, Gpus, Memory, Threads

GIB, MIB = 1 << 30, 1 << 20
BUSY = 1.5
"""Load per core above which processes wait for each other."""
MEMORY_TAKEN = 700 * MIB
"""What `quantnas run` with its usual settings takes: 697 MiB at its highest, measured."""
MEMORY_NEED = 1536 * MIB
"""That, with room for larger batches and networks."""
DISK_LEAST = 10 * MIB
"""For a run with the usual settings: its folder holds 1.8 MB at the end, measured, and a state to
go on from while it lasts."""
DISK_NEED = 200 * MIB
"""For a search in the largest built-in space, whose supernet has 6.7 million parameters: 27 MB, and
twice 81 MB while a state to go on from, with three numbers for each, replaces the last one."""


@dataclass(frozen=True)
class Facts:
    """What was read."""

    machine: Machine
    threads: Threads
    memory: Memory | None
    output: Disk
    cache: Disk
    gpus: Gpus


def read(output: Path) -> Facts:
    """Of this machine; run folders are made in `output`."""
    here = machine.here()
    return Facts(
        here,
        resources.threads(here.cores),
        resources.memory(),
        resources.disk(output),
        resources.disk(store.folder()),
        resources.gpus(),
    )


def examine(output: Path) -> Generator[Progress, None, tuple[Facts, list[Check]]]:
    """What was read and what follows from it, with a record after every file that is tried."""
    facts, cases = read(output), runnable.cases()
    checks = list(judged(facts))
    for done, case in enumerate(cases, 1):
        checks.append(runnable.tried(case))
        yield Progress("files", done, len(cases), {})
    return facts, checks


def judged(facts: Facts) -> Iterator[Check]:
    """All that follows from what was read."""
    yield processor(facts.machine)
    yield from threads(facts.threads)
    yield memory(facts.memory)
    yield output(facts.output)
    yield cache(facts.cache)
    yield gpus(facts.gpus)


def processor(found: Machine) -> Check:
    """Whether it multiplies and adds 8-bit integers in one instruction."""
    cores = f"{found.cores} core{'s' if found.cores > 1 else ''}"
    told = f"{found.processor}, {cores} for this process"
    if found.features is None:
        return Check("processor", "ok", f"{told}; the system does not tell what it can.")
    has = ", ".join(name for name, there in found.features.items() if there) or "nothing of note"
    if found.lacks is None:
        return Check("processor", "ok", f"{told}; with {has}.")
    return Check(
        "processor",
        "note",
        f"{told}; with {has}, without {found.lacks}, so that 8-bit convolutions may take as long "
        "as those in float.",
        "Measure it with: quantnas bench plain-x4",
    )


def threads(found: Threads) -> Iterator[Check]:
    """Whether torch computes with as many threads as there are cores free."""
    told = f"torch computes with {_count(found.torch, 'thread')}"
    wanted = "is not set" if found.wanted is None else f"is {found.wanted}"
    allowed = found.cores if found.limit is None else min(found.cores, ceil(found.limit))
    if found.torch > allowed:
        why = f"this process may use {_count(found.cores, 'core')}"
        if found.limit is not None and found.limit < found.cores:
            why = f"a container leaves it the time of {found.limit:g}, of {found.cores} cores"
        yield Check(
            "threads",
            "problem",
            f"{told}, but {why}: they wait for each other.",
            f"Set OMP_NUM_THREADS={allowed}.",
        )
    else:
        limit = found.limit is not None and found.limit < found.cores
        of = f"; a container leaves the time of {found.limit:g} cores" if limit else ""
        yield Check("threads", "ok", f"{told}; OMP_NUM_THREADS {wanted}{of}.")
    if found.load is not None and found.load > BUSY * found.cores:
        remedy = "Set OMP_NUM_THREADS=1: two trainings that share cores slow each other down."
        if found.torch == 1:
            remedy = "Wait for other programs to end, or give everything more time."
        cause = f"The machine is busy: load {found.load:.1f} on {_count(found.cores, 'core')}."
        yield Check("load", "note", cause, remedy)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def memory(found: Memory | None) -> Check:
    """Whether a run fits."""
    if found is None:
        return Check("memory", "ok", "The system does not tell how much memory there is.")
    most = found.total if found.limit is None else found.limit
    free = most if found.available is None else min(found.available, most)
    told = f"{_size(found.total)}"
    told += f", {_size(found.available)} of it free" if found.available is not None else ""
    told += f"; a container leaves {_size(found.limit)}" if found.limit is not None else ""
    if free >= MEMORY_NEED:
        return Check("memory", "ok", f"{told}.")
    cause = f"{told}; `quantnas run` takes about {_size(MEMORY_TAKEN)}."
    if most < MEMORY_TAKEN:
        remedy = "Use a machine with more memory, or give the container more."
        return Check("memory", "problem", cause, remedy, fatal=True)
    short = free < MEMORY_TAKEN
    return Check("memory", "problem" if short else "note", cause, "End other programs first.")


def output(found: Disk) -> Check:
    """Whether a run folder can be made and filled."""
    told = f"{found.folder}: {_size(found.free)} free"
    if not found.writable:
        cause = f"Nothing can be written into {found.folder}, where run folders are made."
        remedy = "Give another folder with --output, or change the rights of this one."
        return Check("output", "problem", cause, remedy, fatal=True)
    if found.free >= DISK_NEED:
        return Check("output", "ok", f"{told}.")
    return Check(
        "output",
        "problem",
        f"{told}; a run writes some MB, and more with longer training.",
        "Make room, or give a folder on another disk with --output.",
        fatal=found.free < DISK_LEAST,
    )


def cache(found: Disk) -> Check:
    """Whether decoded photographs can be kept."""
    effect = "photographs are held in memory instead"
    if not found.writable:
        cause = f"Nothing can be written into {found.folder}: {effect}."
        remedy = "Set QUANTNAS_CACHE to a folder that can be written."
        return Check("cache", "note", cause, remedy)
    if found.free < store.FREE + DISK_NEED:
        cause = (
            f"{found.folder}: {_size(found.free)} free, of which the cache leaves "
            f"{_size(store.FREE)}: {effect}."
        )
        remedy = "Make room there, or set QUANTNAS_CACHE to a folder on another disk."
        return Check("cache", "note", cause, remedy)
    return Check("cache", "ok", f"{found.folder}: {_size(found.free)} free.")


def gpus(found: Gpus) -> Check:
    """Whether torch uses the GPUs that there are."""
    build = found.build or "processors alone"
    if found.devices:
        listed = ", ".join(f"{name} ({_size(size)})" for name, size in found.devices)
        return Check("GPU", "ok", f"{listed}; torch is built for {build}.")
    if found.build is None and found.driver:
        return Check(
            "GPU",
            "problem",
            "There is a driver of NVIDIA, but torch is built for processors alone.",
            "Install the CUDA build of torch, as https://pytorch.org/get-started says.",
        )
    if found.build is None:
        return Check("GPU", "ok", "None, and torch is built for processors alone.")
    if not found.driver:
        return Check("GPU", "ok", f"None; torch is built for {build} and computes without.")
    if found.visible is not None and found.visible.strip() in ("", "-1"):
        return Check("GPU", "note", "CUDA_VISIBLE_DEVICES hides all.", "Unset it to use them.")
    why = f": {found.trouble.rstrip('.')}" if found.trouble else ""
    return Check(
        "GPU",
        "problem",
        f"There is a driver of NVIDIA, but torch for {build} finds no GPU{why}.",
        "Update the driver, or install a torch for the version of CUDA that nvidia-smi shows.",
    )


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
