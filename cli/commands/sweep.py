"""`quantnas sweep`: many runs, for the trade-off between quality and cost."""

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
    from quantnas.sweeps.local_workers import Engine
    from quantnas.sweeps.plan import Point

INCOMPLETE = 7
"""Exit code when points failed."""
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
        typer.Option(help="Instead of targets: weights of the BitOps." + EACH, metavar="NUMBERS"),
    ] = None,
    bits: Annotated[
        list[str] | None,
        typer.Option(
            help="As `run` takes them, and `searched` for those found by the search." + EACH,
            metavar="BITS",
        ),
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(help="Of weights, patches and noise." + EACH, metavar="SEEDS"),
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
        int, typer.Option(min=1, help="Points at a time on this machine, each with its share.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Instead: a Ray cluster that shares the folder, auto or its address; needs the "
            "extra `ray`.",
            metavar="ADDRESS",
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(
            min=1, help="For each point.", show_default="the machine's / --workers; 1 with --ray"
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
        bool, typer.Option("--dry-run", help="List the points, and do nothing.")
    ] = False,
) -> None:
    """Search, train, quantize, export and evaluate one network per point of a grid.

    Example: quantnas sweep rfdn_small --target-bitops 0.3G,0.6G,1.2G --bits searched,2 --workers 2

    Every point is a run folder. What points have in common is computed once: the warm-up of the
    supernet for all targets, the search for all --bits. Ctrl-C, or even a kill, loses nothing:
    --resume goes on.

    Exit code 7: some points failed; the others are done.
    """
    from quantnas.sweeps import scheduler

    varied = {
        "target_bitops": target_bitops, "penalty": penalty, "bits": bits, "seed": seed,
    }  # fmt: skip
    flags = {
        "scale": scale, "data": data, "eval_data": eval_data, "benchmarks": benchmark or None,
        "device": device, "search.at": at, "search.epochs": epochs,
    }  # fmt: skip
    if resume is not None:
        options.only_resume(
            {
                "SPACE": space,
                "name": name,
                "config": config,
                "set": settings,
                "vary": vary,
                "dry_run": dry_run or None,
            }
            | varied
            | flags
        )
        folder = scheduler.existing(resume)
        engine = _engine(workers, ray, cores, _wants_gpu(folder))
    else:
        points = _points(config, space, vary, varied, settings, flags)
        if dry_run:
            return _list(points)
        gpu = any(point.config.device != "cpu" for point in points)
        engine = _engine(workers, ray, cores, gpu)
        console.say(f"{len(points)} points; checking their settings", progress=True)
        folder = scheduler.begin(output, name, points)
    _perform(folder, engine, _again(folder, workers, ray, cores))


def _points(
    config: Path | None,
    space: list[str] | None,
    vary: list[str] | None,
    varied: dict[str, list[str] | None],
    settings: list[str] | None,
    flags: dict[str, Any],
) -> "list[Point]":
    """The points of the file, and over it of what is typed: --set, options, and lists of values."""
    from quantnas.sweeps import plan

    asked = plan.read(config) if config is not None else plan.Sweep({}, {})
    lists = _lists(space, vary, varied)
    names = ("search.target_bitops", "search.penalty", "bits", "seed")
    with options.named(flags | {name: lists.get(name) for name in names}):
        typed = plan.Sweep(options.typed(settings, flags), lists)
        return plan.points(asked, str(config or options.SOURCE), typed)


def _lists(
    space: list[str] | None, vary: list[str] | None, varied: dict[str, list[str] | None]
) -> dict[str, list[Any]]:
    """Setting -> its values, of those for which some were typed."""
    from quantnas.config.layered_settings import SEARCHED

    options.require_one(varied["target_bitops"] or None, varied["penalty"] or None)
    values: dict[str, list[Any]] = {"space": _each(space)}
    values["search.target_bitops"] = [
        quantities.number(text, "--target-bitops") for text in _each(varied["target_bitops"])
    ]
    values["search.penalty"] = [_number(t, "--penalty", float) for t in _each(varied["penalty"])]
    for setting in vary or ():
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"'{setting}' is not a setting.", "Write it as KEY=VALUE,VALUE.")
        found: dict[str, Any] = {}
        schema.assign(found, f"values=[{text}]")
        values[key.strip()] = found["values"]
    if varied["bits"]:
        values["bits"] = [None if t == SEARCHED else _bits(t) for t in _each(varied["bits"])]
    if varied["seed"]:
        values["seed"] = [_number(t, "--seed", int) for t in _each(varied["seed"])]
    return {key: each for key, each in values.items() if each}


