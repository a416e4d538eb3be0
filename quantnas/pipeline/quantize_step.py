"""The step `quantize` chooses bit widths, rounds the float network, and retrains it."""

import copy
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantnas.architectures import network
from quantnas.architectures.imported_onnx import ImportedNetwork
from quantnas.config.files import to_json, write_text
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import Precision, SearchSpace
from quantnas.data import patches, photographs
from quantnas.data.patches import Patches
from quantnas.progress import Progress
from quantnas.quantization import (
    baselines,
    bit_widths,
    carry,
    least_squares,
    post_training,
    retraining,
    saliency,
)
from quantnas.quantization.bit_widths import Plan
from quantnas.quantization.carry import Carry
from quantnas.quantization.saliency import Saliency
from quantnas.reporting.plots import damage_chart
from quantnas.runs import resumable
from quantnas.runs.networks import architecture, need
from quantnas.runs.run_folder import Run
from quantnas.runs.run_photographs import photographs_of
from quantnas.training import checkpoint, training_loop
from quantnas.training.processes import device

from . import activation_ranges, carry_choice, load_photographs, train_step
from .train_step import Lesson

ENDLESS = 10**7
"""Number of steps of a retraining that only time limits."""
START = "quantize_start"
"""Phase whose saved state is the network before the retraining."""
FEW = 20
"""Steps of retraining below which a time limit was too short."""


@dataclass
class SavedFacts:
    """Facts that are known before the retraining; a part of its saved state."""

    values: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.update(state)


@dataclass(frozen=True)
class Work:
    """The data that all stages of a quantization share."""

    run: Run
    config: RunConfig
    space: SearchSpace
    genotype: Genotype
    teacher: nn.Module
    learn: Patches
    """Patches of the calibration set."""
    held: Patches
    """Validation patches."""
    facts: SavedFacts
    before: float
    """Seconds that the step had taken before an interruption."""
    began: float
    """Monotonic time at which this process began the step, seconds."""

    @property
    def seconds(self) -> float:
        """Seconds that the step has taken so far."""
        return self.before + time.monotonic() - self.began

    @property
    def low(self) -> Tensor:
        """The calibration crops, (crops, 3, H, W) in [0, 1]."""
        return self.learn.batch(0, self.config.quantize.crops)[0]

    @property
    def objective(self) -> training_loop.Objective:
        """The training objective: closeness to the float network."""
        target = training_loop.teacher_target(self.teacher)
        return training_loop.Objective(target, colours=self.space.colours)

    def measure(self, net: nn.Module) -> float:
        """PSNR of a network against the float one on validation patches, dB."""
        return training_loop.measure(net, self.held, self.objective)


def quantize_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """Quantize the float network to the bit widths that are given, searched, or chosen now."""
    space, genotype = architecture(run)
    c, began, before = config.quantize, time.monotonic(), run.spent
    learn, held, counts = yield from _calibration(run, config, space)
    teacher = network.build(space, genotype, None)
    network.load(teacher, need(run.weights("float"), "train"), space)
    work = Work(run, config, space, genotype, teacher, learn, held, SavedFacts(), before, began)
    post_training.require_finite(teacher)
    post_training.require_finite_outputs(teacher, work.low)
    source = f"{c.crops} crops of {c.patch}x{c.patch} low-resolution pixels from {_origin(config)}"
    rehearsal = training_loop.rehearsal(teacher, work.low[: c.batch])
    with resumable.threads_for(run, "saliency", rehearsal):
        precision, frozen = yield from _quantize(work, source)
        reached = work.measure(frozen)
    network.save(frozen, run.weights("quantized"), space)
    held_out = photographs_of(run, config).held_out
    cut = activation_ranges.cut(frozen, space, genotype, held_out)
    warnings = () if config.as_searched else tuple(activation_ranges.warnings(cut))
    if warnings:
        yield Progress("values beyond grids", 1, 1, {}, warnings)
    run.finish(
        "quantize",
        {
            "seconds": work.seconds,
            "bits": c.budget or config.bits or "as searched",
            "limit": getattr(c, c.budget) if c.budget else None,
            "act_bits": config.act_bits if config.bits else "as searched or chosen",
            "method": c.method,
            "calibration": source,
            **{key: value for key, value in work.facts.values.items() if key != "seconds"},
            "psnr_to_float": reached,
            "carried": carry_choice.summary(carry.load(run.folder)),
            "kept_bits": bit_widths.kept(space, config, precision),
            "reached": bit_widths.reached(space, genotype, precision),
            "in_float": bit_widths.in_float(space, genotype, precision),
            "cut": cut,
            "photographs": counts,
        },
    )


def _quantize(
    work: Work, source: str
) -> Generator[Progress, None, tuple[dict[str, Precision], nn.Module]]:
    """The bit widths and the frozen network of all stages."""
    going_on = work.run.resume_point(START).exists()
    net, precision, measured = yield from (_resume(work) if going_on else _begin(work, source))
    if work.config.quantize.retrains:
        yield from _retrain(work, net, measured)
    frozen = post_training.freeze(net)
    post_training.require_finite(frozen)
    return precision, frozen


