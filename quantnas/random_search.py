"""The baseline of every search: random architectures of the same budget, trained as long.

Steps are shared evenly; each architecture is trained alone with rounding, from random weights,
and the best on the validation patches wins (as arXiv 1902.07638 asks of every search).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import budget, cost, genotype, network, quantize, skeleton, train
from .checkpoint import Stateful
from .config import SearchConfig
from .errors import UsageError
from .genotype import Genotype
from .search import Material
from .space import SearchSpace, Slot
from .supernet import choice_of

TRIES = 20_000
"""Draws for one architecture within the budget."""


@dataclass(frozen=True)
class Step:
    """One update of one architecture."""

    step: int
    sample: int
    """Which architecture, from 1."""
    loss: float
    """L1, pixels in [0, 1]."""
    bitops: int
    """Of this architecture, at the resolution of the search."""
    best: float | None
    """PSNR of the best finished one on the validation patches, RGB, dB."""


def draw(
    slots: Sequence[Slot], space: SearchSpace, config: SearchConfig, count: int, seed: int
) -> list[Genotype]:
    """Architectures, uniform over the space; with a target, those within 5 % of it.

    To meet a target, pairs are drawn with p ~ exp(-beta BitOps), beta such that the mean meets
    it: of all distributions with that mean the least biased one.
    Raises UsageError when none is found.
    """
    rng = np.random.default_rng(seed)
    groups = {slot.choice: slot for slot in slots}
    tables = {name: np.zeros(slot.options) for name, slot in groups.items()}
    for slot in slots:
        bits = cost.option_bitops(slot, config.resolution, space.scale)
        tables[slot.choice] += np.asarray(bits, float).ravel()
    target = config.target_bitops
    beta = _tilt(list(tables.values()), target)
    odds = [_odds(table, beta) for table in tables.values()]
    found: list[Genotype] = []
    for _ in range(TRIES * count):
        picks = {n: int(rng.choice(len(p), p=p)) for n, p in zip(tables, odds, strict=True)}
        total = sum(float(tables[n][i]) for n, i in picks.items())
        if target is None or abs(total / target - 1) <= budget.TOLERANCE:
            chosen = {s.name: choice_of(s, *divmod(picks[s.choice], len(s.widths))) for s in slots}
            found.append(Genotype(space.name, chosen))
        if len(found) == count:
            return found
    raise UsageError(
        f"Random drawing met the target only {len(found)} times in {TRIES * count} tries.",
        "Ask for other BitOps, or for fewer search.samples.",
    )


def _odds(bitops: Any, beta: float) -> Any:
    exponent = -beta * bitops
    p = np.exp(exponent - exponent.max())
    return p / p.sum()


def _tilt(tables: Sequence[Any], target: float | None) -> float:
    """beta for which the expected BitOps are the target; 0 without one."""
    if target is None:
        return 0.0
    high = 200 / max(1.0, *(float(np.ptp(t)) for t in tables))
    low = -high
    for _ in range(80):
        beta = (low + high) / 2
        expected = sum(float((_odds(t, beta) * t).sum()) for t in tables)
        low, high = (beta, high) if expected > target else (low, beta)
    return (low + high) / 2


class Contest:
    """The architectures, the one in training, and the best so far."""

    def __init__(
        self, space: SearchSpace, config: SearchConfig, seed: int, device: torch.device
    ) -> None:
        self.space, self.config, self.seed, self.device = space, config, seed, device
        slots = skeleton.slots(space)
        self.genotypes = draw(slots, space, config, config.samples, seed)
        self.bitops = [
            cost.bitops_at(
                cost.layers(slots, g, genotype.searched_precision(g), space.scale),
                config.resolution,
                space.scale,
            )
            for g in self.genotypes
        ]
        self.psnr: list[float] = []
        self.best: dict[str, Tensor] = {}
        self._begin()

    def _begin(self, rounded: bool = False) -> None:
        """A network of the next architecture: in float with new weights, or rounded."""
        found = self.genotypes[min(len(self.psnr), len(self.genotypes) - 1)]
        torch.manual_seed(self.seed * 1_000_003 + len(self.psnr))
        precision = genotype.searched_precision(found) if rounded else None
        self.net, self.rounded = network.build(self.space, found, precision), rounded
        self.training = train.start(self.net.to(self.device), self.config.weight_lr)

    def state_dict(self) -> dict[str, Any]:
        return {
            "psnr": self.psnr,
            "best": self.best,
            "rounded": self.rounded,
            "net": self.net.state_dict(),
            "optimizer": self.training.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.psnr, self.best = state["psnr"], state["best"]
        self._begin(state["rounded"])
        self.net.load_state_dict(state["net"])
        self.training.optimizer.load_state_dict(state["optimizer"])

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        return {"contest": self}

    def steps(self, material: Material, first: int = 0) -> Iterator[Step]:
        """Train one after the other from step `first`, yielding after every step.

        Two thirds of an architecture's steps are in float, the others with its bits.
        """
        c = self.config
        total = c.epochs * c.steps_per_epoch
        per = max(1, total // c.samples)
        for step in range(first, total):
            at, last = step % per, step >= per * (c.samples - 1)
            length = total - per * (c.samples - 1) if last else per
            at = step - per * (c.samples - 1) if last else at
            if at == length * 2 // 3 and not self.space.is_float:
                self._round(material, step)
            loss = self._update(material, step, at / length)
            sample = len(self.psnr)
            if at == length - 1:
                self._finish(material)
            yield Step(
                step + 1, sample + 1, loss, self.bitops[sample], max(self.psnr, default=None)
            )

    def _round(self, material: Material, step: int) -> None:
        plain = self.net
        self._begin(rounded=True)
        network.inherit(self.net, plain)
        low, _ = material.weights.batch(step, self.config.batch)
        quantize.initialise(self.net, low.to(self.device))

    def _update(self, material: Material, step: int, share: float) -> float:
        rate = 0.5 * (1 + math.cos(math.pi * share)) * (0.25 if self.rounded else 1.0)
        train.set_rate(self.training.optimizer, self.config.weight_lr * rate)
        half = material.weights if step % 2 else material.alphas  # all that the search learns from
        low, high = (t.to(self.device) for t in half.batch(step, self.config.batch))
        self.net.train()
        loss = F.l1_loss(self.net(low), high)
        self.net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.training.optimizer.step()
        return loss.item()

    def _finish(self, material: Material) -> None:
        psnr = train.measure(self.net, material.held)
        if psnr > max(self.psnr, default=-math.inf):
            plain = network.build(self.space, self.genotypes[len(self.psnr)], None)
            network.inherit(plain, self.net.cpu())
            self.best = plain.state_dict()
        self.psnr.append(psnr)
        self._begin()

    def winner(self) -> tuple[Genotype, nn.Module]:
        """The genotype with the best PSNR, and its network in float."""
        found = self.genotypes[max(range(len(self.psnr)), key=self.psnr.__getitem__)]
        net = network.build(self.space, found, None)
        net.load_state_dict(self.best)
        return found, net

    def scores(self) -> list[dict[str, float]]:
        """PSNR on the validation patches and BitOps of every architecture."""
        pairs = zip(self.psnr, self.bitops, strict=True)
        return [{"psnr": psnr, "bitops": bitops} for psnr, bitops in pairs]
