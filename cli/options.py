"""Options that several commands share, and the configuration that they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quantnas import schema
from quantnas.config import RunConfig
from quantnas.errors import UsageError

Space = Annotated[
    str | None,
    typer.Option(
        help="Search space: a built-in name or a YAML file.", show_default=RunConfig.space
    ),
]
Scale = Annotated[
    int | None, typer.Option(help="Magnification: 2, 3 or 4.", show_default="the space's")
]
Data = Annotated[
    str | None,
    typer.Option(help="Folder of photographs to learn from.", show_default="the bundled ones"),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        help="Folder of photographs to evaluate on.", show_default="some held out of --data"
    ),
]
Benchmark = Annotated[
    list[str] | None,
    typer.Option(help="A further folder to evaluate on, Set5 for example; repeatable."),
]
Bits = Annotated[
    int | None,
    typer.Option(
        help="Weight bits between first and last convolution: 2, 3, 4 or 8; activations and both "
        "ends stay at 8.",
        show_default="the bits that the search found",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Of weights, patches and noise.", show_default=str(RunConfig.seed)),
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda.", show_default=RunConfig.device)
]
Config = Annotated[Path | None, typer.Option(help="YAML file with settings; options win over it.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="One setting, as search.epochs=30; repeatable. A run's config.yaml has all.",
        metavar="KEY=VALUE",
    ),
]
Output = Annotated[Path, typer.Option(help="Where run folders are made.")]
Name = Annotated[
    str | None,
    typer.Option(
        help="Name of the run folder; must be new.", show_default="the space, with a free number"
    ),
]
Resume = Annotated[
    Path | None, typer.Option(help="Continue the run in this folder.", metavar="RUN")
]
Source = Annotated[
    Path | None, typer.Argument(help="Folder of the run to go on from.", metavar="[RUN]")
]

ROOT = Path("runs")


def configuration(
    base: dict[str, Any], config: Path | None, settings: list[str] | None, **flags: Any
) -> RunConfig:
    """`base`, then the file, then --set, then the flags that were given.

    Raises UsageError for what cannot be.
    """
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    if config is not None:
        for key, value in schema.read_yaml(config).items():
            both = isinstance(value, dict) and isinstance(data.get(key), dict)
            data[key] = {**data[key], **value} if both else value
    for setting in settings or ():
        schema.assign(data, setting)
    data |= {key: value for key, value in flags.items() if value is not None}
    return schema.parse(RunConfig, data, str(config) if config else "configuration")


def only_resume(**others: Any) -> None:
    """Raise UsageError when something else was given beside --resume."""
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in others.items()
        if value not in (None, [], "")
    ]
    if given:
        raise UsageError(
            f"--resume continues a run with its own settings, but {', '.join(given)} is given.",
            "Leave that out, or start a new run.",
        )
