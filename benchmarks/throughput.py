"""How much of the training is computation: patches per second against a bare loop.

    python benchmarks/throughput.py --data FOLDER

The bare loop has its patches in memory as tensors, and does nothing but forward, loss, backward
and Adam. Both train the same network in one process, by turns. Prints as its last line
`share=A fetch_ms=B step_ms=C`: A = median ratio of their speeds, B and C = milliseconds of making
a batch and of a step of the bare loop.
"""

import argparse
import statistics
import time
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

from quantnas.architectures import network, registry
from quantnas.config import search_space
from quantnas.data import image_files, patches, photo_cache, photographs
from quantnas.data.photographs import Photograph
from quantnas.training import training_loop


def untrained(where: search_space.SearchSpace) -> nn.Module:
    """The only network of a space."""
    found = registry.known_genotype(where, None)
    assert found is not None, "the space leaves a choice"
    return network.build(where, found, None)


def bare(
    where: search_space.SearchSpace, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Steps per second of the plainest loop there is."""
    net = untrained(where)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    began = time.perf_counter()
    for low, high in batches:
        loss = F.l1_loss(net(low), high)
        net.zero_grad()
        loss.backward()
        optimizer.step()
    return len(batches) / (time.perf_counter() - began)


def ours(where: search_space.SearchSpace, learn: patches.Patches, steps: int, batch: int) -> float:
    """Steps per second of `training_loop.fit`, without its measurements."""
    state = training_loop.start(untrained(where), 1e-3)
    schedule = training_loop.Schedule(steps + 1, batch, 1e-3, check=10**9)
    loop = training_loop.fit(state, learn, learn, schedule)
    began = time.perf_counter()
    done = sum(1 for _ in islice(loop, steps))
    seconds = time.perf_counter() - began
    loop.close()  # type: ignore[attr-defined]
    return done / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default=None, help="folder; else the bundled photographs")
    parser.add_argument("--space", default="quicksrnet_small")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=32)
    args = parser.parse_args()
    where = search_space.load(args.space, args.scale)
    found = photographs.find(args.data, args.scale) if args.data else None
    photos = found or [Photograph(path) for path in image_files.bundled().train]
    pairs = photo_cache.load(photos, args.scale, args.patch).pairs
    (learn,) = patches.split(pairs, args.patch, 0, (1.0,))
    began = time.perf_counter()
    batches = [learn.batch(i, args.batch) for i in range(args.steps)]
    fetch = (time.perf_counter() - began) / args.steps
    bare(where, batches[:10])
    ratios, steps = [], []
    for i in range(args.rounds):
        loose = bare(where, batches)
        ratios.append(ours(where, learn, args.steps, args.batch) / loose)
        steps.append(1000 / loose)
        print(f"round {i}: {ratios[-1]:.3f} of {loose * args.batch:.0f} patches/s", flush=True)
    print(
        f"share={statistics.median(ratios):.3f} fetch_ms={1000 * fetch:.2f} "
        f"step_ms={statistics.median(steps):.1f}"
    )


if __name__ == "__main__":
    main()
