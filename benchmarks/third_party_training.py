"""Trains small networks as third parties write them, and exports each to an ONNX file.

    python benchmarks/third_party_training.py --data TRAIN --nets NETS --minutes 3

The networks are those of `third_party_networks.py`; one whose file lies in NETS is not trained
again. They learn on one thread from bicubic reductions of photographs. `--minutes` are minutes of
processor time, so that a busy machine gives networks as good as a free one.
"""

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from third_party_networks import NETWORKS, SCALE
from torch import nn

from quantnas.data import patches, photographs
from quantnas.data.patches import Patches
from quantnas.onnx_import import module_export

PATCH, BATCH, RATE, SEED = 24, 4, 2e-3, 0
"""Side of a low-resolution patch, patches per step, Adam's first learning rate, seed."""


def learn(net: nn.Module, data: Patches, minutes: float) -> int:
    """Train a network with the mean absolute error; the number of steps.

    The learning rate falls along a cosine of the processor time that has passed.
    """
    adam = torch.optim.Adam(net.parameters(), RATE)
    began, step, share = time.process_time(), 0, 0.0
    while share < 1:
        adam.param_groups[0]["lr"] = RATE * (0.5 + 0.5 * math.cos(math.pi * share))
        low, high = data.batch(step, BATCH)
        adam.zero_grad()
        (net(low) - high).abs().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        step += 1
        share = (time.process_time() - began) / (60 * minutes)
    return step


def ensure(names: Iterable[str], folder: Path, data: Path, minutes: float) -> None:
    """Train and export the networks whose file is not in `folder` yet."""
    missing = [name for name in names if not (folder / f"{name}.onnx").exists()]
    if not missing:
        return
    torch.set_num_threads(1)
    photos = photographs.find(data, SCALE)
    pairs = [photographs.read(photo, SCALE, photographs.LONGEST) for photo in photos]
    (drawn,) = patches.split(pairs, PATCH, SEED, (1.0,))
    folder.mkdir(parents=True, exist_ok=True)
    for name in missing:
        torch.manual_seed(SEED)
        net = NETWORKS[name]()
        steps = learn(net, drawn, minutes)
        with module_export.exported(net) as file:
            shutil.copy(file, folder / f"{name}.part")
        os.replace(folder / f"{name}.part", folder / f"{name}.onnx")
        count = sum(p.numel() for p in net.parameters())
        print(f"{name}: {count:,} parameters, {steps} steps", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--nets", type=Path, required=True, help="folder of the ONNX files")
    parser.add_argument("--minutes", type=float, default=3, help="of processor time, per network")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="repeatable")
    args = parser.parse_args()
    ensure(args.network or NETWORKS, args.nets, args.data, args.minutes)


if __name__ == "__main__":
    main()
