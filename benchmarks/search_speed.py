"""How much faster the search is than quantizing weights and activations of every candidate.

    python benchmarks/search_speed.py

The published rfdn space (x4, 48 channels, 4 cells, bits 4 and 8) on the bundled photographs,
`noise` against `direct`, in one process, by turns, so that the noise of the machine cancels.
Prints as its last line `step_speedup=A search_speedup=B memory_ratio=C`:
A = one update of the alphas and one of the weights at uniform alphas, every candidate computed
(median of the ratios); B = a whole search of --steps steps, with candidates drawn and dropped in
`noise` and every candidate computed in `direct`, validation and fits included; C = peak resident
memory of a process that does A, noise / direct.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from quantnas.config import search_space
from quantnas.config.run_config import SearchConfig
from quantnas.data import image_files, patches, photo_cache
from quantnas.data.photographs import Photograph
from quantnas.nas import gradient_search, supernet

MODES: tuple[Any, Any] = ("noise", "direct")


def loop(mode: Any, args: argparse.Namespace, **changes: Any) -> gradient_search.Searching:
    """A search that has not begun."""
    where = search_space.load(args.space)
    config = SearchConfig(
        epochs=args.epochs,
        steps_per_epoch=max(1, args.steps // args.epochs),
        warmup_epochs=1,
        batch=args.batch,
        patch=args.patch,
        alpha_lr=args.alpha_lr,
        relaxation=mode,
        probabilities="factorised",
        **changes,
    )
    photos = [Photograph(path) for path in image_files.bundled().train]
    pairs = photo_cache.load(photos, where.scale, config.patch).pairs
    material = gradient_search.Material(*patches.split(pairs, config.patch, 0, (0.45, 0.45, 0.1)))
    torch.manual_seed(0)
    return gradient_search.Searching(
        where, gradient_search.start(supernet.build(where, config), config), material, config
    )


def one_step(searching: gradient_search.Searching, step: int) -> float:
    """Seconds of an update of the alphas and one of the weights, at uniform alphas."""
    for alpha in searching.alphas:
        alpha.data.zero_()
    searching.net.train()
    low, high = searching.batch(searching.material.weights, step)
    began = time.perf_counter()
    searching.alpha_step(step, searching.config.epochs - 1)
    searching.weight_step(step, low, high)
    return time.perf_counter() - began


def prepared(mode: Any, args: argparse.Namespace) -> gradient_search.Searching:
    """Every candidate computed, grids fitted, one step done."""
    found = loop(mode, args, draw=False, floor=0.0)
    gradient_search.fit_grids(found.net, found.batch(found.material.weights, 0)[0])
    one_step(found, 0)
    return found


def step_ratio(args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds per step of both modes, by turns."""
    noise, direct = (prepared(mode, args) for mode in MODES)
    pairs = [(one_step(noise, i), one_step(direct, i)) for i in range(1, args.repeats + 1)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def search_seconds(args: argparse.Namespace) -> tuple[float, float, str]:
    """Seconds of a whole search in both modes, an epoch at a time by turns; how they ended."""
    loops = [loop("noise", args), loop("direct", args, floor=0.0)]
    steps: list[Iterator[gradient_search.SearchStep]] = [searching.steps() for searching in loops]
    seconds, last = [0.0, 0.0], [None, None]
    per_epoch = max(1, args.steps // args.epochs)
    for epoch in range(args.epochs):
        for i in (0, 1) if epoch % 2 else (1, 0):
            began = time.perf_counter()
            for _ in range(per_epoch):
                last[i] = next(steps[i])  # type: ignore[call-overload]
            seconds[i] += time.perf_counter() - began
        print(f"epoch {epoch + 1}/{args.epochs}: {seconds[0]:.0f} s, {seconds[1]:.0f} s",
              file=sys.stderr)  # fmt: skip
    ends = ", ".join(
        f"{mode}: {step.decided:.0%} decided, {step.psnr:.2f} dB"  # type: ignore[attr-defined]
        for mode, step in zip(MODES, last, strict=True)
    )
    return seconds[0], seconds[1], ends


def peak_of(mode: str) -> float:
    """Peak MiB of a process of its own that does two steps."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak", mode]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="rfdn")
    parser.add_argument("--steps", type=int, default=200, help="of the whole search")
    parser.add_argument("--epochs", type=int, default=5, help="of the whole search")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=24)
    parser.add_argument("--alpha-lr", type=float, default=0.15, help="for so few steps")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak", choices=MODES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = options()
    if args.peak:
        found = prepared(args.peak, args)
        one_step(found, 1)
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return
    peaks = [peak_of(mode) for mode in MODES]
    print(f"peak memory: noise {peaks[0]:.0f} MiB, direct {peaks[1]:.0f} MiB")
    noise, direct = step_ratio(args)
    ratios = [b / a for a, b in zip(noise, direct, strict=True)]
    print(f"step: noise {statistics.median(noise):.2f} s, direct {statistics.median(direct):.2f} s"
          f" ({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
    a, b, ends = search_seconds(args)
    print(f"search of {args.steps} steps: noise {a:.0f} s, direct {b:.0f} s; {ends}")
    print(
        f"step_speedup={statistics.median(ratios):.2f} search_speedup={b / a:.2f} "
        f"memory_ratio={peaks[0] / peaks[1]:.2f}"
    )


if __name__ == "__main__":
    main()