Begun = tuple[nn.Module, dict[str, Precision], Saliency | None]
"""(rounded network before retraining, its bit widths, the saliency that `hold` needs)."""


def _begin(work: Work, source: str) -> Generator[Progress, None, Begun]:
    """Choose bit widths and round the network; saves the result if a retraining follows."""
    yield Progress("saliency", 0, 1, {})
    chosen = bit_widths.plan(work.space, work.genotype, work.config, work.teacher, work.low)
    save(chosen, work.run.folder)
    yield Progress("saliency", 1, 1, {}, (f"calibration: {source}", *notes(chosen)))
    carried = yield from _carry(work, chosen)
    net = network.build(work.space, work.genotype, chosen.precision, carried.tensors)
    plain = yield from _round(work, net)
    work.facts.values.update(
        psnr_to_float_predicted=damage_chart.psnr(chosen.mse + carried.mse),
        psnr_to_float_plain_rounding=None if plain is None else work.measure(plain),
        psnr_to_float_before_training=work.measure(net),
        seconds=time.monotonic() - work.began,
    )
    if work.config.quantize.retrains:
        checkpoint.save(work.run.resume_point(START), 0, {"net": net, "facts": work.facts})
        work.run.spend(work.seconds)
    return net, chosen.precision, chosen.saliency


def _carry(work: Work, chosen: Plan) -> Generator[Progress, None, Carry]:
    """Choose how tensors are carried between the convolutions of an imported network; saves it."""
    carried = Carry()
    if isinstance(work.teacher, ImportedNetwork):
        few = activation_ranges.images(
            work.space, work.genotype, work.learn.pairs, carry_choice.PHOTOGRAPHS,
            carry_choice.MACS,
        )  # fmt: skip
        question = carry_choice.Question(
            work.space, work.genotype, chosen.precision, work.teacher, work.low, few, work.held,
            work.config,
        )  # fmt: skip
        carried = yield from carry_choice.choose(question)
        if carried.tensors:
            network.save(work.teacher, work.run.weights(carry.TEACHER), work.space)
    carry.save(carried, work.run.folder)
    return carried


def _resume(work: Work) -> Generator[Progress, None, Begun]:
    """Load the result that `_begin` saved before an interruption."""
    precision, run = bit_widths.load(work.run.folder), work.run
    carried = carry.load(run.folder).tensors
    if carried:
        network.load(work.teacher, need(run.weights(carry.TEACHER), "quantize"), work.space)
    net = network.build(work.space, work.genotype, precision, carried)
    checkpoint.load(run.resume_point(START), {"net": net, "facts": work.facts})
    done = checkpoint.load(run.resume_point("quantize"), {})
    note = f"going on at step {done + 1} of the retraining, with the bits of precision.json"
    yield Progress("resuming", 1, 1, {}, (note,))
    hold = work.config.quantize.hold
    return net, precision, saliency.measure(work.teacher, work.low) if hold else None


def _origin(config: RunConfig) -> str:
    """The origin of the calibration crops, in words."""
    if config.quantize.calib is not None:
        made = "" if config.quantize.reduce else ", taken as low resolution"
        return f"{config.quantize.calib}{made}"
    return config.data or "the bundled photographs"


def _calibration(
    run: Run, config: RunConfig, space: SearchSpace
) -> Generator[Progress, None, tuple[Patches, Patches, dict[str, int]]]:
    """(calibration patches, validation patches, counts of their photographs)."""
    c = config.quantize
    photos, scale = None, int(space.scale)
    if c.calib is not None:
        scale = space.scale if c.reduce else 1  # at 1, photographs are not reduced
        photos = photographs.find(c.calib, scale)
    loaded = yield from load_photographs.reading(run, config, scale, c.patch, photos)
    learn, held = patches.split(loaded.pairs, c.patch, config.seed, train_step.SHARES)
    return learn, held, loaded.counts()


def _round(work: Work, net: nn.Module) -> Generator[Progress, None, nn.Module | None]:
    """Set the weights and grids of `net` before retraining; a plainly rounded copy to compare with.

    At the searched bit widths, `net` is loaded as it was trained with rounding, and None returned.
    """
    c, teacher, low = work.config.quantize, work.teacher, work.low
    if work.config.as_searched and c.method == "saliency":
        network.load(net, need(work.run.weights("trained"), "train"), work.space)
        return None
    network.inherit(net, teacher)
    yield from _measure_ranges(work, net)
    plain = copy.deepcopy(net)
    network.initialise(plain, low)
    if c.method == "saliency":
        phase, layers = "least squares", least_squares.improve(net, teacher, low)
    else:
        phase, layers = c.method, baselines.apply(c.method, net, teacher, low)
    for done, total in layers:
        yield Progress(phase, done, total, {})
    return plain


