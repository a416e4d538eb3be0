"""The search: alphas and weights learn in turn, on disjoint halves of the patches.

First-order alternation of DARTS (arXiv 1806.09055) with the losses of QuantNAS (2208.14839).
A generator of records: no printing, no files. All randomness is a function of (seed, step), so a
run continued from a checkpoint ends where an uninterrupted one does.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from quantnas.architectures import cost, network, registry
from quantnas.config import genotype
from quantnas.config.genotype import Genotype
from quantnas.config.run_config import SearchConfig
from quantnas.config.search_space import SearchSpace
from quantnas.data.patches import Patches
from quantnas.nn import quantizers
from quantnas.training import collectives, training_loop
from quantnas.training.checkpoint import Stateful

from . import bitops_budget, inheritance, objective, supernet
from .adaptive_norm import Adq
from .decision_log import DecisionCheck, DecisionLog
from .objective import entropy, entropy_weight, require_finite

CLIP = 5.0
"""Norm to which gradients of the supernet are cut, as published."""


@dataclass(frozen=True)
class SearchStep:
    """One update of the alphas and one of the weights."""

    step: int
    loss: float
    """L1 of the weight update, pixels in [0, 1]."""
    psnr: float
    """Of the supernet under noise on that batch, RGB, dB."""
    entropy: float
    """Mean over the choices, 1 = uniform, 0 = decided."""
    decided: float
    """Share of the choices whose most probable pair has more than 0.9."""
    bitops: float
    """Expected, at the resolution of the search."""
    decided_bitops: float
    """Of the most probable pairs."""
    probabilities: dict[str, list[float]]
    """What is decided -> p of every pair of operation and width, operations first."""
    check: DecisionCheck | None
    """At the end of an epoch."""


@dataclass(frozen=True)
class SearchState:
    """All that changes while searching."""

    net: nn.Module
    by_weight: optim.Optimizer
    by_alpha: optim.Optimizer
    price: bitops_budget.Multiplier
    checks: DecisionLog = field(default_factory=DecisionLog)

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        return dict(vars(self))


@dataclass(frozen=True)
class Material:
    """What a search learns from: three disjoint parts of the patches."""

    weights: Patches
    alphas: Patches
    held: Patches
    """Neither weights nor alphas see these."""


def start(net: nn.Module, config: SearchConfig) -> SearchState:
    """Optimizers for a supernet."""
    alphas = supernet.alphas(net)
    known = {id(alpha) for alpha in supernet.all_alphas(net)}
    weights = [(n, p) for n, p in net.named_parameters() if p.requires_grad and id(p) not in known]
    return SearchState(
        net,
        optim.Adam(training_loop.groups(weights, config.weight_lr), fused=True),
        optim.Adam([{"params": alphas}], config.alpha_lr, betas=(0.5, 0.999)),
        bitops_budget.Multiplier(config.target_bitops or 1.0),
    )


class Searching:
    """The loop's constants: what is searched, on what, and what every pair costs."""

    def __init__(
        self, space: SearchSpace, state: SearchState, material: Material, config: SearchConfig
    ) -> None:
        self.space, self.state, self.material, self.config = space, state, material, config
        self.net, self.slots = state.net, registry.slots(space)
        self.like = next(state.net.parameters())
        tables = cost.choice_bitops(self.slots, space.scale, config.resolution)
        self.bitops = {name: table.to(self.like) for name, table in tables.items()}
        self.at_start = sum(float(t.mean()) for t in self.bitops.values())
        self.alphas = supernet.alphas(self.net)
        self.weights = [p for g in state.by_weight.param_groups for p in g["params"]]

    def steps(self, first: int = 0) -> Iterator[SearchStep]:
        """Update the state from step `first` to the end, yielding after every step.

        Raises DivergedError, before anything is updated with it, for a loss that is no number.
        """
        c = self.config
        for step in range(first, c.epochs * c.steps_per_epoch):
            torch.manual_seed(self.material.weights.seed * 1_000_003 + step)
            low, high = self.batch(self.material.weights, step)
            mine = collectives.share(low), collectives.share(high)
            early = step < c.refresh and step & (step - 1) == 0
            if step % c.refresh == 0 or early:
                fit_grids(self.net, low, learned=step > 0)
            epoch = step // c.steps_per_epoch
            self.net.train()
            if epoch >= c.warmup_epochs and self.alphas:
                self.alpha_step(step, epoch)
            loss, error = self.weight_step(step, *mine)
            ends = (step + 1) % c.steps_per_epoch == 0
            check = self._check(epoch) if ends and collectives.rank() == 0 else None
            yield self._record(step + 1, loss, error, check)

    def batch(self, patches: Patches, step: int) -> list[Tensor]:
        return [t.to(self.like).contiguous() for t in patches.batch(step, self.config.batch)]

    def alpha_step(self, step: int, epoch: int) -> None:
        c, price = self.config, self.state.price
        low, high = (collectives.share(t) for t in self.batch(self.material.alphas, step))
        expected = objective.expected_bitops(self.net, self.bitops)
        terms = {"L1 of the alphas": F.l1_loss(self.net(low), high)}
        push = c.entropy * entropy_weight(epoch, c.epochs, c.warmup_epochs)
        terms["entropy"] = push * entropy(self.net)
        if c.target_bitops is None:
            terms["BitOps penalty"] = c.penalty * expected / self.at_start
        else:
            terms["BitOps target"] = price.term(expected)
        self._update(step, self.state.by_alpha, self.alphas, terms)
        if c.target_bitops is not None:
            price.update(expected.item())

    def weight_step(self, step: int, low: Tensor, high: Tensor) -> tuple[float, float]:
        """L1 and squared error."""
        c = self.config
        rate = c.weight_lr * training_loop.cosine(step, c.epochs * c.steps_per_epoch)
        training_loop.set_rate(self.state.by_weight, rate)
        out = self.net(low)
        loss = F.l1_loss(out, high)
        self._update(step, self.state.by_weight, self.weights, {"L1 of the weights": loss})
        with torch.no_grad():
            both = collectives.mean(torch.stack([loss, F.mse_loss(out, high)])).tolist()
        return both[0], both[1]

    def _update(
        self,
        step: int,
        optimizer: optim.Optimizer,
        parameters: list[nn.Parameter],
        terms: Mapping[str, Tensor],
    ) -> None:
        values = torch.stack(list(terms.values()))
        for name, value in zip(terms, collectives.mean(values.detach()), strict=True):
            require_finite(value, name, step)
        loss = values.sum()
        grads = collectives.average(torch.autograd.grad(loss, parameters, allow_unused=True))
        for p, grad in zip(parameters, grads, strict=True):
            p.grad = grad
        norm = nn.utils.clip_grad_norm_(parameters, CLIP)
        require_finite(norm, f"gradient of {' + '.join(terms)}", step)
        optimizer.step()

    def decide(self) -> Genotype:
        """The genotype now: the most probable pairs, within the target where there is one."""
        picks = None
        if self.config.target_bitops is not None:
            choices = supernet.choices(self.net).items()
            with torch.no_grad():
                tables = {n: a.log_table().double().cpu().numpy() for n, a in choices}
            costs = {name: t.double().cpu().numpy() for name, t in self.bitops.items()}
            picks = bitops_budget.decide(tables, costs, self.config.target_bitops)
        return supernet.decide(self.net, self.space.name, picks)

    def bitops_of(self, found: Genotype) -> int:
        """Of a genotype, at the resolution of the search."""
        return cost.searched_bitops(self.slots, found, self.space.scale, self.config.resolution)

    @torch.no_grad()
    def share_decided(self, above: float = 0.9) -> float:
        """Share of the choices whose most probable pair has more than `above`."""
        open_ = [a for a in supernet.choices(self.net).values() if a.learning()]
        return sum(a.table().max().item() > above for a in open_) / len(open_) if open_ else 1.0

    def _check(self, epoch: int) -> DecisionCheck:
        """Score what would be decided now."""
        found = self.decide()
        batches = [self.batch(self.material.weights, i)[0] for i in range(4)]
        decided = decided_network(self.space, found, copy.deepcopy(self.net), batches)
        psnr = training_loop.measure(decided, self.material.held)
        check = DecisionCheck(epoch + 1, psnr, self.bitops_of(found), found)
        if epoch >= self.config.warmup_epochs:
            self.state.checks.rows.append(check)
        return check

    @torch.no_grad()
    def _record(
        self, step: int, loss: float, error: float, check: DecisionCheck | None
    ) -> SearchStep:
        choices = supernet.choices(self.net)
        tables = {name: a.table().flatten() for name, a in choices.items() if a.learning()}
        picks = {name: int(a.log_table().argmax()) for name, a in choices.items()}
        return SearchStep(
            step=step,
            loss=loss,
            psnr=-10 * math.log10(max(error, 1e-10)),
            entropy=entropy(self.net).item(),
            decided=self.share_decided(),
            bitops=objective.expected_bitops(self.net, self.bitops).item(),
            decided_bitops=sum(self.bitops[n].flatten()[i].item() for n, i in picks.items()),
            probabilities={n: [round(v, 4) for v in t.tolist()] for n, t in tables.items()},
            check=check,
        )


def decided_network(
    space: SearchSpace, found: Genotype, net: nn.Module, batches: list[Tensor]
) -> nn.Module:
    """The rounded network (in float for a space in float) with the supernet's weights.

    Changes `net`: it is settled on the genotype. batches: low-resolution patches.
    """
    with collectives.alone():
        supernet.settle(net, found, batches)
    precision = None if space.is_float else genotype.searched_precision(found)
    decided = network.build(space, found, precision).to(batches[0].device)
    inheritance.inherit_supernet(decided, net)
    network.initialise(decided, batches[0])
    return decided.eval()


@torch.no_grad()
def fit_grids(net: nn.Module, low: Tensor, learned: bool = False) -> None:
    """Fit every quantizer of the network to its weights and to activations on `low`.

    With `learned`, those that learn by gradient stay. Batch norms use the statistics of `low`
    without keeping them: early on, the running ones are far from what the features are.
    """
    net.eval()
    norms = [m.norm for m in net.modules() if isinstance(m, Adq)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
    with quantizers.calibrating(net, fixed_only=learned):
        net(low)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
