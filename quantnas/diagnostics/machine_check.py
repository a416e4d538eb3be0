"""Can this machine do what quantnas offers, and what helps where it cannot?

The judgements are functions of what was read (`machine`, `resources`), so they can be asked about
machines that are not at hand. `runnable` tries the export of every form of file instead. Packages
are judged in `requirements`, since nothing here can be imported without them.
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
    """What was read of a machine."""

    machine: Machine
    resources: Resources


def read(output: Path) -> Facts:
    """The facts of this machine; run folders are made in `output`."""
    return Facts(here(), resources.read(output))


def examine(output: Path) -> Generator[Progress, None, tuple[Facts, list[Check]]]:
    """What was read and what follows from it, with a record after every file that is tried."""
    facts, cases = read(output), export_trials.CASES
    checks = [processor(facts.machine), *judged(facts.resources)]
    for done, case in enumerate(cases, 1):
        checks.append(export_trials.tried(case))
        yield Progress("files", done, len(cases), {})
    return facts, checks


def processor(found: Machine) -> Check:
    """Whether it multiplies and adds 8-bit integers in one instruction."""
    told = f"{found.processor}, {_count(found.cores, 'core')} for this process"
    if found.features is None:
        return Check("processor", "ok", f"{told}; torch does not tell its instructions.")
    told += f"; with {', '.join(k for k, v in found.features.items() if v) or 'nothing of note'}"
    if found.lacks is None:
        return Check("processor", "ok", f"{told}.")
    return Check(
        "processor",
        "note",
        f"{told}, without {found.lacks}, so that 8-bit convolutions may take as long as those in "
        "float.",
        "Measure it with: quantnas bench plain-x4",
    )


def judged(found: Resources) -> Iterator[Check]:
    """Everything that follows from the resources."""
    yield threads(found)
    if found.load > BUSY * found.cores:
        remedy = "Wait for other programs to end, or give everything more time."
        cause = f"The machine is busy: load {found.load:.1f} on {_count(found.cores, 'core')}."
        yield Check("load", "note", cause, remedy)
    yield memory(found)
    yield output(found)
    yield gpus(found)


def threads(found: Resources) -> Check:
    """Whether torch computes with more threads than there are cores for this process."""
    allowed, why = found.cores, f"this process may use {_count(found.cores, 'core')}"
    if found.cores_limit is not None and found.cores_limit < found.cores:
        allowed = ceil(found.cores_limit)
        why = f"a container grants the time of {found.cores_limit:g} of {found.cores} cores"
    told = f"torch computes with {_count(found.threads, 'thread')}"
    if found.threads <= allowed:
        return Check("threads", "ok", f"{told}; {why}.")
    cause = f"{told}, but {why}: the threads wait for each other."
    return Check("threads", "problem", cause, f"Set OMP_NUM_THREADS={allowed}.")


def memory(found: Resources) -> Check:
    """Whether a run fits into memory."""
    most = found.memory if found.memory_limit is None else found.memory_limit
    free = min(found.memory_free, most)
    told = f"{_size(found.memory)}, {_size(found.memory_free)} of it free"
    told += f"; a container grants {_size(most)}" if found.memory_limit is not None else ""
    if free >= MEMORY_NEED:
        return Check("memory", "ok", f"{told}.")
    cause = f"{told}; `quantnas run` takes about {_size(MEMORY_TAKEN)}."
    if most < MEMORY_TAKEN:
        remedy = "Use a machine with more memory, or give the container more."
        return Check("memory", "problem", cause, remedy, fatal=True)
    short = free < MEMORY_TAKEN
    return Check("memory", "problem" if short else "note", cause, "End other programs first.")


def output(found: Resources) -> Check:
    """Whether a run folder can be made and filled."""
    if not found.output_writable:
        cause = f"Nothing can be written into {found.output}, where run folders are made."
        remedy = "Give another folder with --output, or change the rights of this one."
        return Check("output", "problem", cause, remedy, fatal=True)
    told = f"{found.output}: {_size(found.output_free)} free"
    if found.output_free >= DISK_NEED:
        return Check("output", "ok", f"{told}.")
    return Check(
        "output",
        "problem",
        f"{told}; a run writes some MB, and more with longer training.",
        "Make room, or give a folder on another disk with --output.",
        fatal=found.output_free < DISK_LEAST,
    )


def gpus(found: Resources) -> Check:
    """Whether torch uses the GPUs that there are."""
    build = f"torch is built for {found.gpu_build or 'processors alone'}"
    if found.gpus:
        listed = ", ".join(f"{name} ({_size(size)})" for name, size in found.gpus)
        return Check("GPU", "ok", f"{listed}; {build}.")
    if not found.gpu_driver:
        return Check("GPU", "ok", f"None; {build}.")
    remedy = "Install the CUDA build of torch, as https://pytorch.org/get-started says."
    if found.gpu_build is not None:
        remedy = (
            "Unset CUDA_VISIBLE_DEVICES if it hides the GPU, update the driver, or install a torch "
            "for the version of CUDA that nvidia-smi shows."
        )
    cause = f"A driver of NVIDIA is installed, but torch finds no GPU: {build}."
    return Check("GPU", "problem", cause, remedy)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
