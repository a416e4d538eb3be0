"""`quantnas bench`: the time of models, each beside its own float network."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantnas.config import validators
from quantnas.errors import UsageError

from .. import console
from ..tables import columns

if TYPE_CHECKING:
    from quantnas.api.model_verbs import Benchmark, Machine, Node, Row, Spread

SHOWN = 15
"""Number of operators that are listed of a model; all are in the JSON."""


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Exported ONNX files, run folders that hold one, or bundled models.",
            metavar="MODEL",
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            help="Low-resolution height x width.",
            show_default="180x320, at x4 an output of 1280x720; or the only size that a file takes",
            metavar="HxW",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Number of threads of ONNX Runtime.")] = 1,
    seconds: Annotated[
        float, typer.Option(help="Time to measure every model with its float network, seconds.")
    ] = 10.0,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds, instead of --seconds.")
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="List the time of every operator inside the models.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Time models in ONNX Runtime, each beside the same network in float.

    Example: quantnas bench runs/run/rfdn_small --size 270x480

    The models take turns, so that other programs on the machine slow all of them down alike. The
    ratio is that of the times within a round: below 1, the file is faster than its float network.
    """
    from quantnas.api import model_verbs
    from quantnas.config import files

    how: dict[str, Any] = {"threads": threads, "seconds": seconds, "rounds": rounds}
    with console.Display() as watch:
        found = model_verbs.benchmark(
            models, size=_size(size), **how, per_layer=per_layer, watch=watch
        )
    if json:
        typer.echo(files.to_json(found), nl=False)
        return
    for line in _lines(found):
        typer.echo(line)


def _size(text: str | None) -> tuple[int, int] | None:
    try:
        return None if text is None else validators.resolution(text, "--size")
    except ValueError as error:
        raise UsageError(f"{error}.", "Leave it out for the usual value.") from error


def _lines(found: "Benchmark") -> Iterator[str]:
    """The times of all models, the machine, and notes."""
    result = found.result
    height, width = result.size
    yield f"low resolution {height}x{width}, median (quartiles) of {result.rounds} rounds"
    yield ""
    head = ["model", "weights", "activations", "bytes", "ms", "fps", "float ms", "of float"]
    yield from columns([[*head, "GBitOps"], *map(_row, result.rows)])
    for name, rows in found.layers.items():
        yield ""
        yield f"{name}, with profiling"
        yield from columns(_layers(rows), left=(0, 1, 4))
    yield ""
    yield from _machine(found.machine, result.threads)
    yield from found.notes


def _row(row: "Row") -> list[str]:
    """The cells of a model."""
    return [
        row.name,
        _bits(row.weight_bits),
        _bits(row.act_bits),
        f"{row.bytes:,}",
        _spread(row.times.wall, 1),
        f"{1000 / row.times.wall.median:.1f}",
        "-" if row.float_times is None else _spread(row.float_times.wall, 1),
        "-" if row.ratio is None else _spread(row.ratio.wall, 2),
        "-" if row.bitops is None else _giga(row.bitops),
    ]


def _giga(number: int) -> str:
    """A number in billions."""
    return f"{number / 1e9:.3g}" if number < 1e11 else f"{number / 1e9:,.0f}"


def _bits(ends: tuple[int, int] | None) -> str:
    """The lowest and the highest bit width in words."""
    return "-" if ends is None else "-".join(str(n) for n in dict.fromkeys(ends)) + " bits"


def _spread(spread: "Spread", digits: int) -> str:
    """The median, with the quartiles in brackets."""
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}-{spread.high:.{digits}f})"


def _layers(rows: "Sequence[Node]") -> list[list[str]]:
    """The slowest operators of a model as a table, and the others in one row."""
    table = [["layer", "operator", "ms", "share", ""]]
    for row in rows[:SHOWN]:
        mark = "in float" if row.layer and row.in_float else ""
        table.append([row.layer or "-", row.operator, f"{row.ms:.2f}", f"{row.share:.1%}", mark])
    rest = rows[SHOWN:]
    if rest:
        ms, share = sum(row.ms for row in rest), sum(row.share for row in rest)
        table.append([f"{len(rest)} others", "", f"{ms:.2f}", f"{share:.1%}", ""])
    return table


def _machine(machine: "Machine", threads: int) -> Iterator[str]:
    """The processor and what it is used with."""
    able = "what it can is unknown"
    if machine.features is not None:
        has = [name for name, there in machine.features.items() if there]
        lacks = [name for name, there in machine.features.items() if not there]
        able = f"with {', '.join(has) or 'nothing of note'}"
        able += f", without {', '.join(lacks)}" if lacks else ""
    yield f"{machine.processor}: {able}"
    cores = "core" if machine.cores == 1 else "cores"
    used = "thread" if threads == 1 else "threads"
    yield f"{machine.cores} {cores}, {threads} {used} used; ONNX Runtime {machine.onnxruntime}"
