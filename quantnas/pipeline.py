"""The steps of a run, from photographs to a verified file: each reads and writes a run folder.

Every step is a generator of `Progress`, so that the caller may draw it, or stop it: closing the
generator saves the state, and calling the step again goes on from there.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from . import (
    bicubic,
    crops,
    diagram,
    evaluate,
    export,
    genotype,
    images,
    network,
    patches,
    phases,
    quantize,
    report,
    searching,
    train,
    verify,
)
from .config import RunConfig
from .phases import Phase, Progress
from .runs import Run, require, to_json, write_text
from .workspace import architecture, device, need, photographs, precision_of, quantized

SAMPLE = 768
"""Side of the middle part of a photograph on which a file is compared with torch, pixels."""


def train_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """The genotype -> a float network and one trained with rounding, both saved."""
    where, found = architecture(run)
    c, began = config.train, time.monotonic()
    learn, held = _train_patches(run, config, where.scale, c.patch)
    net = network.build(where, found, None)
    network.load(net, need(run.weights("searched"), "search"))
    lesson = Lesson(learn, held, train.Schedule(c.float_steps, c.batch, c.lr))
    yield from _fit(run, device(config), "float", net, lesson)
    network.save(net, run.weights("float"))
    rounded = net
    if not where.is_float:
        rounded = network.build(where, found, genotype.searched_precision(found))
        network.inherit(rounded, net)
        quantize.initialise(rounded, learn.batch(0, config.quantize.crops)[0])
        lesson = Lesson(learn, held, train.Schedule(c.qat_steps, c.batch, c.qat_lr))
        yield from _fit(run, device(config), "rounded", rounded, lesson)
    network.save(rounded, run.weights("trained"))
    run.finish(
        "train",
        {
            "seconds": time.monotonic() - began,
            "psnr_patches_float": train.measure(net, held),
            "psnr_patches_rounded": train.measure(rounded, held),
        },
    )


def quantize_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """The trained network -> one on integers, at `config.bits` or as searched."""
    where, found = architecture(run)
    c, began = config.quantize, time.monotonic()
    learn, held = _train_patches(run, config, where.scale, c.patch)
    teacher = network.build(where, found, None)
    network.load(teacher, need(run.weights("float"), "train"))
    target = quantize.teacher_target(teacher)
    precision = precision_of(where, found, config.bits)
    net = network.build(where, found, precision)
    plainly = None
    if config.bits is None:
        network.load(net, need(run.weights("trained"), "train"))
    else:
        network.inherit(net, teacher)
        low = learn.batch(0, c.crops)[0]
        quantize.initialise(net, low)
        plainly = train.measure(net, held, target)
        quantize.correct_biases(net, teacher, low)
    before = train.measure(net, held, target)
    lesson = Lesson(learn, held, train.Schedule(c.steps, c.batch, c.lr), target)
    teacher.to(device(config))
    yield from _fit(run, device(config), "quantize", net, lesson)
    teacher.cpu()
    frozen = quantize.freeze(net)
    network.save(frozen, run.weights("quantized"))
    write_text(run.path("precision.json"), to_json({n: asdict(p) for n, p in precision.items()}))
    run.finish(
        "quantize",
        {
            "seconds": time.monotonic() - began,
            "bits": config.bits or "as searched",
            "calibration": f"{c.crops} patches of {c.patch}x{c.patch} low-resolution pixels",
            "psnr_to_float_plain_rounding": plainly,
            "psnr_to_float_before_training": before,
            "psnr_to_float": train.measure(frozen, held, target),
        },
    )


def export_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """The quantized network -> model.onnx, loaded and compared before it gets that name."""
    yield Progress("export", 0, 2, {})
    where, net, totals = quantized(run)
    target, candidate = run.path("model.onnx"), run.path("model.rejected.onnx")
    export.to_onnx(net, totals, where.scale, candidate)
    yield Progress("export", 1, 2, {"bytes": str(candidate.stat().st_size)})
    held_out = photographs(run, config).held_out
    samples = [patches.pair(p, where.scale, SAMPLE).low for p in held_out[:2]]
    samples.append(samples[0][: samples[0].shape[0] * 2 // 3 | 1])  # a second size, with odd sides
    found = verify.verify(candidate, net, samples)
    candidate.replace(target)
    yield Progress("export", 2, 2, {"max difference": f"{found.max_steps} steps"})
    run.finish(
        "export",
        {
            "file": target.name,
            "bytes": target.stat().st_size,
            "sha256": export.sha256(target),
            "verification": found,
            "cost": totals,
        },
    )


def evaluate_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """The exported file on photographs that were in no training step, bicubic beside it."""
    where, found = architecture(run)
    file = evaluate.onnx_upscaler(need(run.path("model.onnx"), "export"))
    teacher = network.build(where, found, None)
    network.load(teacher, need(run.weights("float"), "train"))
    plain = evaluate.torch_upscaler(teacher)
    sets = {"held-out": photographs(run, config).held_out}
    for name, folder in evaluate.named_sets(config.benchmarks).items():
        sets[name] = tuple(images.find(folder))
    results: dict[str, dict[str, object]] = {}
    for name, paths in sets.items():
        scores = yield from score_set(name, file, paths, where.scale)
        floats = yield from score_set(f"{name} float", plain, paths, where.scale)
        results[name] = {
            "file": scores,
            "mean": evaluate.mean(scores),
            "float": floats,
            "float_mean": evaluate.mean(floats),
        }
    run.finish("evaluate", {"protocol": evaluate.PROTOCOL, "scale": where.scale, "sets": results})


def score_set(
    name: str, upscale: evaluate.Upscaler, paths: Sequence[Path], scale: int
) -> Generator[Progress, None, list[evaluate.Score]]:
    """Progress over the photographs of a set; the scores as the generator's result."""
    scores = []
    for row in evaluate.score(upscale, paths, scale):
        scores.append(row)
        gain = row.psnr - row.bicubic_psnr
        facts = {"PSNR-Y": f"{row.psnr:.2f}", "over bicubic": f"{gain:+.2f}"}
        yield Progress(f"evaluate {name}", len(scores), len(paths), facts)
    return scores


