"""The step `train` trains the decided architecture in float, then with rounding."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from quantnas.architectures import network
from quantnas.config import genotype as genotypes
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.data import patches
from quantnas.progress import Progress
from quantnas.runs import resumable
from quantnas.runs.networks import architecture
from quantnas.runs.resumable import Phase
from quantnas.runs.run_folder import Run
from quantnas.training import checkpoint, processes, training_loop
from quantnas.training.processes import device

from . import initial_weights, load_photographs, shared_loops
from .shared_loops import Shared

SHARES = (0.9, 0.1)
"""Shares of the patches for training, and for validation."""
ROUNDED_COST = 2.5
"""Time of a step with rounding over that of a float step, by which a time limit is divided."""


@dataclass(frozen=True)
class Lesson:
    """The patches, schedule and objective of a training."""

    learn: patches.Patches
    held: patches.Patches
    schedule: training_loop.Schedule
    objective: training_loop.Objective = field(default_factory=training_loop.Objective)
    shared: Shared | None = None
    """Data with which other processes share the steps; None: this process is alone."""


def train_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """Train and save the float network of the genotype, and one with rounding."""
    space, genotype = architecture(run)
    c, began = config.train, time.monotonic() - run.spent
    loaded = yield from load_photographs.reading(run, config, space.scale, c.patch)
    learn, held = patches.split(loaded.pairs, c.patch, config.seed, SHARES)
    torch.manual_seed(config.seed)
    net = network.build(space, genotype, None)
    origin = initial_weights.begin_with(net, run, config, space)
    trainings = _Trainings(run, config, space, genotype, learn, held)
    rehearsal = training_loop.rehearsal(net, learn.batch(0, c.batch)[0])
    with resumable.threads_for(run, "train", rehearsal, device(config).type == "cpu"):
        rounded = yield from _both(trainings, net)
        goal = objective(config, space)
        reached = {
            "psnr_patches_float": training_loop.measure(net, held, goal),
            "psnr_patches_rounded": training_loop.measure(rounded, held, goal),
        }
    network.save(rounded, run.weights("trained"), space)
    run.finish(
        "train",
        {
            "seconds": time.monotonic() - began,
            "began_with": origin,
            **reached,
            "photographs": loaded.counts(),
        },
    )


def _both(trainings: "_Trainings", net: nn.Module) -> Generator[Progress, None, nn.Module]:
    """Train `net` in float, in place; the network trained with rounding, or `net` without any."""
    run, config, space, c = trainings.run, trainings.config, trainings.space, trainings.config.train
    teacher = initial_weights.teacher_of(run, config) if c.teacher not in (None, "own") else None
    if c.start != "float":
        yield from fit(run, device(config), "float", net, trainings.lesson(False, teacher))
    network.save(net, run.weights("float"), space)
    rounded, precision = net, genotypes.searched_precision(trainings.genotype)
    if not space.is_float:
        rounded = network.build(space, trainings.genotype, precision)
        network.inherit(rounded, net)
        network.initialise(rounded, trainings.learn.batch(0, config.quantize.crops)[0])
        teacher = initial_weights.teacher_of(run, config) if c.teacher == "own" else teacher
        yield from fit(run, device(config), "rounded", rounded, trainings.lesson(True, teacher))
    processes.disconnect()  # nothing after this is shared
    return rounded


@dataclass(frozen=True)
class _Trainings:
    """The data that both trainings of the step have in common."""

    run: Run
    config: RunConfig
    space: SearchSpace
    genotype: Genotype
    learn: patches.Patches
    held: patches.Patches

    def lesson(self, rounded: bool, teacher: initial_weights.Teacher | None) -> Lesson:
        """The lesson of the float network, or of the one with rounding."""
        more = {
            "genotype": self.genotype.to_json(),
            "rounded": rounded,
            "teacher": None if teacher is None else teacher.sent(),
        }
        return Lesson(
            self.learn,
            self.held,
            schedule(self.config, rounded, self.space.is_float),
            objective(self.config, self.space, teacher),
            Shared("train", self.run, self.config, self.space, self.learn, more),
        )


def assist(task: Mapping[str, Any], config: RunConfig) -> Iterator[training_loop.TrainingStep]:
    """Share a training loop of the first process (`processes.tasks`); nothing is saved."""
    space, (learn, held) = shared_loops.material(task, config, config.train.patch, SHARES)
    genotype, rounded = genotypes.from_json(task["genotype"], "the first process"), task["rounded"]
    net = network.build(
        space, genotype, genotypes.searched_precision(genotype) if rounded else None
    )
    plan, teacher = schedule(config, rounded, space.is_float), None
    if task["teacher"] is not None:
        teacher = initial_weights.received(task["teacher"])
    state = training_loop.start(net.to(device(config)), plan.lr, plan.average > 0)
    checkpoint.restore(state.parts(), task["state"])
    goal = objective(config, space, teacher)
    return training_loop.fit(state, learn, held, plan, goal, task["first"])


def objective(
    config: RunConfig, space: SearchSpace, teacher: initial_weights.Teacher | None = None
) -> training_loop.Objective:
    """The objective of a training: loss, and the teacher's output if there is one."""
    c, target = config.train, None if teacher is None else teacher.target(device(config))
    return training_loop.Objective(
        loss=c.loss, colours=space.colours, share=c.teacher_share, teacher=target
    )


