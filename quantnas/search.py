"""The search: alphas and weights learn in turn, on disjoint halves of the patches.

First-order alternation of DARTS (arXiv 1806.09055) with the losses of QuantNAS (2208.14839).
A generator of records: no printing, no files. All randomness is a function of (seed, step), so a
run continued from a checkpoint ends where an uninterrupted one does.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from . import cost, quantizer, supernet
from .checkpoint import Stateful
from .config import SearchConfig
from .patches import Patches


@dataclass(frozen=True)
class Step:
    """One update of the alphas and one of the weights."""

    step: int
    loss: float
    """L1 of the weight update, pixels in [0, 1]."""
    psnr: float
    """Of the supernet under noise on that batch, RGB, dB."""
    entropy: float
    """Mean over the edges, 1 = uniform, 0 = decided."""
    decided: float
    """Share of the edges whose most probable choice has more than 0.9."""
    bitops: float
    """Expected, per low-resolution pixel."""


@dataclass(frozen=True)
class State:
    """All that changes while searching."""

    net: nn.Module
    by_weight: optim.Optimizer
    by_alpha: optim.Optimizer

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        return {"net": self.net, "by_weight": self.by_weight, "by_alpha": self.by_alpha}


def start(net: nn.Module, config: SearchConfig) -> State:
    """Optimizers for a supernet."""
    alphas = supernet.alphas(net)
    known = {id(alpha) for alpha in alphas}
    weights = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
    return State(
        net,
        optim.Adam(weights, config.weight_lr),
        optim.Adam([{"params": alphas}], config.alpha_lr, betas=(0.5, 0.999)),
    )


def search(
    state: State, weights: Patches, alphas: Patches, config: SearchConfig, first: int = 0
) -> Iterator[Step]:
    """Update `state` from step `first` to the end, yielding after every step."""
    net, device = state.net, next(state.net.parameters()).device
    total = config.epochs * config.steps_per_epoch
    start_cost = _cost_at_start(net)
    for step in range(first, total):
        torch.manual_seed(weights.seed * 1_000_003 + step)
        low, high = (t.to(device) for t in weights.batch(step, config.batch))
        if step % config.refresh == 0 or (step < config.refresh and step & (step - 1) == 0):
            fit_grids(net, low)
        net.train()
        epoch = step // config.steps_per_epoch
        if epoch >= config.warmup_epochs:
            batch = [t.to(device) for t in alphas.batch(step, config.batch)]
            push = config.entropy * entropy_weight(epoch, config.epochs, config.warmup_epochs)
            loss = F.l1_loss(net(batch[0]), batch[1]) + push * entropy(net)
            loss = loss + config.penalty * cost.expected_bitops(net) / start_cost
            _update(state, state.by_alpha, loss)
        _set_lr(state.by_weight, config.weight_lr * 0.5 * (1 + math.cos(math.pi * step / total)))
        out = net(low)
        loss = F.l1_loss(out, high)
        _update(state, state.by_weight, loss)
        yield _record(net, step + 1, loss, out, high)


def _update(state: State, optimizer: optim.Optimizer, loss: Tensor) -> None:
    state.net.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 5.0)
    optimizer.step()


def _set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def _cost_at_start(net: nn.Module) -> float:
    """Expected BitOps per pixel under uniform probabilities."""
    parts = []
    for m in supernet.edges(net).values():
        work = sum(cost.macs(op, m.slot) for op in m.slot.ops) / len(m.slot.ops)
        parts.append(work * sum(b * b for b in m.slot.bits) / len(m.slot.bits))
    return sum(parts)


@torch.no_grad()
def _record(net: nn.Module, step: int, loss: Tensor, out: Tensor, high: Tensor) -> Step:
    return Step(
        step=step,
        loss=loss.item(),
        psnr=-10 * math.log10(max(F.mse_loss(out, high).item(), 1e-10)),
        entropy=entropy(net).item(),
        decided=share_decided(net),
        bitops=cost.expected_bitops(net).item(),
    )


@torch.no_grad()
def fit_grids(net: nn.Module, low: Tensor) -> None:
    """Fit every quantizer of the network to its weights and to activations on `low`."""
    net.eval()
    with quantizer.calibrating(net):
        net(low)


def entropy(net: nn.Module) -> Tensor:
    """(), mean over all alphas of entropy / ln(number of choices); stable near one-hot."""
    parts = []
    for alpha in supernet.alphas(net):
        log_p = alpha.log_softmax(0)
        parts.append(-(log_p.exp() * log_p).sum() / math.log(len(alpha)))
    return torch.stack(parts).mean() if parts else torch.zeros(())


@torch.no_grad()
def share_decided(net: nn.Module, above: float = 0.9) -> float:
    """Share of the edges with a choice whose (operation, width) has more than `above`."""
    edges = [m for m in supernet.edges(net).values() if len(m.slot.ops) * len(m.slot.bits) > 1]
    sure = [(m.alpha_op.softmax(0).max() * m.alpha_bits.softmax(0).max()).item() for m in edges]
    return sum(p > above for p in sure) / max(1, len(sure))


def entropy_weight(epoch: int, epochs: int, warmup: int) -> float:
    """The published schedule of the entropy term, from 0 to 1 (code of arXiv 2208.14839)."""
    total, t = epochs - warmup, epoch - warmup
    quiet = total // 4
    if t < quiet or total < 2:
        return 0.0
    return t / (total - 1) * math.log(t - quiet + 2) / math.log(total - quiet + 1)
