"""Options that several commands share, and the configuration that they make."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from quantnas.config import quantities, schema
from quantnas.config.run_config import RunConfig, SearchConfig
from quantnas.errors import UsageError

Space = Annotated[
    str | None,
    typer.Argument(
        help="A built-in search space (`quantnas spaces` lists them) or a YAML file.",
        show_default=RunConfig.space,
        metavar="SPACE",
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
    str | None,
    typer.Option(
        help="Between first and last convolution, which stay at 8 as attention does: 2, 3, 4 or 8 "
        "for weights, with activations at 8, or w2a4 for 2-bit weights and 4-bit activations.",
        show_default="the bits that the search found",
        metavar="BITS",
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
TargetBitops = Annotated[
    str | None,
    typer.Option(
        help="BitOps that the found network shall have at --at, within 5 %: 2.0G, 500M, 2e9.",
        metavar="NUMBER",
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        help="Low-resolution size at which the search counts BitOps.",
        show_default=SearchConfig.at,
        metavar="HEIGHTxWIDTH",
    ),
]
Penalty = Annotated[
    float | None,
    typer.Option(
        help="Instead of a target: weight of the expected BitOps; a larger one finds fewer.",
        show_default=f"{SearchConfig.penalty:g}",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        help="gradient, or random: train random architectures (of the target, where one is given) "
        "for as many steps and keep the best.",
        show_default=SearchConfig.strategy,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="last, best or trial: the network found at the end, the best one on validation "
        "patches, or the best of several after a short training of each.",
        show_default=SearchConfig.keep,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help=f"Length of the search, above search.warmup_epochs ({SearchConfig.warmup_epochs}).",
        show_default=str(SearchConfig.epochs),
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        help="Processes that share every batch, on cores or GPUs, of several machines with "
        "torchrun; needs the extra `several`.",
        show_default=str(SearchConfig.processes),
    ),
]
Tensorboard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Write scalars into RUN/tensorboard too; needs the extra `tensorboard`.",
    ),
]
Output = Annotated[Path, typer.Option(help="Where run folders are made.")]
Name = Annotated[
    str | None,
    typer.Option(
        help="Name of the run folder; must be new.",
        show_default="that of RUN, else the space, with a free number",
    ),
]
Resume = Annotated[
    Path | None, typer.Option(help="Continue the run in this folder.", metavar="RUN")
]
Source = Annotated[
    Path | None, typer.Argument(help="Folder of the run to go on from.", metavar="RUN")
]

ROOT = Path("runs")
SETTER = {"act_bits": "bits", "train.start": "from", "benchmarks": "benchmark"}
"""Setting -> its option, where that has another name."""
SOURCE = "configuration"
"""What errors of the library call settings that come from no file."""


def widths(text: str | None) -> dict[str, int] | dict[str, None]:
    """2 or w2a4 -> settings. Raises UsageError for what is no number of that form."""
    return {"bits": None} if text is None else quantities.widths(text, "--bits")


def require_one(target_bitops: object, penalty: object) -> None:
    """Raise UsageError where a target and a penalty are both given."""
    if target_bitops is not None and penalty is not None:
        raise UsageError(
            "--penalty and --target-bitops are both given.",
            "Give one: a target finds its own penalty.",
        )


def searching(
    target_bitops: str | None,
    at: str | None,
    penalty: float | None,
    strategy: str | None,
    keep: str | None,
    epochs: int | None,
    processes: int | None,
) -> dict[str, Any]:
    """The options of a search as settings. Raises UsageError for what excludes each other."""
    require_one(target_bitops, penalty)
    return {
        "search.target_bitops": None
        if target_bitops is None
        else quantities.number(target_bitops, "--target-bitops"),
        "search.at": at,
        "search.penalty": penalty,
        "search.strategy": strategy,
        "search.keep": keep,
        "search.epochs": epochs,
        "search.processes": processes,
    }


@dataclass(frozen=True)
class New:
    """What was typed about a new run."""

    config: Path | None
    settings: list[str] | None
    flags: Mapping[str, Any]
    """Setting -> value of its option, none where it was not given."""
    output: Path
    name: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """The same for the functions of `quantnas.api`; options win over --set."""
        told = typed(self.settings, self.flags)
        where = {"output": self.output, "name": self.name}
        return {"config": self.config, "settings": told, **where}

    def require_none(self, argument: str, **others: object) -> None:
        """Raise UsageError when anything was given beside --resume.

        `argument` is the name of the positional one, in capitals, which is the setting `space`
        where it is not among the others.
        """
        told = {"name": self.name, "config": self.config, "set": self.settings, **self.flags}
        if argument not in others:
            told[argument] = told.pop("space")
        only_resume(others | told)


def typed(settings: list[str] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """--set and the flags that were given as one layer, in which flags win.

    Raises UsageError as `layered_settings.together`, and for what is no setting.
    """
    from quantnas.config.layered_settings import together

    told: dict[str, Any] = {}
    for setting in settings or ():
        schema.assign(told, setting)
    return together(told, {name: value for name, value in flags.items() if value is not None})


def option(name: str) -> str:
    """The option that gives a setting, as it is typed."""
    return f"--{SETTER.get(name, name.rpartition('.')[2])}".replace("_", "-")


@contextmanager
def named(flags: Mapping[str, Any]) -> Iterator[None]:
    """Let errors about settings name the options of `flags`, setting -> value, that were given."""
    try:
        yield
    except UsageError as error:
        cause, remedy = error.cause, error.remedy
        for name in (name for name, value in flags.items() if value is not None):
            setting = re.compile(rf"'{re.escape(name)}'|`{re.escape(name.rpartition('.')[2])}`")
            cause, remedy = (setting.sub(option(name), text) for text in (cause, remedy))
        if cause != error.cause:
            cause = re.sub(rf"^{SOURCE}: ('\w+': )?", "", cause)
        raise UsageError(cause, remedy) from error


def only_resume(others: Mapping[str, Any]) -> None:
    """Raise UsageError when something else was given beside --resume.

    Keys are names of options, or of arguments in capitals.
    """
    given = dict.fromkeys(
        name if name.isupper() else option(name)
        for name, value in others.items()
        if value not in (None, [], "")
    )
    if given:
        raise UsageError(
            f"--resume continues a run with its own settings, but {', '.join(given)} is given.",
            "Leave that out, or start a new run.",
        )
