"""A contest of architectures: each is trained briefly from random weights, the best one wins."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import Genotype, searched_precision
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import SearchSpace
from quantnas.training import training_loop

from .gradient_search import Material
from .objective import require_finite


@dataclass(frozen=True)
class TrialStep:
    """The record of one update of one architecture."""

    step: int
    sample: int
    """Number of the architecture, from 1."""
    loss: float
    """L1 loss, pixels in [0, 1]."""
    bitops: int
    """BitOps of the architecture at the resolution of the search."""
    best: float | None
    """PSNR of the best finished architecture on the validation patches, RGB, dB."""


class Contest:
    """A contest of architectures that share `steps` updates, with the best one so far.

    Each is trained alone, from random weights; the best PSNR on the validation patches wins.
    """

    def __init__(
        self,
        space: SearchSpace,
        config: SearchConfig,
        genotypes: Sequence[Genotype],
        steps: int,
        device: torch.device,
    ) -> None:
        self.space, self.config, self.device = space, config, device
        self.genotypes, self.total = genotypes, steps
        slots = registry.slots(space)
        self.bitops = [
            cost.searched_bitops(slots, g, space.scale, config.resolution) for g in self.genotypes
        ]
        self.psnr: list[float] = []
        self.best: dict[str, Tensor] = {}
        self._begin()

    def _begin(self, rounded: bool = False) -> None:
        """Build the next architecture's network with new weights, in float or rounded."""
        genotype = self.genotypes[min(len(self.psnr), len(self.genotypes) - 1)]
        torch.manual_seed(len(self.psnr))
        precision = searched_precision(genotype) if rounded else None
        self.net, self.rounded = network.build(self.space, genotype, precision), rounded
        self.training = training_loop.start(self.net.to(self.device), self.config.weight_lr)

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

    def steps(self, material: Material, first: int = 0) -> Iterator[TrialStep]:
        """Train the architectures in turn from step `first`, yielding after every step.

        Two thirds of an architecture's steps are in float, the others at its bit widths. Raises
        DivergedError for a loss or a gradient that is NaN or infinite.
        """
        count = len(self.genotypes)
        per = max(1, self.total // count)
        for step in range(first, self.total):
            last = step >= per * (count - 1)  # the last architecture gets the remaining steps
            length = self.total - per * (count - 1) if last else per
            at = step - per * (count - 1) if last else step % per
            if at == length * 2 // 3 and not self.space.is_float:
                self._round(material, step)
            loss = self._update(material, step, at / length)
            sample = len(self.psnr)
            if at == length - 1:
                self._finish(material)
            yield TrialStep(
                step + 1, sample + 1, loss, self.bitops[sample], max(self.psnr, default=None)
            )

    def _round(self, material: Material, step: int) -> None:
        """Replace the network in training by its rounded form."""
        float_net = self.net
        self._begin(rounded=True)
        network.inherit(self.net, float_net)
        low, _ = material.weights.batch(step, self.config.batch)
        network.initialise(self.net, low.to(self.device))

    def _update(self, material: Material, step: int, share: float) -> float:
        rate = training_loop.cosine(share) * (0.25 if self.rounded else 1.0)
        training_loop.set_rate(self.training.optimizer, self.config.weight_lr * rate)
        half = material.weights if step % 2 else material.alphas  # both halves that a search uses
        low, high = (t.to(self.device) for t in half.batch(step, self.config.batch))
        self.net.train()
        loss = F.l1_loss(self.net(low), high)
        require_finite(loss, f"L1 of architecture {len(self.psnr) + 1}", step)
        self.net.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), training_loop.CLIP)
        require_finite(norm, f"gradient of architecture {len(self.psnr) + 1}", step)
        self.training.optimizer.step()
        return loss.item()

    def _finish(self, material: Material) -> None:
        """Score the architecture in training, keep the best weights, and begin the next one."""
        psnr = training_loop.measure(self.net, material.held)
        if psnr > max(self.psnr, default=-math.inf):
            float_net = network.build(self.space, self.genotypes[len(self.psnr)], None)
            network.inherit(float_net, self.net.cpu())
            self.best = float_net.state_dict()
        self.psnr.append(psnr)
        self._begin()

    def winner(self) -> tuple[Genotype, nn.Module]:
        """The genotype with the best PSNR, and its trained network in float."""
        genotype = self.genotypes[max(range(len(self.psnr)), key=self.psnr.__getitem__)]
        net = network.build(self.space, genotype, None)
        net.load_state_dict(self.best)
        return genotype, net

    def scores(self) -> list[dict[str, float]]:
        """The PSNR on the validation patches and the BitOps of every finished architecture."""
        pairs = zip(self.psnr, self.bitops, strict=True)
        return [{"psnr": psnr, "bitops": bitops} for psnr, bitops in pairs]