def _each(given: list[str] | None) -> list[str]:
    return [part.strip() for text in given or () for part in text.split(",") if part.strip()]


def _bits(text: str) -> str:
    quantities.widths(text, "--bits")
    return text


def _number(text: str, option: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{option} cannot be '{text}'.", "Write numbers, as 0,1,2.") from error


def _list(points: "list[Point]") -> None:
    from quantnas.config.search_space import load

    for point in points:
        load(point.config.space, point.config.scale)
        varied = "  ".join(f"{key}={value}" for key, value in point.varied.items())
        console.say(f"{point.name}:  {varied}")


def _wants_gpu(folder: Path) -> bool:
    """Whether a point may use one."""
    from quantnas.runs import run_folder, run_settings
    from quantnas.sweeps import scheduler

    found = (folder / "points" / name for name in scheduler.names(folder))
    there = [run_folder.existing(point) for point in found if (point / "config.yaml").exists()]
    return any(run_settings.written(run).device != "cpu" for run in there)


def _engine(workers: int, ray: str | None, cores: int | None, gpu: bool) -> "Engine":
    if ray is not None:
        from quantnas.sweeps.ray_cluster import Cluster

        return Cluster(ray, cores or 1, gpu)
    import torch

    from quantnas.sweeps.local_workers import Workers
    from quantnas.training import processes

    share = max(1, min(torch.get_num_threads(), processes.cores() // workers))
    return Workers(workers, cores or share, torch.cuda.device_count() if gpu else 0)


def _again(folder: Path, workers: int, ray: str | None, cores: int | None) -> str:
    how = f" --ray {ray}" if ray else f" --workers {workers}" if workers > 1 else ""
    how += f" --cores {cores}" if cores else ""
    return f"quantnas sweep --resume {folder}{how}"


def _perform(folder: Path, engine: "Engine", again: str) -> None:
    from quantnas.reporting import html_data, html_page
    from quantnas.sweeps import results_table, scheduler

    console.say(f"sweep folder: {folder}", progress=True)
    try:
        last = sweep_progress.follow(scheduler.perform(folder, engine), folder, again)
    finally:  # of what there is, when it was interrupted
        table = results_table.write(folder)
    rows = results_table.rows(folder)
    for line in _found(rows):
        console.say(line)
    console.say(f"table: {table}")
    if last.count("done"):
        html_page.write(html_data.find([folder]), folder / html_page.FILE)
        console.say(f"page: {folder / html_page.FILE}")
    failed = [point for point in last.points if point.state == "failed"]
    for point in failed:
        typer.echo(f"failed: {point.name}: {point.cause} {point.remedy or ''}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(last.points)} points failed.", err=True)
        if any((folder / "points" / point.name).exists() for point in failed):
            typer.echo(f"To try again those that began:\n  {again}", err=True)
        sys.exit(INCOMPLETE)
    best = folder / "points" / max(rows, key=_quality)["name"]
    console.next_commands(f"export {best} -o model.onnx", f"quantize {best} --bits 2")


def _quality(row: dict[str, Any]) -> float:
    """PSNR of the file on the first set."""
    return float(next(iter(row["psnr"].values()))["file"])


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
            told = f"{row['name']} is worse than bicubic on {name}"
            yield from console.below_bicubic(told, psnr["file"], psnr["bicubic"], psnr["float"])
