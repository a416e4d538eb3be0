"""How long models take in ONNX Runtime, each beside its own float network.

All of them run by turns, so that a busy machine hits all alike; ratios are taken within a round.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from quantnas.architectures import cost
from quantnas.errors import DataError, UsageError
from quantnas.inference.upscaler import SMALL
from quantnas.onnx_import.onnx_session import cannot_load, open_session
from quantnas.progress import Progress
from quantnas.runs.models import Model

from . import float_reference
from .processor import Machine

SIZE = (180, 320)
"""(height, width) of the low-resolution image where nothing else is said: at x4, 1280x720."""
LEAST = 3
"""Rounds at least, whatever the time."""
WARM = 2
"""Runs of every model before the first round."""
ALONE = 0.8
"""Share of the time that a model on one thread computes, unless others want the core too."""
FEWER = (
    "Below 8 bits ONNX Runtime computes in 8-bit integers: fewer bits make the file smaller, not "
    "faster."
)
KINDS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
"""Type of a file's input -> that of an image in [0, 1], or from 0 to 255."""


@dataclass(frozen=True)
class Setting:
    """How it is measured."""

    size: tuple[int, int] | None = None
    """(height, width) of the low-resolution image; none: the file's own, else `SIZE`."""
    threads: int = 1
    seconds: float = 10.0
    """For each model with its float network, where `rounds` is not given."""
    rounds: int | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"`threads` is {self.threads}, it must be at least 1")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"`seconds` is {self.seconds:g}, it must be above 0")
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"`rounds` is {self.rounds}, it must be at least 1")


@dataclass(frozen=True)
class Spread:
    """Of one number over all rounds."""

    median: float
    low: float
    """A quarter of the rounds lie below."""
    high: float
    """A quarter lie above."""
    least: float


@dataclass(frozen=True)
class Times:
    """Milliseconds of one run."""

    wall: Spread
    cpu: Spread
    """Processor time of all threads."""


@dataclass(frozen=True)
class Row:
    """One model."""

    name: str
    what: str
    bytes: int
    weight_bits: tuple[int, int] | None
    """Least and most of all layers; none where the file does not say it."""
    act_bits: tuple[int, int] | None
    bitops: int | None
    """At the size that was measured."""
    times: Times
    float_times: Times | None
    """Of its float network; none for a model that is in float itself."""
    ratio: Times | None
    """Of both, round by round: below 1, the integers are faster."""


@dataclass(frozen=True)
class Result:
    """What was measured."""

    size: tuple[int, int]
    threads: int
    rounds: int
    rows: tuple[Row, ...]


Runs = Mapping[str, Callable[[], object]]
"""Name -> what is timed."""
Taken = dict[str, list[tuple[float, float]]]
"""Name -> (seconds, seconds of processor time) of every round."""


def now() -> tuple[float, float]:
    """(seconds, seconds of processor time) since some moment."""
    return time.perf_counter(), time.process_time()


def measure(models: Sequence[Model], setting: Setting) -> Generator[Progress, None, Result]:
    """Time models; the result is the generator's.

    Raises UsageError for a model that is no ONNX file or takes another size alone, DataError for
    one that cannot be run.
    """
    for model in models:
        _require_file(model)
    sessions = {model.name: session(model.file, setting.threads, model.what) for model in models}
    size = _size({name: _own_size(run) for name, run in sessions.items()}, setting.size)
    runs: dict[str, Callable[[], object]] = {}
    for model in models:
        runs[model.name] = runner(sessions[model.name], size, model.what)
        twin = float_reference.make(onnx.load(model.file))
        if twin is not None:
            what = f"the float network of {model.what}"
            made = session(twin.SerializeToString(), setting.threads, what)
            runs[_float(model.name)] = runner(made, size, what)
    taken = yield from by_turns(runs, setting.seconds * len(models), setting.rounds)
    rows = tuple(_row(model, size, taken) for model in models)
    return Result(size, setting.threads, len(taken[models[0].name]), rows)


def by_turns(runs: Runs, seconds: float, rounds: int | None) -> Generator[Progress, None, Taken]:
    """One after the other, round after round, for that time or that many rounds."""
    for _ in range(WARM):
        for run in runs.values():
            run()
    taken: Taken = {name: [] for name in runs}
    began, done, total = now()[0], 0, rounds or LEAST
    while done < total:
        for name, run in runs.items():
            before = now()
            run()
            after = now()
            taken[name].append((after[0] - before[0], after[1] - before[1]))
        done += 1
        if rounds is None:
            each = (now()[0] - began) / done
            total = max(LEAST, done, round(seconds / each) if each else done)
        first, spent = next(iter(taken.items()))
        facts = {first: f"{1000 * float(np.median([t[0] for t in spent])):.1f} ms"}
        yield Progress("bench", done, total, facts)
    return taken


