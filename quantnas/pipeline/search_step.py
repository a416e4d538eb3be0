"""The step `search` finds the genotype, by gradient or at random."""

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quantnas.architectures import cost, network, registry
from quantnas.config import files, search_space
from quantnas.config import genotype as genotypes
from quantnas.config.files import write_text
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import RunConfig
from quantnas.config.search_space import SearchSpace
from quantnas.data import patches, photo_cache
from quantnas.nas import gradient_search, inheritance, random_search, supernet
from quantnas.nas.trial_training import Contest, TrialStep
from quantnas.progress import Progress
from quantnas.reporting.plots import architecture_diagram, search_curves
from quantnas.runs import resumable, run_settings
from quantnas.runs.resumable import Phase
from quantnas.runs.run_folder import Run
from quantnas.runs.run_settings import GIVEN
from quantnas.training import checkpoint, training_loop
from quantnas.training.processes import device

from . import load_photographs, shared_loops
from .shared_loops import Shared

SHARES = (0.45, 0.45, 0.1)
"""Shares of the patches for weights, for alphas, and for validating decided networks."""


def search_step(run: Run, config: RunConfig, warm: Path | None = None) -> Iterator[Progress]:
    """Search, and write genotype.json and the weights of the chosen candidates.

    No weights are written where the genotype was given, or where the space leaves no choice.
    warm: file with the state after the warm-up. A gradient search continues from it if it exists,
    and writes it otherwise; searches that differ in their budget alone can share it.
    """
    space = _space(run, config)
    if not space.source:  # that of an imported network was written before
        write_text(run.path("space.yaml"), search_space.to_yaml(space))
    file = run.folder / GIVEN
    genotype = registry.known_genotype(space, file if file.exists() else None)
    if genotype is not None:
        _write_genotype(run, "last", genotype)
        facts = {"seconds": 0.0, "kept": "nothing to choose", "share_decided": 1.0}
        _finish(run, config, space, genotype, facts)
        return
    loaded = yield from load_photographs.reading(run, config, space.scale, config.search.patch)
    counts = {"photographs": loaded.counts()}
    material = _material(config, loaded)
    if config.search.strategy == "random":
        yield from _random(run, config, space, material, counts)
    else:
        yield from _gradient(run, config, space, material, counts, warm)


def assist(task: Mapping[str, Any], config: RunConfig) -> Iterator[gradient_search.SearchStep]:
    """Share a search loop of the first process (`processes.tasks`); nothing is saved."""
    space, parts = shared_loops.material(task, config, config.search.patch, SHARES)
    _, loop = _loop(config, space, gradient_search.Material(*parts))
    checkpoint.restore(loop.state.parts(), task["state"])
    return loop.steps(task["first"])


def _space(run: Run, config: RunConfig) -> SearchSpace:
    file = run.folder / "space.yaml"
    return (
        run_settings.space_of(run)
        if file.exists()
        else search_space.load(config.space, config.scale)
    )


def _material(config: RunConfig, loaded: photo_cache.Loaded) -> gradient_search.Material:
    size = config.search.patch
    return gradient_search.Material(*patches.split(loaded.pairs, size, config.seed, SHARES))


def _loop(
    config: RunConfig, space: SearchSpace, material: gradient_search.Material
) -> tuple[torch.nn.Module, gradient_search.Searching]:
    torch.manual_seed(config.seed)
    net = supernet.build(space, config.search).to(device(config))
    return net, gradient_search.Searching(
        space, gradient_search.start(net, config.search), material, config.search
    )


def _gradient(
    run: Run,
    config: RunConfig,
    space: SearchSpace,
    material: gradient_search.Material,
    counts: Mapping[str, object],
    warm: Path | None,
) -> Iterator[Progress]:
    began, c = time.monotonic() - run.spent, config.search
    net, loop = _loop(config, space, material)
    total, parts, show = (
        c.epochs * c.steps_per_epoch,
        loop.state.parts(),
        partial(_figures, at=c.at),
    )
    kept = (
        {}
        if warm is None or _start_warm(run, warm)
        else {c.warmup_epochs * c.steps_per_epoch: warm}
    )
    shared = Shared("search", run, config, space, material.weights)

    def steps(first: int) -> Iterator[gradient_search.SearchStep]:
        return shared.lead(loop.steps(first), first, parts)

    on_cpu = device(config).type == "cpu"
    phase = Phase(
        "search", lambda: total, parts, steps, show, lambda s: s.check is not None, kept, on_cpu
    )
    yield from resumable.perform(run, phase)
    genotype, tried = yield from _choose(run, config, loop)
    share_decided, best = loop.share_decided(), loop.state.checks.best
    torch.manual_seed(config.seed)  # the same noise whether this run was interrupted or not
    batches = [material.weights.batch(total + i, c.batch)[0].to(device(config)) for i in range(20)]
    rounded = gradient_search.decided_network(space, genotype, net, batches)
    decided = network.build(space, genotype, None).to(device(config))
    inheritance.inherit_supernet(decided, net)
    result = {
        "kept": c.keep,
        "trial": tried,
        "share_decided": share_decided,
        "best": None if best is None else asdict(best),
        "psnr_patches_supernet": training_loop.measure(net, material.held),
        "psnr_patches_rounded": training_loop.measure(rounded, material.held),
        "psnr_patches_folded": training_loop.measure(decided, material.held),
    }
    network.save(decided, run.weights("searched"), space)
    search_curves.draw(run.folder, space)
    _finish(run, config, space, genotype, {"seconds": time.monotonic() - began, **result, **counts})


