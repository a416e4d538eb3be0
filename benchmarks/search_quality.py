"""What the search is worth: ways to search against random architectures of the same BitOps.

    python benchmarks/search_quality.py --benchmark path/to/set5 --output quality

Every way spends the same number of steps on the bundled photographs and ends within 5 % of the
same target. What it found is then trained from new random weights by one short recipe (float,
then with its bits), and scored with rounding: PSNR-Y over bicubic on the held-out photographs and
on each benchmark. Finished searches and scores in --output are not done again.
Prints a Markdown table of means and standard deviations over the seeds, and as the last line
`noise_over_random=A`, the first row over random search in dB on the last set.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from command import quantnas

from quantnas.architectures import network, registry
from quantnas.config import genotype, search_space
from quantnas.config.files import write_text
from quantnas.config.run_config import SearchConfig
from quantnas.data import image_files, patches, photo_cache
from quantnas.data.photographs import Photograph, find
from quantnas.evaluation import scoring
from quantnas.inference import upscaler
from quantnas.nas import random_search
from quantnas.training import training_loop

APART = "search.probabilities=factorised"
WAYS: dict[str, list[str]] = {
    "noise, joint probabilities": ["search.probabilities=joint"],
    "noise": [APART],
    "noise, trial": [APART, "search.keep=trial"],
    "noise, no entropy": [APART, "search.entropy=0"],
    "noise, no ADQ": [APART, "search.deviation=none"],
    "direct": [APART, "search.relaxation=direct"],
    "authors": [APART, "search.relaxation=authors"],
    "random, best of 8": ["search.strategy=random"],
    "random, any one": [],
}
"""Row of the table -> settings of its search."""
FIRST, RANDOM, ONE = "noise, joint probabilities", "random, best of 8", "random, any one"


def searched(way: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Genotype, seconds and share decided of one search; done once per output folder."""
    name = f"{way.replace(', ', '-').replace(' ', '_')}-{seed}"
    folder = args.output / "search" / name
    if way == ONE:
        where = search_space.load(args.space)
        config = SearchConfig(target_bitops=args.target)
        found = random_search.draw(registry.slots(where), where, config, 1, 1000 + seed)[0]
        return {"genotype": found, "seconds": 0.0, "decided": 1.0}
    if not (folder / "steps" / "search.json").exists():
        settings = [*WAYS[way], f"search.steps_per_epoch={args.steps_per_epoch}"]
        begin = [args.space, "--seed", seed, "--target-bitops", args.target]
        begin += ["--output", args.output, "--name", name]
        begin += [part for s in settings for part in ("--set", s)]
        quantnas("search", *(["--resume", folder] if folder.exists() else begin))
    result = json.loads((folder / "steps" / "search.json").read_text())
    return {
        "genotype": genotype.load(folder / "genotype.json"),
        "seconds": result["seconds"],
        "decided": result["share_decided"],
    }


def scored(
    way: str, seed: int, found: genotype.Genotype, args: argparse.Namespace
) -> dict[str, float]:
    """Set -> gain over bicubic in dB, after the short recipe; done once per output folder."""
    path = args.output / "scores" / f"{way.replace(', ', '-').replace(' ', '_')}-{seed}.json"
    if path.exists():
        kept: dict[str, float] = json.loads(path.read_text())
        return kept
    where, bundled = search_space.load(args.space), image_files.bundled()
    net = trained(where, found, seed, args)
    sets = {"held-out": [Photograph(path) for path in bundled.held_out]}
    sets |= {folder.name: find(folder, where.scale) for folder in args.benchmark}
    gains = {}
    for name, paths in sets.items():
        rows = scoring.score(upscaler.torch_upscaler(net), paths, where.scale)
        gains[name] = statistics.mean(row.psnr - row.bicubic_psnr for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(gains))
    return gains


def trained(
    where: search_space.SearchSpace, found: genotype.Genotype, seed: int, args: argparse.Namespace
) -> torch.nn.Module:
    """The network of a genotype from new weights: in float, then with its bits."""
    photos = [Photograph(path) for path in image_files.bundled().train]
    pairs = photo_cache.load(photos, where.scale, 32).pairs
    learn, held = patches.split(pairs, 32, seed, (0.9, 0.1))
    torch.manual_seed(seed)
    plain = network.build(where, found, None)
    fit(plain, learn, held, training_loop.Schedule(args.float_steps, 16, 2e-3))
    rounded = network.build(where, found, genotype.searched_precision(found))
    network.inherit(rounded, plain)
    network.initialise(rounded, learn.batch(0, 32)[0])
    fit(rounded, learn, held, training_loop.Schedule(args.qat_steps, 16, 5e-4))
    return rounded


def fit(
    net: torch.nn.Module, learn: patches.Patches, held: patches.Patches, how: training_loop.Schedule
) -> None:
    """Train in place."""
    for _ in training_loop.fit(training_loop.start(net, how.lr), learn, held, how):
        pass


def spread(values: Sequence[float], digits: int = 2) -> str:
    """mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="rfdn_small")
    parser.add_argument("--target", type=float, default=1e9, help="BitOps at LR 32x32")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps-per-epoch", type=int, default=24, help="of 20 epochs")
    parser.add_argument("--float-steps", type=int, default=1500)
    parser.add_argument("--qat-steps", type=int, default=250)
    parser.add_argument("--benchmark", type=Path, action="append", default=[])
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--output", type=Path, default=Path("quality"))
    return parser.parse_args()


def main() -> None:
    args = options()
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    began = time.monotonic()
    for seed in args.seeds:
        for way in args.ways:
            row = searched(way, seed, args)
            row["gains"] = scored(way, seed, row["genotype"], args)
            row["bitops"] = bitops(args.space, row["genotype"])
            results[way].append(row)
            minutes = (time.monotonic() - began) / 60
            print(f"{minutes:5.1f} min  seed {seed}  {way:<28} {row['gains']}", file=sys.stderr)
    sets = list(results[args.ways[0]][0]["gains"])
    print("| search | GBitOps@32x32 | " + " | ".join(sets) + " | decided | seconds |")
    print("|---|---|" + "---|" * len(sets) + "---|---|")
    for way, rows in results.items():
        gains = [spread([r["gains"][name] for r in rows]) for name in sets]
        cells = [way, spread([r["bitops"] / 1e9 for r in rows], 3), *gains]
        cells += [f"{statistics.mean(r['decided'] for r in rows):.0%}"]
        print("| " + " | ".join(cells) + f" | {spread([r['seconds'] for r in rows], 0)} |")
    last = sets[-1]
    means = {
        way: statistics.mean(r["gains"][last] for r in results[way])
        for way in (FIRST, RANDOM)
        if way in results
    }
    if len(means) == 2:
        print(f"noise_over_random={means[FIRST] - means[RANDOM]:+.3f}")


def bitops(name: str, found: genotype.Genotype) -> int:
    """At LR 32x32."""
    from quantnas.architectures import cost

    where = search_space.load(name)
    precision = genotype.searched_precision(found)
    rows = cost.layers(registry.slots(where), found, precision, where.scale)
    return cost.bitops_at(rows, (32, 32), where.scale)


if __name__ == "__main__":
    main()