def schedule(config: RunConfig, rounded: bool, is_float: bool = False) -> training_loop.Schedule:
    """The schedule of the float training, or of the one with rounding.

    is_float: whether the space is in float, so that no training with rounding follows.
    """
    c = config.train
    limit = None
    if c.max_hours is not None:
        rounding = 0 if is_float else ROUNDED_COST * c.qat_steps
        costs = (0 if c.start == "float" else c.float_steps, rounding)
        limit = 3600 * c.max_hours * costs[rounded] / max(1, sum(costs))
    return training_loop.Schedule(
        steps=c.qat_steps if rounded else c.float_steps,
        batch=c.batch,
        lr=c.qat_lr if rounded else c.lr,
        check=c.check,
        warmup=c.warmup,
        average=c.average,
        seconds=limit,
    )


def fit(
    run: Run,
    torch_device: torch.device,
    phase: str,
    net: nn.Module,
    lesson: Lesson,
    state: training_loop.TrainingState | None = None,
) -> Iterator[Progress]:
    """Train `net` in place; at the end it is back on the CPU, with its best weights.

    Its last weights are saved as a checkpoint of their own. state: a training state of `net`, for
    an optimizer of another kind.
    """
    plan, net = lesson.schedule, net.to(torch_device)
    if state is None:
        state = training_loop.start(net, plan.lr, plan.average > 0)
    label = "PSNR" if lesson.objective.target is training_loop.truth else "PSNR to float"
    show = _figures(plan.batch, label)

    def steps(first: int) -> Iterator[training_loop.TrainingStep]:
        records = training_loop.fit(state, lesson.learn, lesson.held, plan, lesson.objective, first)
        shared = lesson.shared
        return records if shared is None else shared.lead(records, first, state.parts())

    def total() -> int:
        return state.pace.steps or plan.steps

    on_cpu = torch_device.type == "cpu"
    loop = Phase(phase, total, state.parts(), steps, show, on_cpu=on_cpu)
    yield from resumable.perform(run, loop)
    if state.last:
        network.save_tensors(state.last, run.weights(f"{phase}_last"))
    net.cpu()


def _figures(
    batch: int, label: str
) -> Callable[[training_loop.TrainingStep], dict[str, str | None]]:
    """A function that gives the displayed figures of a step; label: name of the PSNR."""
    seen: list[tuple[int, float]] = []  # the first step and the last one, with their times

    def show(step: training_loop.TrainingStep) -> dict[str, str | None]:
        seen[1:] = [(step.step, time.monotonic())]
        (first, began), (last, now) = seen[0], seen[-1]
        speed = batch * (last - first) / max(1e-9, now - began)
        return {
            "loss": f"{step.loss:.4f}",
            label: None if step.psnr is None else f"{step.psnr:.2f}",
            "patches/s": "-" if last == first else f"{speed:.0f}",
        }

    return show