def report_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """report.json, report.md and the pictures."""
    require(run, until="report")
    yield Progress("report", 0, 3, {})
    where, found = architecture(run)
    totals = quantized(run)[2]
    diagram.architecture(where, totals.layers, run.path("plots/architecture.png"))
    yield Progress("report", 1, 3, {})
    teacher = network.build(where, found, None)
    network.load(teacher, run.weights("float"))
    p = patches.pair(photographs(run, config).held_out[-1], where.scale, SAMPLE)
    versions = {
        "bicubic": bicubic.upscale(p.low, where.scale),
        "float": evaluate.torch_upscaler(teacher)(p.low),
        "quantized file": evaluate.onnx_upscaler(run.path("model.onnx"))(p.low),
        "original": p.high,
    }
    crops.crops(versions, where.scale, p.name, run.path("plots/crop.png"))
    yield Progress("report", 2, 3, {})
    data = report.collect(run)
    write_text(run.path("report.json"), to_json(data))
    write_text(run.path("report.md"), report.markdown(data))
    run.finish("report", {"files": ["report.json", "report.md", "plots"]})
    yield Progress("report", 3, 3, {})


Step = Callable[[Run, RunConfig], Iterator[Progress]]

STEPS: dict[str, Step] = {
    "search": searching.search_step,
    "train": train_step,
    "quantize": quantize_step,
    "export": export_step,
    "evaluate": evaluate_step,
    "report": report_step,
}


@dataclass(frozen=True)
class Lesson:
    """What a network is trained on, and how."""

    learn: patches.Patches
    held: patches.Patches
    schedule: train.Schedule
    target: train.Target = train.truth


def _train_patches(
    run: Run, config: RunConfig, scale: int, size: int
) -> tuple[patches.Patches, ...]:
    pairs = patches.load(photographs(run, config).train, scale, size)
    return patches.split(pairs, size, config.seed, (0.9, 0.1))


def _fit(
    run: Run, where: torch.device, phase: str, net: nn.Module, lesson: Lesson
) -> Iterator[Progress]:
    """Train `net`, in place; it is back on the CPU at the end."""
    state = train.start(net.to(where), lesson.schedule.lr)
    last = {"PSNR": "-"}

    def steps(first: int) -> Iterator[train.Step]:
        return train.fit(state, lesson.learn, lesson.held, lesson.schedule, lesson.target, first)

    def show(step: train.Step) -> dict[str, str]:
        if step.psnr is not None:
            last["PSNR"] = f"{step.psnr:.2f}"
        return {"loss": f"{step.loss:.4f}", **last}

    total = lesson.schedule.steps
    yield from phases.perform(run, Phase(phase, total, state.parts(), steps, show))
    net.cpu()
