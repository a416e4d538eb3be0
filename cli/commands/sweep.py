"""`quantnas sweep`: many runs, for the trade-off between quality and cost."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantnas.config import quantities, schema
from quantnas.config.run_config import RunConfig
from quantnas.errors import UsageError

from .. import console, options, sweep_progress

if TYPE_CHECKING:
    from quantnas.api.sweeps import Point, Sweep

INCOMPLETE = 7
"""Exit code of a sweep in which points failed."""
EACH = " Repeatable, or several with commas."


def sweep(
    space: Annotated[
        list[str] | None,
        typer.Argument(
            help="Search spaces: built-in ones or YAML files.",
            show_default=RunConfig.space,
            metavar="SPACE...",
        ),
    ] = None,
    target_bitops: Annotated[
        list[str] | None,
        typer.Option(
            help="BitOps that the found networks shall have at --at: 0.5G,1G,2G." + EACH,
            metavar="NUMBERS",
        ),
    ] = None,
    penalty: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of targets: weights of the expected BitOps in the search." + EACH,
            metavar="NUMBERS",
        ),
    ] = None,
    bits: Annotated[
        list[str] | None,
        typer.Option(
            help="Bit widths as `run` takes them, and `searched` for those that the search finds."
            + EACH,
            metavar="BITS",
        ),
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(help="Seed of initial weights, patches and noise." + EACH, metavar="SEEDS"),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="Any other setting, as train.float_steps=1000,3000; repeatable.",
            metavar="KEY=VALUE,...",
        ),
    ] = None,
    at: options.At = None,
    epochs: options.Epochs = None,
    scale: options.Scale = None,
    data: options.Data = None,
    eval_data: options.EvalData = None,
    benchmark: options.Benchmark = None,
    device: options.Device = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file: the settings of a run, with `vary: {setting: \\[values]}` or "
            "`points: [{setting: value}]`; options win over it."
        ),
    ] = None,
    settings: options.Set = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="Points at a time on this machine, each with its share of the cores."
        ),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Compute the points on a Ray cluster that shares the folder instead: auto, or its "
            "address; needs the extra `ray`.",
            metavar="ADDRESS",
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processor cores for each point.",
            show_default="the machine's / --workers; 1 with --ray",
        ),
    ] = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue the sweep in this folder; failed points are tried again.",
            metavar="SWEEP",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the points without computing them.")
    ] = False,
) -> None:
    """Search, train, quantize, export and evaluate one network per point of a grid.

    Example: quantnas sweep rfdn_small --target-bitops 0.3G,0.6G,1.2G --bits searched,2 --workers 2

    Every point is a run folder. Work that points have in common is done once: the warm-up of the
    supernet for all targets, the search for all --bits. After Ctrl-C, or even a kill, --resume goes
    on from the last saved states.

    The exit code is 7 when some points failed; the others are done.
    """
    from quantnas.api import sweeps

    varied = {
        "target_bitops": target_bitops, "penalty": penalty, "bits": bits, "seed": seed,
    }  # fmt: skip
    flags = {
        "scale": scale, "data": data, "eval_data": eval_data, "benchmarks": benchmark or None,
        "device": device, "search.at": at, "search.epochs": epochs,
    }  # fmt: skip
    how: dict[str, Any] = {"workers": workers, "ray": ray, "cores": cores}
    watch = sweep_progress.SweepDisplay(_typed(workers, ray, cores))
    if resume is not None:
        others = {"SPACE": space, "name": name, "config": config, "set": settings, "vary": vary,
                  "dry_run": dry_run or None}  # fmt: skip
        options.only_resume(others | varied | flags)
        return _tell(sweeps.resume_sweep(resume, **how, watch=watch), watch.again)
    lists = _lists(vary, varied)
    names = ("search.target_bitops", "search.penalty", "bits", "seed")
    with options.named(flags | {name: lists.get(name) for name in names}):
        asked: dict[str, Any] = {"config": config, "settings": options.typed(settings, flags)}
        if dry_run:
            return _list(sweeps.plan_sweep(_each(space), lists, **asked))
        made = sweeps.sweep(
            _each(space), lists, **asked, **how, output=output, name=name, watch=watch
        )
    return _tell(made, watch.again)


def _lists(vary: list[str] | None, varied: dict[str, list[str] | None]) -> dict[str, list[Any]]:
    """Setting -> its values, for the settings of which values were typed."""
    from quantnas.config.layered_settings import SEARCHED

    values: dict[str, list[Any]] = {}
    values["search.target_bitops"] = [
        quantities.number(text, "--target-bitops") for text in _each(varied["target_bitops"])
    ]
    values["search.penalty"] = [_number(t, "--penalty", float) for t in _each(varied["penalty"])]
    for setting in vary or ():
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"'{setting}' is not a setting.", "Write it as KEY=VALUE,VALUE.")
        parsed: dict[str, Any] = {}
        schema.assign(parsed, f"values=[{text}]")
        values[key.strip()] = parsed["values"]
    if varied["bits"]:
        values["bits"] = [None if t == SEARCHED else _bits(t) for t in _each(varied["bits"])]
    if varied["seed"]:
        values["seed"] = [_number(t, "--seed", int) for t in _each(varied["seed"])]
    return {key: each for key, each in values.items() if each}


def _each(values: list[str] | None) -> list[str]:
    """The values of an option that is repeatable and takes several with commas."""
    return [part.strip() for text in values or () for part in text.split(",") if part.strip()]


def _bits(text: str) -> str:
    """The text itself. Raises UsageError where it is not of the form 2 or w2a4."""
    quantities.bit_widths(text, "--bits")
    return text


def _number(text: str, option: str, kind: type) -> Any:
    """The number that an option was given as text. Raises UsageError for another text."""
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{option} cannot be '{text}'.", "Write numbers, as 0,1,2.") from error


def _list(points: "list[Point]") -> None:
    """Print the points and what varies in them. Raises UsageError for unknown search spaces."""
    from quantnas.config.search_space import load

    for point in points:
        load(point.config.space, point.config.scale)
        varied = "  ".join(f"{key}={value}" for key, value in point.varied.items())
        console.say(f"{point.name}:  {varied}")


def _typed(workers: int, ray: str | None, cores: int | None) -> str:
    """The options that say how points are computed, as they are typed."""
    how = f" --ray {shlex.quote(ray)}" if ray else f" --workers {workers}" if workers > 1 else ""
    return how + (f" --cores {cores}" if cores else "")


def _tell(made: "Sweep", again: str) -> None:
    """Print the results, and what to do with them; exit with INCOMPLETE where points failed."""
    for line in _found(made.rows):
        console.say(line)
    console.say(f"table: {made.table}")
    if made.page is not None:
        console.say(f"page: {made.page}")
    for point in made.failed:
        typer.echo(f"failed: {point.name}: {point.cause} {point.remedy or ''}", err=True)
    if made.failed:
        typer.echo(f"{len(made.failed)} of {len(made.points)} points failed.", err=True)
        if any((made.folder / "points" / point.name).exists() for point in made.failed):
            typer.echo(f"To try again those that began:\n  {again}", err=True)
        sys.exit(INCOMPLETE)
    if made.best is not None:
        best = made.best.folder
        console.next_commands(["export", best, "-o", "model.onnx"], ["quantize", best, "--bits", 2])


def _found(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The finished points by cost, and warnings about those worse than bicubic."""
    done = sorted((row for row in rows if "psnr" in row), key=lambda row: row["gbitops"])
    for row in done:
        scores = "  ".join(
            f"{name} {psnr['file']:.2f} ({psnr['file'] - psnr['bicubic']:+.2f})"
            for name, psnr in row["psnr"].items()
        )
        yield f"{row['name']}: {row['gbitops']:.2f} GBitOps, {row['bytes']:,} bytes, {scores}"
        for name, psnr in row["psnr"].items():
            warning = f"{row['name']} is worse than bicubic on {name}"
            yield from console.below_bicubic(warning, psnr["file"], psnr["bicubic"], psnr["float"])
