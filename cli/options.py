"""Options that several commands share, and the settings that they make."""

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
    int | None,
    typer.Option(help="Magnification: 2, 3 or 4.", show_default="that of the search space"),
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
    typer.Option(
        help="Further folder of photographs to evaluate on, for example Set5; repeatable."
    ),
]
Bits = Annotated[
    str | None,
    typer.Option(
        help="Bit widths: 2, 3, 4 or 8 for weights, with activations at 8, or w2a4 for 2-bit "
        "weights and 4-bit activations. First and last convolution stay at 8, as attention does.",
        show_default="the bit widths that the search found",
        metavar="BITS",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Seed of initial weights, patches and noise.", show_default=str(RunConfig.seed)
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Device: auto, cpu or cuda.", show_default=RunConfig.device)
]
Config = Annotated[Path | None, typer.Option(help="YAML file with settings; options win over it.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Single setting, as search.epochs=30; repeatable. A run's config.yaml lists all.",
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
        help="Instead of a target: weight of the expected BitOps in the search; a larger weight "
        "finds cheaper networks.",
        show_default=f"{SearchConfig.penalty:g}",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        help="Search strategy: gradient, or random, which trains random architectures (of the "
        "target, where one is given) for as many steps and keeps the best.",
        show_default=SearchConfig.strategy,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="Architecture to keep: last, the one at the end; best, the best one on validation "
        "patches; or trial, the best of several after a short training of each.",
        show_default=SearchConfig.keep,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Epochs of the search, with the warm-up; more than search.warmup_epochs "
        f"({SearchConfig.warmup_epochs}).",
        show_default=str(SearchConfig.epochs),
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        help="Number of processes that share every batch, on cores or GPUs; with torchrun on "
        "several machines. Needs the extra `several`.",
        show_default=str(SearchConfig.processes),
    ),
]
Tensorboard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Write scalars into RUN/tensorboard, too; needs the extra `tensorboard`.",
    ),
]
Output = Annotated[Path, typer.Option(help="Folder in which run folders are made.")]
Name = Annotated[
    str | None,
    typer.Option(
        help="Name of the run folder, which must be new.",
        show_default="that of RUN, or else the search space, with a free number",
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
"""Setting -> its option, for options of another name."""
SOURCE = "configuration"
"""The name by which errors of the library call settings that come from no file."""


def bit_widths(text: str | None) -> dict[str, int] | dict[str, None]:
    """Bit widths such as 2 or w2a4 as settings. Raises UsageError for another text."""
    return {"bits": None} if text is None else quantities.bit_widths(text, "--bits")


def searching(
    target_bitops: str | None,
    at: str | None,
    penalty: float | None,
    strategy: str | None,
    keep: str | None,
    epochs: int | None,
    processes: int | None,
) -> dict[str, Any]:
    """The options of a search as settings. Raises UsageError for a text that is no number."""
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
    """The options and settings that were typed for a new run."""

    config: Path | None
    settings: list[str] | None
    flags: Mapping[str, Any]
    """Setting -> value of its option; none for an option that was not given."""
    output: Path
    name: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a function of `quantnas.api`; options win over --set."""
        settings = typed(self.settings, self.flags)
        place = {"output": self.output, "name": self.name}
        return {"config": self.config, "settings": settings, **place}

    def require_none(self, argument: str, **others: object) -> None:
        """Raise UsageError when anything was given beside --resume.

        `argument` is the name of the positional argument in capitals; it stands for the setting
        `space` unless it is among the others.
        """
        typed = {"name": self.name, "config": self.config, "set": self.settings, **self.flags}
        if argument not in others:
            typed[argument] = typed.pop("space")
        only_resume(others | typed)


def typed(settings: list[str] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """One layer of settings from --set and the flags that were given; the flags win.

    Raises UsageError as `layered_settings.together` does, and for a text that is no setting.
    """
    from quantnas.config.layered_settings import together

    layer: dict[str, Any] = {}
    for setting in settings or ():
        schema.assign(layer, setting)
    return together(layer, {name: value for name, value in flags.items() if value is not None})


def option(name: str) -> str:
    """The option of a setting, as it is typed."""
    return f"--{SETTER.get(name, name.rpartition('.')[2])}".replace("_", "-")


@contextmanager
def named(flags: Mapping[str, Any]) -> Iterator[None]:
    """Let errors about settings name the options that were given; `flags`: setting -> value."""
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

    The keys of `others` are names of options, or of arguments in capitals.
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
