"""The training as a step of a run: where weights come from, how long it takes, what it leaves."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from . import foreign, genotype, network, patches, phases, quantize, searching, train
from .config import RunConfig
from .errors import DataError, QuantnasError, UsageError
from .phases import Phase, Progress
from .runs import Run, existing
from .space import SearchSpace, load
from .workspace import architecture, device, need

SHARES = (0.9, 0.1)
"""Of the patches for learning, and for measuring meanwhile."""
ROUNDED_COST = 2.5
"""Time of a step with rounding, in steps in float: how a time limit is shared out."""


@dataclass(frozen=True)
class Lesson:
    """What a network is trained on, and how."""

    learn: patches.Patches
    held: patches.Patches
    schedule: train.Schedule
    objective: train.Objective = field(default_factory=train.Objective)


def train_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """The genotype -> a float network and one trained with rounding, both saved."""
    where, found = architecture(run)
    c, began = config.train, time.monotonic()
    loaded = yield from searching.reading(run, config, where.scale, c.patch)
    learn, held = patches.split(loaded.pairs, c.patch, config.seed, SHARES)
    torch.manual_seed(config.seed)
    net = network.build(where, found, None)
    origin = _begin_with(net, run, config, where)
    objective = train.Objective(loss=c.loss, colours=where.colours, share=c.teacher_share)
    teacher = _teacher(run, config) if c.teacher not in (None, "own") else None
    if c.start != "float":
        plan = schedule(config, False, where.is_float)
        lesson = Lesson(learn, held, plan, replace(objective, teacher=teacher))
        yield from fit(run, device(config), "float", net, lesson)
    network.save(net, run.weights("float"), where)
    rounded, precision = net, genotype.searched_precision(found)
    if not where.is_float:
        rounded = network.build(where, found, precision)
        network.inherit(rounded, net)
        quantize.initialise(rounded, learn.batch(0, config.quantize.crops)[0])
        teacher = _teacher(run, config) if c.teacher == "own" else teacher
        lesson = Lesson(learn, held, schedule(config, True), replace(objective, teacher=teacher))
        yield from fit(run, device(config), "rounded", rounded, lesson)
    network.save(rounded, run.weights("trained"), where)
    run.finish(
        "train",
        {
            "seconds": time.monotonic() - began,
            "began_with": origin,
            "psnr_patches_float": train.measure(net, held, objective),
            "psnr_patches_rounded": train.measure(rounded, held, objective),
            "photographs": loaded.counts(),
        },
    )


def schedule(config: RunConfig, rounded: bool, is_float: bool = False) -> train.Schedule:
    """Of the steps in float, or of those with rounding, of which a float space has none."""
    c = config.train
    limit = None
    if c.max_hours is not None:
        rounding = 0 if is_float else ROUNDED_COST * c.qat_steps
        costs = (0 if c.start == "float" else c.float_steps, rounding)
        limit = 3600 * c.max_hours * costs[rounded] / max(1, sum(costs))
    return train.Schedule(
        steps=c.qat_steps if rounded else c.float_steps,
        batch=c.batch,
        lr=c.qat_lr if rounded else c.lr,
        check=c.check,
        warmup=c.warmup,
        average=c.average,
        seconds=limit,
    )


def require_teacher(config: RunConfig) -> None:
    """Raise unless the teacher is there and enlarges as much."""
    if config.train.teacher not in (None, "own"):
        where = load(config.space, config.scale)
        source = existing(Path(str(config.train.teacher)))
        theirs, _ = architecture(source)
        need(source.weights("float"), "train")
        if theirs.scale != where.scale:
            raise UsageError(
                f"The teacher {source.folder} enlarges x{theirs.scale}, the network "
                f"x{where.scale}.",
                "Give a teacher of the same scale.",
            )


def given_weights(config: RunConfig, source: Run | None) -> Path | None:
    """The file that `train.start` means, if it means one.

    Raises DataError or UsageError when it is missing, or when it is of another network than the
    one that is known before a search.
    """
    start = config.train.start
    if start in ("searched", "scratch"):
        return None
    if start != "float":
        if not Path(start).is_file():
            raise DataError(
                f"There is no file {start} to begin with.",
                "Give searched, scratch, float, or the path of a safetensors file.",
            )
        _require_weights(Path(start), config, source)
        return Path(start)
    if source is None:
        raise UsageError(
            "Training starts from the float network of a run, but none is given.",
            "Give the folder of a trained run.",
        )
    return need(source.weights("float"), "train")


def _require_weights(path: Path, config: RunConfig, source: Run | None) -> None:
    """Raise unless the file has the weights of the network, if that is known already."""
    if source is not None:
        where, found = architecture(source)
    else:
        where = load(config.space, config.scale)
        given = None if config.genotype is None else Path(config.genotype)
        known = searching.known_genotype(where, given)
        if known is None:
            return
        found = known
    try:
        read_weights(network.build(where, found, None), path, where)
    except QuantnasError as error:
        remedy = "Give weights of this network in float, or --from scratch."
        raise type(error)(error.cause, remedy) from error


def read_weights(net: nn.Module, path: Path, where: SearchSpace) -> None:
    """Load weights in float, of this project or of another one, into a network of `where`.

    Raises as `foreign.load` and `network.load`.
    """
    if foreign.known(path):
        foreign.load(net, path)
    else:
        network.load(net, path, where)


def fit(
    run: Run,
    where: torch.device,
    phase: str,
    net: nn.Module,
    lesson: Lesson,
    state: train.State | None = None,
) -> Iterator[Progress]:
    """Train `net`, in place; it is back on the CPU at the end, with its best weights.

    Its last weights are saved beside. `state`: of `net`, with an optimizer of another kind.
    """
    plan, net = lesson.schedule, net.to(where)
    if state is None:
        state = train.start(net, plan.lr, plan.average > 0)
    show = Show(plan.batch)

    def steps(first: int) -> Iterator[train.Step]:
        yield from train.fit(state, lesson.learn, lesson.held, plan, lesson.objective, first)

    def total() -> int:
        return state.pace.steps or plan.steps

    yield from phases.perform(run, Phase(phase, total, state.parts(), steps, show))
    if state.last:
        network.save_tensors(state.last, run.weights(f"{phase}_last"))
    net.cpu()


class Show:
    """What is shown of a step; the last measurement stays visible until the next one."""

    def __init__(self, batch: int) -> None:
        self.batch, self.psnr = batch, "-"
        self.began, self.first = time.monotonic(), 0

    def __call__(self, step: train.Step) -> dict[str, str]:
        if step.psnr is not None:
            self.psnr = f"{step.psnr:.2f}"
        if not self.first:
            self.first, self.began = step.step, time.monotonic()
        speed = self.batch * (step.step - self.first) / max(1e-9, time.monotonic() - self.began)
        return {
            "loss": f"{step.loss:.4f}",
            "PSNR": self.psnr,
            "patches/s": "-" if step.step == self.first else f"{speed:.0f}",
        }


def _begin_with(net: nn.Module, run: Run, config: RunConfig, where: SearchSpace) -> str:
    """Load the weights to begin with, if there are any; where they come from."""
    given, searched = run.weights("given"), run.weights("searched")
    if given.exists():
        read_weights(net, given, where)
        return config.train.start
    if config.train.start == "searched" and searched.exists():
        network.load(net, searched, where)
        return "searched"
    return "scratch"


def _teacher(run: Run, config: RunConfig) -> train.Target:
    """The output of the float network that `train.teacher` names."""
    name = config.train.teacher
    source = run if name == "own" else existing(Path(str(name)))
    theirs, found = architecture(source)
    teacher = network.build(theirs, found, None)
    network.load(teacher, need(source.weights("float"), "train"), theirs)
    return quantize.teacher_target(teacher.to(device(config)))