def _start_warm(run: Run, warm: Path) -> bool:
    """Let a search that has not begun continue from the state in `warm`; False without the file."""
    if not warm.exists():
        return False
    point = run.resume_point("search")
    if not point.exists():
        files.copy(resumable.records_of(warm), run.path("metrics.jsonl"))
        files.copy(warm, point)
    return True


def _choose(
    run: Run, config: RunConfig, loop: gradient_search.Searching
) -> Generator[Progress, None, tuple[Genotype, list[dict[str, float]] | None]]:
    """Save the decided genotypes; the chosen one, and the scores of all in a trial training."""
    c, last, best = config.search, loop.decide(), loop.state.checks.best
    _write_genotype(run, "last", last)
    if best is not None:
        _write_genotype(run, "best", best.genotype)
    if c.keep == "trial":
        rivals = loop.state.checks.distinct(c.samples) or [last]
        steps = c.trial_steps * len(rivals)
        contest = Contest(loop.space, c, rivals, steps, device(config))
        yield from _perform_contest(run, "trial", contest, loop.material)
        return contest.winner()[0], contest.scores()
    return best.genotype if best is not None and c.keep == "best" else last, None


def _random(
    run: Run,
    config: RunConfig,
    space: SearchSpace,
    material: gradient_search.Material,
    counts: Mapping[str, object],
) -> Iterator[Progress]:
    began, c = time.monotonic() - run.spent, config.search
    drawn = random_search.draw(registry.slots(space), space, c, c.samples, config.seed)
    contest = Contest(space, c, drawn, c.epochs * c.steps_per_epoch, device(config))
    yield from _perform_contest(run, "search", contest, material)
    genotype, net = contest.winner()
    _write_genotype(run, "last", genotype)
    network.save(net, run.weights("searched"), space)
    result = {"kept": "best of random", "samples": contest.scores(), "share_decided": 1.0}
    _finish(run, config, space, genotype, {"seconds": time.monotonic() - began, **result, **counts})


def _perform_contest(
    run: Run, phase: str, contest: Contest, material: gradient_search.Material
) -> Iterator[Progress]:
    """Perform a contest as a phase of the run."""

    def steps(first: int) -> Iterator[TrialStep]:
        return contest.steps(material, first)

    def show(step: TrialStep) -> dict[str, str | None]:
        return {
            "architecture": f"{step.sample}/{len(contest.genotypes)}",
            "loss": f"{step.loss:.4f}",
            "GBitOps": f"{step.bitops / 1e9:.2f}",
            "best PSNR": None if step.best is None else f"{step.best:.2f}",
        }

    parts = {"contest": contest}
    on_cpu = contest.device.type == "cpu"
    loop = Phase(phase, lambda: contest.total, parts, steps, show, on_cpu=on_cpu)
    yield from resumable.perform(run, loop)


def _figures(step: gradient_search.SearchStep, at: str) -> dict[str, str | None]:
    """The displayed figures of a step; at: the resolution of its BitOps."""
    return {
        "loss": f"{step.loss:.4f}",
        "PSNR": f"{step.psnr:.2f}",
        "decided PSNR": None if step.check is None else f"{step.check.psnr:.2f}",
        "entropy": f"{step.entropy:.2f}",
        "decided": f"{step.decided:.0%}",
        f"GBitOps@{at}": f"{step.bitops / 1e9:.2f}",
        "decided GBitOps": f"{step.decided_bitops / 1e9:.2f}",
    }


def _write_genotype(run: Run, name: str, genotype: Genotype) -> None:
    write_text(run.path(f"genotype_{name}.json"), genotype.to_json() + "\n")


def _finish(
    run: Run, config: RunConfig, space: SearchSpace, genotype: Genotype, result: dict[str, object]
) -> None:
    write_text(run.path("genotype.json"), genotype.to_json() + "\n")
    precision = genotypes.searched_precision(genotype)
    rows = cost.layers(registry.slots(space), genotype, precision, space.scale)
    decided = network.build(space, genotype, precision)
    architecture_diagram.architecture(decided, space, rows, run.path("plots/architecture.png"))
    at = cost.bitops_at(rows, config.search.resolution, space.scale)
    costs = {"bitops": cost.total(rows, space.scale).bitops, "bitops_at": {config.search.at: at}}
    run.finish("search", result | costs)
