"""The quantization as a step of a run: which photographs, which bits, in which stages."""

import copy
import time
from collections.abc import Generator, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from . import (
    baselines,
    closed_form,
    damage_plot,
    network,
    patches,
    photographs,
    quantize,
    retrain,
    searching,
    train,
    training,
    widths,
)
from .config import RunConfig
from .patches import Patches
from .phases import Progress
from .runs import Run
from .saliency import Saliency
from .space import SearchSpace
from .training import Lesson
from .workspace import architecture, device, need

ENDLESS = 10**7
"""Steps of a retraining that only time limits."""


def quantize_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """The float network -> one on integers, at the bits that are given, searched or chosen."""
    where, found = architecture(run)
    c, began = config.quantize, time.monotonic()
    learn, held, counts = yield from _calibration(run, config, where)
    teacher = network.build(where, found, None)
    network.load(teacher, need(run.weights("float"), "train"), where)
    low = learn.batch(0, c.crops)[0]
    quantize.require_finite(teacher)
    quantize.require_finite_outputs(teacher, low)
    yield Progress("saliency", 0, 1, {})
    chosen = widths.plan(where, found, config, teacher, low)
    widths.save(chosen, run.folder)
    source = f"{c.crops} crops of {c.patch}x{c.patch} low-resolution pixels"
    told = (f"calibration: {source} from {_origin(config)}", *widths.notes(chosen))
    yield Progress("saliency", 1, 1, {}, told)
    objective = train.Objective(quantize.teacher_target(teacher), colours=where.colours)
    net = network.build(where, found, chosen.precision)
    plainly = _begin(run, config, net, teacher, low)
    plain = None if plainly is None else train.measure(plainly, held, objective)
    before = train.measure(net, held, objective)
    yield from _retrain(run, config, (net, teacher, chosen.saliency), (learn, held), began)
    frozen = quantize.freeze(net)
    quantize.require_finite(frozen)
    network.save(frozen, run.weights("quantized"), where)
    run.finish(
        "quantize",
        {
            "seconds": time.monotonic() - began,
            "bits": c.budget or config.bits or "as searched",
            "act_bits": config.act_bits if config.bits else "as searched or chosen",
            "method": c.method,
            "calibration": f"{source} from {_origin(config)}",
            "psnr_to_float_predicted": damage_plot.psnr(chosen.mse),
            "psnr_to_float_plain_rounding": plain,
            "psnr_to_float_before_training": before,
            "psnr_to_float": train.measure(frozen, held, objective),
            "photographs": counts,
        },
    )


def _origin(config: RunConfig) -> str:
    """Where the crops come from, in words."""
    if config.quantize.calib is not None:
        made = "" if config.quantize.reduce else ", taken as low resolution"
        return f"{config.quantize.calib}{made}"
    return config.data or "the bundled photographs"


def _calibration(
    run: Run, config: RunConfig, where: SearchSpace
) -> Generator[Progress, None, tuple[Patches, Patches, dict[str, int]]]:
    """Crops for learning, crops for measuring, and how many photographs they come from."""
    c = config.quantize
    photos, scale = None, int(where.scale)
    if c.calib is not None:
        scale = where.scale if c.reduce else 1  # at 1, what is read stays as it is
        photos = photographs.find(c.calib, scale)
    loaded = yield from searching.reading(run, config, scale, c.patch, photos)
    learn, held = patches.split(loaded.pairs, c.patch, config.seed, training.SHARES)
    return learn, held, loaded.counts()


def _begin(
    run: Run, config: RunConfig, net: nn.Module, teacher: nn.Module, low: Tensor
) -> nn.Module | None:
    """Weights and grids before retraining, in place; what plain rounding gives, to compare with.

    At the bits of the search the network comes as it was trained with rounding.
    """
    c, where = config.quantize, architecture(run)[0]
    if config.bits is None and c.budget is None and c.method == "saliency":
        network.load(net, need(run.weights("trained"), "train"), where)
        return None
    network.inherit(net, teacher)
    plainly = copy.deepcopy(net)
    quantize.initialise(plainly, low)
    if c.method == "saliency":
        closed_form.improve(net, teacher, low)
    else:
        baselines.apply(c.method, net, teacher, low)
    return plainly


def _retrain(
    run: Run,
    config: RunConfig,
    nets: tuple[nn.Module, nn.Module, Saliency],
    crops: tuple[Patches, Patches],
    began: float,
) -> Iterator[Progress]:
    """Retraining against the float network, in place, where that is asked for."""
    (net, teacher, found), (learn, held), c = nets, crops, config.quantize
    steps = c.steps if c.minutes is None else ENDLESS
    if c.method != "saliency" or c.train == "none" or not steps:
        return
    where = device(config)
    low = learn.batch(0, c.crops)[0].to(where)
    torch.manual_seed(config.seed)
    retrain.free(net, c.train)
    for module in (net, teacher):
        module.to(where)
    target = quantize.teacher_target(teacher)
    objective = train.Objective(target, colours=architecture(run)[0].colours)
    state = retrain.start(net, teacher, low, c.rate)
    state.best.keep(train.measure(net, held, objective), net)
    with retrain.penalty(net, teacher, found, low, objective, c) as penalty:
        if c.block_steps and not run.resume_point("quantize").exists():
            for done, total in retrain.reconstruct(net, teacher, low, c.block_steps, c.rate):
                yield Progress("blocks", done, total, {})
            state.best.keep(train.measure(net, held, objective), net)
        left = None if c.minutes is None else max(1.0, 60 * c.minutes - time.monotonic() + began)
        schedule = train.Schedule(steps, c.batch, c.rate, seconds=left)
        lesson = Lesson(learn, held, schedule, replace(objective, penalty=penalty))
        yield from training.fit(run, where, "quantize", net, lesson, state)
    teacher.cpu()
    retrain.merge(net)
    corrected = copy.deepcopy(net)
    quantize.correct_biases(corrected, teacher, low.cpu())
    if train.measure(corrected, held, objective) > train.measure(net, held, objective):
        net.load_state_dict(corrected.state_dict())
