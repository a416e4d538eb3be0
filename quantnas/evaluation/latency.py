"""Latency of models in ONNX Runtime, each compared with its own float reference.

All models run by turns, so that a busy machine slows all alike; ratios are taken within a round.
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

from . import float_reference, session_noise
from .processor import Machine

SIZE = (180, 320)
"""Default (height, width) of the low-resolution image: at x4, the output is 1280x720."""
LEAST = 3
"""Minimum number of rounds, whatever the time limit."""
WARM = 2
"""Warm-up runs of every model before the first round."""
ALONE = 0.8
"""Least share of processor time in wall time of a single thread that has a core to itself."""
FEWER = (
    "Below 8 bits ONNX Runtime computes in 8-bit integers: fewer bits make the file smaller, not "
    "faster."
)


@dataclass(frozen=True)
class Setting:
    """The settings of a measurement."""

    size: tuple[int, int] | None = None
    """(height, width) of the low-resolution image; None: the file's own size, else `SIZE`."""
    threads: int = 1
    seconds: float = 10.0
    """Time for each model and its float reference, where `rounds` is None."""
    rounds: int | None = None
    """Number of rounds; None: as many as fit into `seconds`."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"`threads` is {self.threads}, it must be at least 1")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"`seconds` is {self.seconds:g}, it must be above 0")
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"`rounds` is {self.rounds}, it must be at least 1")


@dataclass(frozen=True)
class Spread:
    """The distribution of one quantity over all rounds."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    least: float
    """Minimum."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one inference (a ratio of milliseconds in `Row.ratio`)."""

    wall: Spread
    cpu: Spread
    """Processor time, summed over all threads."""


@dataclass(frozen=True)
class Row:
    """The measurements of one model."""

    name: str
    what: str
    bytes: int
    weight_bits: tuple[int, int] | None
    """(least, most) over all layers; None where the file does not state them."""
    act_bits: tuple[int, int] | None
    """(least, most) over all layers; None where the file does not state them."""
    bitops: int | None
    """BitOps at the measured image size."""
    times: Times
    float_times: Times | None
    """Times of the float reference; None for a model that is in float itself."""
    ratio: Times | None
    """Time of the model over that of its float reference, round by round; below 1 it is faster."""


@dataclass(frozen=True)
class Result:
    """The measurements of all models."""

    size: tuple[int, int]
    threads: int
    rounds: int
    rows: tuple[Row, ...]


Runs = Mapping[str, Callable[[], object]]
"""Name -> the function that is timed."""
Taken = dict[str, list[tuple[float, float]]]
"""Name -> (wall time, processor time) of every round, seconds."""


def now() -> tuple[float, float]:
    """(wall time, processor time) in seconds since an arbitrary moment."""
    return time.perf_counter(), time.process_time()


def measure(models: Sequence[Model], setting: Setting) -> Generator[Progress, None, Result]:
    """Time models; yields progress, and returns the measurements.

    Raises UsageError for a model that is no ONNX file or only takes another image size, DataError
    for a model that cannot be run.
    """
    for model in models:
        _require_file(model)
    sessions = {model.name: session(model.file, setting.threads, model.what) for model in models}
    size = _size(
        {name: session_noise.own_size(run) for name, run in sessions.items()}, setting.size
    )
    runs: dict[str, Callable[[], object]] = {}
    for model in models:
        runs[model.name] = runner(sessions[model.name], size, model.what)
        reference = float_reference.make(onnx.load(model.file))
        if reference is not None:
            what = f"the float network of {model.what}"
            made = session(reference.SerializeToString(), setting.threads, what)
            runs[_float(model.name)] = runner(made, size, what)
    taken = yield from by_turns(runs, setting.seconds * len(models), setting.rounds)
    rows = tuple(_row(model, size, taken) for model in models)
    return Result(size, setting.threads, len(taken[models[0].name]), rows)


def by_turns(runs: Runs, seconds: float, rounds: int | None) -> Generator[Progress, None, Taken]:
    """Time all functions once a round, for `seconds` or, if it is given, for `rounds` rounds."""
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
    """An ONNX Runtime session at the default optimisation level.

    Raises DataError when the file cannot be loaded.
    """
    try:  # threads that wait for the next run would take the cores from the next model
        return open_session(file, threads=threads, spinning=False, **options)
    except Exception as error:
        raise cannot_load(what, error) from error


def runner(run: ort.InferenceSession, size: tuple[int, int], what: str) -> Callable[[], object]:
    """A function that runs a session on an image of noise of (height, width) `size`.

    The function raises DataError when the network cannot take that size.
    """
    image = session_noise.noise(run, size)

    def once() -> object:
        try:
            return run.run(None, image)
        except Exception as error:  # ONNX Runtime has no exception class for a bad image
            raise _size_error(what, size, error) from error

    return once


def _size_error(what: str, size: tuple[int, int], error: Exception) -> DataError:
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


def _size(
    own: Mapping[str, tuple[int, int] | None], requested: tuple[int, int] | None
) -> tuple[int, int]:
    """The (height, width) for all models. Raises UsageError when one only takes another size."""
    fixed = {name: size for name, size in own.items() if size is not None}
    size = requested or next(iter(fixed.values()), SIZE)
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
    times, reference = np.array(taken[model.name]), taken.get(_float(model.name))
    float_times = None if reference is None else np.array(reference)
    layers = model.cost.layers if model.cost else ()
    weights, acts = [row.weight_bits for row in layers], [row.act_bits for row in layers]
    return Row(
        model.name,
        model.what,
        model.file.stat().st_size,
        (min(weights), max(weights)) if layers else None,
        (min(acts), max(acts)) if layers else None,
        cost.bitops_at(layers, size, model.scale) if layers else None,
        _spreads(1000 * times),
        None if float_times is None else _spreads(1000 * float_times),
        None if float_times is None else _spreads(times / np.maximum(float_times, 1e-9)),
    )


def _spreads(rounds: Any) -> Times:
    """The spreads of both columns of an array (rounds, 2)."""
    wall, cpu = (
        Spread(*(float(np.percentile(column, at)) for at in (50, 25, 75, 0))) for column in rounds.T
    )
    return Times(wall, cpu)


def notes(result: Result, machine: Machine) -> list[str]:
    """Sentences that explain the measurements, such as warnings about a busy machine."""
    sentences = [*_busy(result)]
    missing = f"the processor has no {machine.lacks}" if machine.lacks else ""
    for row in result.rows:
        if row.ratio is not None and row.ratio.wall.median >= 1:
            why = missing or "--per-layer shows what takes the time"
            sentences.append(f"warning: {row.name} is not faster than float on this machine; {why}")
    least = [bits[0] for row in result.rows for bits in (row.weight_bits, row.act_bits) if bits]
    return [*sentences, FEWER] if least and min(least) < 8 else sentences


def _busy(result: Result) -> Iterator[str]:
    """A warning if other programs used the core too, which only one thread can tell."""
    share = min(row.times.cpu.median / row.times.wall.median for row in result.rows)
    if result.threads == 1 and share < ALONE:
        ratios = [
            f"{row.ratio.cpu.median:.2f} ({row.name})"
            for row in result.rows
            if row.ratio is not None
        ]
        by = f"; by processor time the ratio is {', '.join(ratios)}" if ratios else ""
        yield f"warning: the machine is busy, a model had only {share:.0%} of a core{by}"
