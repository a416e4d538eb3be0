"""The differentiable search: alphas and weights learn in turn, on disjoint halves of the patches.

It is the first-order alternation of DARTS (arXiv 1806.09055) with the losses of QuantNAS (arXiv
2208.14839), written as a generator of records. All randomness is a function of (seed, step), so a
search continued from a checkpoint ends where an uninterrupted one does.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import Genotype, searched_precision
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
"""Greatest norm of the supernet's gradients, as published; longer ones are clipped."""


@dataclass(frozen=True)
class SearchStep:
    """The record of one update of the alphas and one of the weights."""

    step: int
    loss: float
    """L1 loss of the weight update, pixels in [0, 1]."""
    psnr: float
    """PSNR of the supernet, relaxed as it is, on the batch of the weight update, RGB, dB."""
    entropy: float
    """Mean normalised entropy over the choices: 1 = uniform, 0 = decided."""
    decided: float
    """Share of the choices whose most probable pair has a probability above 0.9."""
    bitops: float
    """Expected BitOps at the resolution of the search."""
    decided_bitops: float
    """BitOps of the most probable pairs."""
    probabilities: dict[str, list[float]]
    """Choice -> p of every pair of operation and bit width, in the order of the operations."""
    check: DecisionCheck | None
    """Score of the decided network, at the end of an epoch alone."""


@dataclass(frozen=True)
class SearchState:
    """Everything that changes during a search."""

    net: nn.Module
    by_weight: optim.Optimizer
    by_alpha: optim.Optimizer
    price: bitops_budget.Multiplier
    checks: DecisionLog = field(default_factory=DecisionLog)

    def parts(self) -> dict[str, Stateful]:
        """The parts whose states a checkpoint holds."""
        return dict(vars(self))


@dataclass(frozen=True)
class Material:
    """The data of a search: three disjoint sets of patches."""

    weights: Patches
    """Patches that the weights learn from."""
    alphas: Patches
    """Patches that the alphas learn from."""
    held: Patches
    """Held-out patches, on which decided networks are scored."""


def start(net: nn.Module, config: SearchConfig) -> SearchState:
    """The state before the first step: a supernet, its optimizers and the multiplier."""
    alphas = supernet.alphas(net)
    weights = training_loop.groups(net, config.weight_lr, supernet.all_alphas(net))
    return SearchState(
        net,
        optim.Adam(weights, fused=True),
        optim.Adam([{"params": alphas}], config.alpha_lr, betas=(0.5, 0.999)),
        bitops_budget.Multiplier(config.target_bitops or 1.0),
    )


class Searching:
    """The search loop with its constants: the space, the data, and the BitOps of every pair."""

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

        Raises DivergedError when a loss is NaN or infinite, before it updates anything.
        """
        c = self.config
        for step in range(first, c.epochs * c.steps_per_epoch):
            torch.manual_seed(self.material.weights.seed * 1_000_003 + step)
            low, high = self.batch(self.material.weights, step)
            rows = collectives.share(low), collectives.share(high)
            early = step < c.refresh and step & (step - 1) == 0
            if step % c.refresh == 0 or early:
                fit_grids(self.net, low, learned=step > 0)
            epoch = step // c.steps_per_epoch
            self.net.train()
            if epoch >= c.warmup_epochs and self.alphas:
                self.alpha_step(step, epoch)
            loss, error = self.weight_step(step, *rows)
            epoch_ends = (step + 1) % c.steps_per_epoch == 0
            check = self._check(epoch) if epoch_ends and collectives.rank() == 0 else None
            yield self._record(step + 1, loss, error, check)

    def batch(self, patches: Patches, step: int) -> list[Tensor]:
        """Low- and high-resolution patches of a step, (N, 3, H, W), on the supernet's device."""
        return [t.to(self.like).contiguous() for t in patches.batch(step, self.config.batch)]

    def alpha_step(self, step: int, epoch: int) -> None:
        """Update the alphas on a batch of their own patches, and the multiplier."""
        c, price = self.config, self.state.price
        low, high = (collectives.share(t) for t in self.batch(self.material.alphas, step))
        expected = objective.expected_bitops(self.net, self.bitops)
        share = c.entropy * entropy_weight(epoch, c.epochs, c.warmup_epochs)
        if c.target_bitops is None:
            cost_term = {"BitOps penalty": c.penalty * expected / self.at_start}
        else:
            cost_term = {"BitOps target": price.term(expected)}
        terms = objective.alpha_terms(self.net, low, high, share, cost_term)
        self._update(step, self.state.by_alpha, self.alphas, terms)
        if c.target_bitops is not None:
            price.update(expected.item())

    def weight_step(self, step: int, low: Tensor, high: Tensor) -> tuple[float, float]:
        """Update the weights on a batch; return its L1 loss and its mean squared error."""
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
        """The genotype as of now: the most probable pairs, within the target where there is one."""
        picks = None
        if self.config.target_bitops is not None:
            choices = supernet.choices(self.net).items()
            with torch.no_grad():
                tables = {n: a.log_table().double().cpu().numpy() for n, a in choices}
            costs = {name: t.double().cpu().numpy() for name, t in self.bitops.items()}
            picks = bitops_budget.decide(tables, costs, self.config.target_bitops)
        return supernet.decide(self.net, self.space.name, picks)

    def bitops_of(self, genotype: Genotype) -> int:
        """BitOps of a genotype's network at the resolution of the search."""
        return cost.searched_bitops(self.slots, genotype, self.space.scale, self.config.resolution)

    @torch.no_grad()
    def share_decided(self, above: float = 0.9) -> float:
        """Share of the choices whose most probable pair has a probability above `above`."""
        tables = [a.table() for a in supernet.choices(self.net).values() if a.learning()]
        return sum(t.max().item() > above for t in tables) / len(tables) if tables else 1.0

    def _check(self, epoch: int) -> DecisionCheck:
        """Score the network that would be decided now, and log it once the alphas learn."""
        genotype = self.decide()
        batches = [self.batch(self.material.weights, i)[0] for i in range(4)]
        decided = decided_network(self.space, genotype, copy.deepcopy(self.net), batches)
        psnr = training_loop.measure(decided, self.material.held)
        check = DecisionCheck(epoch + 1, psnr, self.bitops_of(genotype), genotype)
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
    space: SearchSpace, genotype: Genotype, net: nn.Module, batches: list[Tensor]
) -> nn.Module:
    """The genotype's network with the supernet's weights, rounded unless the space is in float.

    net: the supernet, which is settled on the genotype, in place. batches: low-resolution patches
    (N, 3, H, W).
    """
    with collectives.alone():
        supernet.settle(net, genotype, batches)
    precision = None if space.is_float else searched_precision(genotype)
    decided = network.build(space, genotype, precision).to(batches[0].device)
    inheritance.inherit_supernet(decided, net)
    network.initialise(decided, batches[0])
    return decided.eval()


@torch.no_grad()
def fit_grids(net: nn.Module, low: Tensor, learned: bool = False) -> None:
    """Fit every grid of the supernet to its weights and to the activations on low (N, 3, H, W).

    With `learned`, grids that learn by gradient are left as they are. Batch norms use the
    statistics of `low` without keeping them: early on, the running ones are far from the truth.
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