def session(file: Path | bytes, threads: int, what: str, **options: Any) -> ort.InferenceSession:
    """A file at the default optimisation level; DataError when it does not load."""
    try:  # threads that wait for the next run would take the cores from the next model
        return open_session(file, threads=threads, spinning=False, **options)
    except Exception as error:
        raise cannot_load(what, error) from error


def runner(run: ort.InferenceSession, size: tuple[int, int], what: str) -> Callable[[], object]:
    """A run on an image of noise; DataError when the network cannot take that size."""
    given = run.get_inputs()[0]
    channels = 1 if given.shape[1] == 1 else 3
    pixels = np.random.default_rng(0).integers(0, 256, (1, channels, *size), np.uint8)
    kind = KINDS[given.type]
    image = pixels if kind == np.uint8 else (pixels / 255).astype(kind)

    def once() -> object:
        try:
            return run.run(None, {given.name: image})
        except Exception as error:  # ONNX Runtime has no class for what is wrong with an image
            raise _cannot(what, size, error) from error

    return once


def _cannot(what: str, size: tuple[int, int], error: Exception) -> DataError:
    cause = f"{what} cannot enlarge an image of {size[0]}x{size[1]}"
    if min(size) < SMALL:
        return DataError(f"{cause}: that is too small for it.", "Give a larger --size.")
    return DataError(f"{cause}: {' '.join(str(error).split())}", "Give a smaller --size.")


def _require_file(model: Model) -> None:
    if model.file.suffix != ".onnx":
        raise UsageError(
            f"The {model.what} is no ONNX file.",
            "Export it first, with `quantnas export`, and give the exported file.",
        )


def _own_size(run: ort.InferenceSession) -> tuple[int, int] | None:
    """The only (height, width) that a file takes; none where it takes any."""
    height, width = run.get_inputs()[0].shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _size(
    own: Mapping[str, tuple[int, int] | None], wanted: tuple[int, int] | None
) -> tuple[int, int]:
    """(height, width) for all; UsageError when one of them takes another alone."""
    fixed = {name: size for name, size in own.items() if size is not None}
    size = wanted or next(iter(fixed.values()), SIZE)
    for name, only in fixed.items():
        if only != size:
            raise UsageError(
                f"{name} takes images of {only[0]}x{only[1]} alone, not of {size[0]}x{size[1]}.",
                f"Give --size {only[0]}x{only[1]}, or files that take any size.",
            )
    return size


def _float(name: str) -> str:
    return f"{name} in float"


def _row(model: Model, size: tuple[int, int], taken: Taken) -> Row:
    mine = np.array(taken[model.name])
    beside = np.array(taken[_float(model.name)]) if _float(model.name) in taken else None
    layers = model.cost.layers if model.cost else ()
    weights, acts = [row.weight_bits for row in layers], [row.act_bits for row in layers]
    return Row(
        model.name,
        model.what,
        model.file.stat().st_size,
        (min(weights), max(weights)) if layers else None,
        (min(acts), max(acts)) if layers else None,
        cost.bitops_at(layers, size, model.scale) if layers else None,
        _times(1000 * mine),
        None if beside is None else _times(1000 * beside),
        None if beside is None else _times(mine / np.maximum(beside, 1e-9)),
    )


def _times(found: Any) -> Times:
    """(rounds, 2) -> what of both columns is shown."""
    wall, cpu = (
        Spread(*(float(np.percentile(column, at)) for at in (50, 25, 75, 0))) for column in found.T
    )
    return Times(wall, cpu)


def notes(result: Result, machine: Machine) -> list[str]:
    """What the figures mean, in sentences."""
    found = [*_busy(result)]
    lacks = f"the processor has no {machine.lacks}" if machine.lacks else ""
    for row in result.rows:
        if row.ratio is not None and row.ratio.wall.median >= 1:
            why = lacks or "--per-layer shows what takes the time"
            found.append(f"warning: {row.name} is not faster than float on this machine; {why}")
    least = [bits[0] for row in result.rows for bits in (row.weight_bits, row.act_bits) if bits]
    return [*found, FEWER] if least and min(least) < 8 else found


def _busy(result: Result) -> Iterator[str]:
    """What to say where others wanted the core too; of several threads that is not known."""
    share = min(row.times.cpu.median / row.times.wall.median for row in result.rows)
    if result.threads == 1 and share < ALONE:
        ratios = [
            f"{row.ratio.cpu.median:.2f} ({row.name})"
            for row in result.rows
            if row.ratio is not None
        ]
        by = f"; by processor time the ratio is {', '.join(ratios)}" if ratios else ""
        yield f"warning: the machine is busy, a model had only {share:.0%} of a core{by}"
