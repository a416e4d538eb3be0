"""`quantnas info`: what a search space, genotype, run, checkpoint or file costs."""

import math
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from quantnas.config import validators
from quantnas.errors import UsageError

from .. import options
from ..tables import columns


def info(
    target: Annotated[
        str,
        typer.Argument(
            help="A search space (name or YAML), a genotype (JSON), a run folder, a checkpoint "
            "(safetensors) in a run folder, an exported ONNX file, or a bundled model."
        ),
    ],
    space_name: Annotated[
        str | None,
        typer.Option(
            "--space", help="Search space of a lone genotype.", show_default="the one it names"
        ),
    ] = None,
    scale: options.Scale = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Low-resolution height x width, as 180x320, at which the layers are counted.",
            show_default="32x32",
            metavar="HxW",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Print parameters, MACs, BitOps and bit widths per layer; of a search space its choices.

    Example: quantnas info runs/run/rfdn_small/model.onnx --at 180x320
    """
    from quantnas.api import information
    from quantnas.config import files

    size = None if at is None else _size(at)
    with options.named({"scale": scale}):
        facts = information.describe(target, space=space_name, scale=scale, size=size)
    if json:
        typer.echo(files.to_json(facts), nl=False)
        return
    for line in _space_lines(facts) if "architectures" in facts else _network_lines(facts):
        typer.echo(line)


def _size(at: str) -> tuple[int, int]:
    try:
        return validators.resolution(at)
    except ValueError as error:
        raise UsageError(f"--at cannot be '{at}'.", "Give height x width, as 180x320.") from error


def _space_lines(facts: dict[str, Any]) -> Iterator[str]:
    """The size, the costs and the choices of a search space."""
    small, large = facts["smallest"], facts["largest"]
    choices = f"{facts['searched_edges']} searched edges, "
    choices += f"10^{math.log10(facts['architectures']):.1f} architectures"
    fixed = facts["architectures"] == 1
    yield (
        f"{facts['what']}, x{facts['scale']}: skeleton {facts['skeleton']}, "
        f"{facts['channels']} channels, {facts['cells']} cells"
    )
    yield (
        f"{'nothing to choose' if fixed else choices}, "
        f"{_ends(f'{small.parameters:,}', f'{large.parameters:,}')} parameters"
    )
    yield ""
    ends = facts["totals"]
    extremes = [ends] if fixed else [ends["smallest"], ends["largest"]]
    yield from _total_lines(facts["not_counted"], *extremes)
    yield ""
    for kind, edge in facts["edges"].items():
        yield f"{kind} ({edge['choices']} searched): {_widths(edge['widths'])}"
        ops = ", ".join(edge["ops"])
        yield from textwrap.wrap(ops, 78, initial_indent="  ", subsequent_indent="  ")
    if fixed:
        yield from _layer_lines(facts)


def _total_lines(not_counted: str, *ends: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The totals of a network, or of the smallest and the largest of a search space."""
    table = [["", "GMACs", "GBitOps", "GMACs x w/32 x a/32"]]
    for name in ends[0]:
        keys = ("macs", "bitops", "float_macs")
        table.append([name, *(_ends(*(_giga(end[name][key]) for end in ends)) for key in keys)])
    yield from columns(table)
    yield ""
    yield "BitOps = MACs x weight bits x activation bits; in float (32 x 32 bits) a MAC costs 1024."
    yield "MACs x w/32 x a/32 = BitOps / 1024: the MACs in float that would cost as much."
    yield f"Not counted: {not_counted}."


def _ends(low: str, *high: str) -> str:
    """A range in words, or the one number where both ends are the same."""
    return low if {*high} <= {low} else f"{low} to {high[0]}"


def _giga(number: float) -> str:
    """A number in billions."""
    return f"{number / 1e9:.3g}" if number < 1e11 else f"{number / 1e9:.0f}"


def _widths(widths: list[dict[str, int]]) -> str:
    """The pairs of bit widths in words."""
    pairs = [(width["weights"], width["activations"]) for width in widths]
    if pairs == [(32, 32)]:
        return "in float"
    if all(weights == activations for weights, activations in pairs):
        return f"{', '.join(str(weights) for weights, _ in pairs)} bits"
    weights, activations = (", ".join(map(str, dict.fromkeys(p))) for p in zip(*pairs, strict=True))
    return f"weights {weights} bits, activations {activations} bits"


def _network_lines(facts: dict[str, Any]) -> Iterator[str]:
    """The costs of a network, in total and per layer."""
    whole = facts["cost"]
    yield f"{facts['what']}, x{facts['scale']}"
    yield f"{whole.parameters:,} parameters, {whole.weight_bytes:,} bytes of packed weights"
    yield ""
    yield from _total_lines(facts["not_counted"], facts["totals"])
    yield from _layer_lines(facts)


HEAD = ("layer", "operation", "kernel", "weights", "inputs", "MACs", "BitOps", "share", "bytes")


def _layer_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Every convolution with its cost, in the order of the network."""
    table = [HEAD]
    for part in facts["layers"]:
        kernel = "x".join(str(n) for n in part.shape)
        bits = (f"{part.weight_bits} bits", f"{part.act_bits} bits")
        counts = (_short(part.macs), _short(part.bitops), f"{part.share:.1%}")
        table.append((part.name, part.op, kernel, *bits, *counts, f"{part.weight_bytes:,}"))
    yield ""
    yield f"At {facts['at']}; bytes are of the packed weights:"
    yield ""
    yield from columns(table, left=(0, 1, 2))


def _short(number: int) -> str:
    """A number with 3 digits and a unit: 1234567 -> 1.23M."""
    if number < 1000:
        return str(number)
    power = min(int(math.log10(float(f"{number:.2e}"))) // 3, 4)
    value = float(f"{number / 1000**power:.2e}")
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f}{' kMGT'[power]}"