def _measure_ranges(work: Work, net: nn.Module) -> Iterator[Progress]:
    """Measure the ranges of activations on photographs, if there are to be any; warns of flat ones.

    `net` has the weights of the float network.
    """
    count, pairs = work.config.quantize.range_photos, work.learn.pairs
    if activation_ranges.flat(pairs):
        note = f"warning: flat pictures, as in {_origin(work.config)}, say nothing about ranges"
        yield Progress("flat pictures", 1, 1, {}, (note,))
    if count:
        yield from activation_ranges.measure(net, work.space, work.genotype, pairs, count)


def _retrain(work: Work, net: nn.Module, saliencies: Saliency | None) -> Iterator[Progress]:
    """Retrain `net` in place, towards the output of the float network."""
    run, config, c, teacher = work.run, work.config, work.config.quantize, work.teacher
    torch_device = device(config)
    low = work.low.to(torch_device)
    torch.manual_seed(config.seed)
    retraining.set_trainable(net, c.train)
    for module in (net, teacher):
        module.to(torch_device)
    rate = _rate(work)
    state = retraining.start(net, teacher, low, rate)
    state.best.keep(work.measure(net), net)
    with retraining.penalty(net, teacher, saliencies, low, work.objective, c) as penalty:
        if c.block_steps and not run.resume_point("quantize").exists():
            for done, total in retraining.reconstruct(net, teacher, low, c.block_steps, rate):
                yield Progress("blocks", done, total, {})
            state.best.keep(work.measure(net), net)
            run.spend(work.seconds)
        objective = replace(work.objective, penalty=penalty)
        lesson = Lesson(work.learn, work.held, _schedule(work, rate), objective)
        yield from train_step.fit(run, torch_device, "quantize", net, lesson, state)
    if c.minutes is not None and state.pace.steps < FEW:
        done = state.pace.steps
        note = f"warning: only {done} steps of retraining fit into {c.minutes:g} minutes; give more"
        yield Progress("quantize", done, done, {}, (note,))
    teacher.cpu()
    retraining.merge(net)
    corrected = copy.deepcopy(net)
    post_training.correct_biases(corrected, teacher, low.cpu())
    if work.measure(corrected) > work.measure(net):
        net.load_state_dict(corrected.state_dict())


def _rate(work: Work) -> float:
    """Learning rate of the retraining, in standard deviations of a kernel."""
    lost = work.facts.values["psnr_to_float_before_training"]
    return retraining.proportional_rate(work.config.quantize.rate, lost)


def _schedule(work: Work, rate: float) -> training_loop.Schedule:
    """Schedule of the retraining; a time limit leaves it what the earlier stages did not use."""
    c = work.config.quantize
    if c.minutes is None:
        return training_loop.Schedule(c.steps, c.batch, rate)
    spent = max(work.facts.values["seconds"], time.monotonic() - work.began)
    left = max(1.0, 60 * c.minutes - spent)
    return training_loop.Schedule(ENDLESS, c.batch, rate, seconds=left)


def save(chosen: Plan, folder: Path) -> None:
    """Write precision.json, damage.json, damage.md and plots/damage.png into a run folder."""
    write_text(folder / "precision.json", to_json(chosen.precision))
    rows = list(chosen.damage.values())
    write_text(folder / "damage.json", to_json(rows))
    head, *table = damage_chart.table(rows, chosen.precision)
    lines = [head, ["---"] * len(head), *table]
    write_text(folder / "damage.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))
    (folder / "plots").mkdir(exist_ok=True)
    damage_chart.damage(rows, chosen.precision, folder / "plots" / "damage.png")


def notes(chosen: Plan, worst: int = 6) -> Iterator[str]:
    """Lines about the bit widths per layer and the predicted damage, shown before retraining."""
    names = defaultdict(list)
    for name, widths in chosen.precision.items():
        names[f"w{widths.weights}a{widths.activations}"].append(name)
    for bits, slots in sorted(names.items()):
        few = ", ".join(slots) if len(slots) < 12 else f"{', '.join(slots[:10])}, ..."
        yield f"  {bits}: {len(slots)} of {len(chosen.precision)} layers ({few})"
    if chosen.unlimited:
        most = max(widths.weights for widths in chosen.precision.values())
        yield f"note: nothing is limited by `{chosen.limit}`: every layer gets {most} bits"
    rows = sorted(chosen.damage.values(), key=lambda d: -d.at(chosen.precision[d.slot]))
    shown = "  ".join(f"{d.slot} {d.at(chosen.precision[d.slot]):.1e}" for d in rows[:worst])
    yield (
        f"predicted output error of rounding, biases corrected: {chosen.mse:.1e} "
        f"({damage_chart.psnr(chosen.mse):.1f} dB to float); most of it from: {shown}"
    )
