"""`quantnas train`: the training of a decided architecture."""

from pathlib import Path
from typing import Annotated

import typer

from quantnas.config.run_config import TrainConfig
from quantnas.errors import UsageError

from .. import console, options

Origin = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Initial weights: searched (those of the supernet, where there are any), scratch, "
        "float (the float network of RUN, which is not trained again), or a safetensors file.",
        show_default=TrainConfig.start,
    ),
]
FloatSteps = Annotated[
    int | None,
    typer.Option(help="Training steps in float.", show_default=str(TrainConfig.float_steps)),
]
QatSteps = Annotated[
    int | None,
    typer.Option(
        help="Training steps with rounding after that; 0 = the grids are fitted, the weights stay.",
        show_default=str(TrainConfig.qat_steps),
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        help="Hours after which both phases end, if their steps are not done before; the "
        "learning rate falls to 0 in time."
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(help="Training loss: l1 or charbonnier.", show_default=TrainConfig.loss),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Folder of a trained run whose float network is distilled from, too; own = while "
        "rounding, from the float network of this training.",
        metavar="RUN",
    ),
]


def train(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A run that has searched, a genotype (JSON), or a search space that leaves no "
            "choice (`quantnas spaces` lists them).",
            metavar="RUN|GENOTYPE|SPACE",
        ),
    ] = None,
    scale: options.Scale = None,
    data: options.Data = None,
    eval_data: options.EvalData = None,
    origin: Origin = None,
    float_steps: FloatSteps = None,
    qat_steps: QatSteps = None,
    max_hours: MaxHours = None,
    loss: Loss = None,
    teacher: Teacher = None,
    processes: options.Processes = None,
    space_name: Annotated[
        str | None,
        typer.Option(
            "--space",
            help="Search space of a genotype.",
            show_default="the one beside it or named in it",
        ),
    ] = None,
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    settings: options.Set = None,
    output: options.Output = options.ROOT,
    name: options.Name = None,
    resume: options.Resume = None,
) -> None:
    """Train a decided architecture: first in float, then with its bit widths.

    Example: quantnas train runs/search/rfdn_small --float-steps 50000 --max-hours 1

    Example: quantnas train quicksrnet_small --scale 2 --data my_photographs
    """
    from quantnas.api import run_verbs

    flags = {
        "scale": scale,
        "data": data,
        "eval_data": eval_data,
        "train.start": origin,
        "train.float_steps": float_steps,
        "train.qat_steps": qat_steps,
        "train.max_hours": max_hours,
        "train.loss": loss,
        "train.teacher": teacher,
        "train.processes": processes,
        "seed": seed,
        "device": device,
    }
    if origin == "float" and float_steps is not None and resume is None:
        raise UsageError(
            "--float-steps is given, but with --from float that network is not trained again.",
            "Leave one of them out.",
        )
    flags["space"] = space_name
    new = options.New(config, settings, flags, output, name)
    with console.Display("train") as watch, options.named(flags):
        if resume is not None:
            new.require_none("RUN|GENOTYPE|SPACE", **{"RUN|GENOTYPE|SPACE": source})
            target = run_verbs.resume(resume, verb="train", watch=watch)
        else:
            target = run_verbs.train(_source(source, space_name), **new.arguments, watch=watch)
    result = target.result("train")
    assert result is not None
    console.say(
        f"validation patches: float {result['psnr_patches_float']:.2f} dB, "
        f"with its bits {result['psnr_patches_rounded']:.2f} dB",
        target,
    )
    console.next_commands(["quantize", target.folder, "--bits", 4], ["quantize", target.folder])


def _source(source: str | None, space_name: str | None) -> str:
    """The thing to train. Raises UsageError where there is none, and for a --space without use."""
    if source is None:
        raise UsageError(
            "`quantnas train` needs a run that has searched, a genotype or a fixed network.",
            "Give one, as in: quantnas train runs/search/rfdn_small; or quantnas train espcn.",
        )
    if space_name is not None and Path(source).is_dir():
        raise UsageError("--space is given without a genotype.", "Leave it out.")
    return source
