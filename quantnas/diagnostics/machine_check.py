"""Checks whether this machine can do what quantnas offers, and names remedies where it cannot.

The checks are functions of the facts that were read (`processor`, `resources`), so they can be
tested for machines that are not at hand. `export_trials` tries the export of every form of file.
Packages are checked in `packages`, since this module cannot be imported without them.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from quantnas.evaluation.processor import Machine, here
from quantnas.progress import Progress

from . import export_trials, resources
from .findings import Check
from .resources import Resources

GIB, MIB = 1 << 30, 1 << 20
BUSY = 1.5
"""Load per core above which processes wait for each other."""
MEMORY_TAKEN = 700 * MIB
"""Memory that `quantnas run` with its default settings takes: a measured peak of 697 MiB."""
MEMORY_NEED = 1536 * MIB
"""`MEMORY_TAKEN` with room for larger batches and networks."""
DISK_LEAST = 10 * MIB
"""Disk space for a run with the default settings: its folder holds 1.8 MB at the end, measured,
and a saved state while it lasts."""
DISK_NEED = 200 * MIB
"""Disk space for a search in the largest built-in space, whose supernet has 6.7 million parameters:
27 MB, and twice 81 MB while a saved state, with three numbers for each, replaces the last one."""


@dataclass(frozen=True)
class Facts:
    """The facts that were read from a machine."""

    machine: Machine
    resources: Resources


def read(output: Path) -> Facts:
    """The facts of this machine; run folders are made in `output`."""
    return Facts(here(), resources.read(output))


def examine(output: Path) -> Generator[Progress, None, tuple[Facts, list[Check]]]:
    """The facts and checks of this machine; yields progress after every export trial."""
    facts, cases = read(output), export_trials.CASES
    checks = [processor(facts.machine), *judged(facts.resources)]
    for done, case in enumerate(cases, 1):
        checks.append(export_trials.tried(case))
        yield Progress("files", done, len(cases), {})
    return facts, checks


def processor(machine: Machine) -> Check:
    """The check whether the processor multiplies and adds 8-bit integers in one instruction."""
    facts = f"{machine.processor}, {_count(machine.cores, 'core')} for this process"
    if machine.features is None:
        return Check("processor", "ok", f"{facts}; torch does not tell its instructions.")
    facts += f"; with {', '.join(k for k, v in machine.features.items() if v) or 'nothing of note'}"
    if machine.lacks is None:
        return Check("processor", "ok", f"{facts}.")
    return Check(
        "processor",
        "note",
        f"{facts}, without {machine.lacks}, so that 8-bit convolutions may take as long as those "
        "in float.",
        "Measure it with: quantnas bench plain-x4",
    )


def judged(available: Resources) -> Iterator[Check]:
    """The checks of threads, load, memory, output folder and GPUs."""
    yield threads(available)
    if available.load > BUSY * available.cores:
        remedy = "Wait for other programs to end, or give everything more time."
        cause = (
            f"The machine is busy: load {available.load:.1f} on {_count(available.cores, 'core')}."
        )
        yield Check("load", "note", cause, remedy)
    yield memory(available)
    yield output(available)
    yield gpus(available)


def threads(available: Resources) -> Check:
    """The check whether torch computes with more threads than this process has cores."""
    allowed, why = available.cores, f"this process may use {_count(available.cores, 'core')}"
    if available.cores_limit is not None and available.cores_limit < available.cores:
        allowed = ceil(available.cores_limit)
        why = f"a container grants the time of {available.cores_limit:g} of {available.cores} cores"
    facts = f"torch computes with {_count(available.threads, 'thread')}"
    if available.threads <= allowed:
        return Check("threads", "ok", f"{facts}; {why}.")
    cause = f"{facts}, but {why}: the threads wait for each other."
    return Check("threads", "problem", cause, f"Set OMP_NUM_THREADS={allowed}.")


def memory(available: Resources) -> Check:
    """The check whether a run fits into memory."""
    most = available.memory if available.memory_limit is None else available.memory_limit
    free = min(available.memory_free, most)
    facts = f"{_size(available.memory)}, {_size(available.memory_free)} of it free"
    facts += f"; a container grants {_size(most)}" if available.memory_limit is not None else ""
    if free >= MEMORY_NEED:
        return Check("memory", "ok", f"{facts}.")
    cause = f"{facts}; `quantnas run` takes about {_size(MEMORY_TAKEN)}."
    if most < MEMORY_TAKEN:
        remedy = "Use a machine with more memory, or give the container more."
        return Check("memory", "problem", cause, remedy, fatal=True)
    short = free < MEMORY_TAKEN
    return Check("memory", "problem" if short else "note", cause, "End other programs first.")


def output(available: Resources) -> Check:
    """The check whether a run folder can be created and filled."""
    if not available.output_writable:
        cause = f"Nothing can be written into {available.output}, where run folders are made."
        remedy = "Give another folder with --output, or change the rights of this one."
        return Check("output", "problem", cause, remedy, fatal=True)
    facts = f"{available.output}: {_size(available.output_free)} free"
    if available.output_free >= DISK_NEED:
        return Check("output", "ok", f"{facts}.")
    return Check(
        "output",
        "problem",
        f"{facts}; a run writes some MB, and more with longer training.",
        "Make room, or give a folder on another disk with --output.",
        fatal=available.output_free < DISK_LEAST,
    )


def gpus(available: Resources) -> Check:
    """The check whether torch can use the GPUs of the machine."""
    build = f"torch is built for {available.gpu_build or 'processors alone'}"
    if available.gpus:
        listed = ", ".join(f"{name} ({_size(size)})" for name, size in available.gpus)
        return Check("GPU", "ok", f"{listed}; {build}.")
    if not available.gpu_driver:
        return Check("GPU", "ok", f"None; {build}.")
    remedy = "Install the CUDA build of torch, as https://pytorch.org/get-started says."
    if available.gpu_build is not None:
        remedy = (
            "Unset CUDA_VISIBLE_DEVICES if it hides the GPU, update the driver, or install a torch "
            "for the version of CUDA that nvidia-smi shows."
        )
    cause = f"A driver of NVIDIA is installed, but torch finds no GPU: {build}."
    return Check("GPU", "problem", cause, remedy)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    """A number of bytes, in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
