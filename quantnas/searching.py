"""The search as a step of a run: what it reads, shows, keeps and leaves in the folder."""

import time
from collections.abc import Generator, Iterator
from dataclasses import asdict

import torch

from . import (
    checkpoint,
    cost,
    diagram,
    genotype,
    network,
    patches,
    phases,
    random_search,
    search,
    skeleton,
    space,
    supernet,
    train,
    trajectory,
)
from .config import RunConfig
from .contest import Contest, Trial
from .genotype import Genotype
from .phases import Phase, Progress
from .runs import Run, write_text
from .space import SearchSpace
from .workspace import device, photographs

SHARES = (0.45, 0.45, 0.1)
"""Of the patches for weights, for alphas, and for the decided network."""


def search_step(run: Run, config: RunConfig) -> Iterator[Progress]:
    """Photographs -> genotype.json and the chosen candidates' weights."""
    where = _space(run, config)
    write_text(run.path("space.yaml"), space.to_yaml(where))
    strategy = _random if config.search.strategy == "random" else _gradient
    yield from strategy(run, config, where, _material(run, config, where.scale))


def assist(run: Run, config: RunConfig) -> None:
    """What all processes but the first do (`team`): the same steps on their rows, no files."""
    where = _space(run, config)
    _, loop = _loop(config, where, _material(run, config, where.scale))
    done = checkpoint.load(run.resume_point("search"), loop.state.parts())
    for _ in loop.steps(done):
        pass


def _space(run: Run, config: RunConfig) -> SearchSpace:
    mine = run.folder / "space.yaml"
    return space.load(str(mine)) if mine.exists() else space.load(config.space, config.scale)


def _material(run: Run, config: RunConfig, scale: int) -> search.Material:
    size = config.search.patch
    pairs = patches.load(photographs(run, config).train, scale, size)
    return search.Material(*patches.split(pairs, size, config.seed, SHARES))


def _loop(
    config: RunConfig, where: SearchSpace, material: search.Material
) -> tuple[torch.nn.Module, search.Searching]:
    torch.manual_seed(config.seed)
    net = supernet.build(where, config.search).to(device(config))
    return net, search.Searching(where, search.start(net, config.search), material, config.search)


def _gradient(
    run: Run, config: RunConfig, where: SearchSpace, material: search.Material
) -> Iterator[Progress]:
    began, c = time.monotonic(), config.search
    net, loop = _loop(config, where, material)
    total, parts, show = c.epochs * c.steps_per_epoch, loop.state.parts(), Show(c.at)
    phase = Phase("search", total, parts, loop.steps, show, lambda step: step.check is not None)
    yield from phases.perform(run, phase)
    found, tried = yield from _chosen(run, config, loop)
    sure, best = loop.share_decided(), loop.state.checks.best
    torch.manual_seed(config.seed)  # the same noise whether this run was interrupted or not
    batches = [material.weights.batch(total + i, c.batch)[0].to(device(config)) for i in range(20)]
    rounded = search.decided_network(where, found, net, batches)
    decided = network.build(where, found, None).to(device(config))
    network.inherit_supernet(decided, net)
    result = {
        "kept": c.keep,
        "trial": tried,
        "share_decided": sure,
        "best": None if best is None else asdict(best),
        "psnr_patches_supernet": train.measure(net, material.held),
        "psnr_patches_rounded": train.measure(rounded, material.held),
        "psnr_patches_folded": train.measure(decided, material.held),
    }
    network.save(decided, run.weights("searched"))
    trajectory.draw(run.folder, where)
    _finish(run, config, where, found, {"seconds": time.monotonic() - began, **result})


def _chosen(
    run: Run, config: RunConfig, loop: search.Searching
) -> Generator[Progress, None, tuple[Genotype, list[dict[str, float]] | None]]:
    """Keep what was decided; the genotype to go on with, and how its rivals did in a trial."""
    c, last, best = config.search, loop.decide(), loop.state.checks.best
    _keep(run, "last", last)
    if best is not None:
        _keep(run, "best", best.genotype)
    if c.keep == "trial":
        rivals = loop.state.checks.distinct(c.samples) or [last]
        steps = c.trial_steps * len(rivals)
        contest = Contest(loop.space, c, rivals, steps, device(config))
        yield from _hold(run, "trial", contest, loop.material)
        return contest.winner()[0], contest.scores()
    return best.genotype if best is not None and c.keep == "best" else last, None


def _random(
    run: Run, config: RunConfig, where: SearchSpace, material: search.Material
) -> Iterator[Progress]:
    began, c = time.monotonic(), config.search
    drawn = random_search.draw(skeleton.slots(where), where, c, c.samples, config.seed)
    contest = Contest(where, c, drawn, c.epochs * c.steps_per_epoch, device(config))
    yield from _hold(run, "search", contest, material)
    found, net = contest.winner()
    _keep(run, "last", found)
    network.save(net, run.weights("searched"))
    result = {"kept": "best of random", "samples": contest.scores(), "share_decided": 1.0}
    _finish(run, config, where, found, {"seconds": time.monotonic() - began, **result})


def _hold(run: Run, phase: str, contest: Contest, material: search.Material) -> Iterator[Progress]:
    """The contest as a phase of the run."""

    def steps(first: int) -> Iterator[Trial]:
        return contest.steps(material, first)

    def show(step: Trial) -> dict[str, str]:
        return {
            "architecture": f"{step.sample}/{len(contest.genotypes)}",
            "loss": f"{step.loss:.4f}",
            "GBitOps": f"{step.bitops / 1e9:.2f}",
            "best PSNR": "-" if step.best is None else f"{step.best:.2f}",
        }

    parts = {"contest": contest}
    yield from phases.perform(run, Phase(phase, contest.total, parts, steps, show))


class Show:
    """What is shown of a step; the last check stays visible until the next one."""

    def __init__(self, at: str) -> None:
        self.at, self.checked = at, "-"

    def __call__(self, step: search.Step) -> dict[str, str]:
        if step.check is not None:
            self.checked = f"{step.check.psnr:.2f}"
        return {
            "loss": f"{step.loss:.4f}",
            "PSNR": f"{step.psnr:.2f}",
            "decided PSNR": self.checked,
            "entropy": f"{step.entropy:.2f}",
            "decided": f"{step.decided:.0%}",
            f"GBitOps@{self.at}": f"{step.bitops / 1e9:.2f}",
            "decided GBitOps": f"{step.decided_bitops / 1e9:.2f}",
        }


def _keep(run: Run, name: str, found: Genotype) -> None:
    write_text(run.path(f"genotype_{name}.json"), found.to_json() + "\n")


def _finish(
    run: Run, config: RunConfig, where: SearchSpace, found: Genotype, result: dict[str, object]
) -> None:
    write_text(run.path("genotype.json"), found.to_json() + "\n")
    precision = genotype.searched_precision(found)
    rows = cost.layers(skeleton.slots(where), found, precision, where.scale)
    diagram.architecture(where, rows, run.path("plots/architecture.png"))
    at = cost.bitops_at(rows, config.search.resolution, where.scale)
    costs = {"bitops": cost.total(rows, where.scale).bitops, "bitops_at": {config.search.at: at}}
    run.finish("search", result | costs)
