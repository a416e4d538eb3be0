"""Training of a decided network, in float or with rounding: a generator of records.

The same loop serves distillation: the target is then a teacher's output.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from .checkpoint import Stateful
from .patches import Patches

CLIP = 1.0
"""Norm to which gradients are cut."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    steps: int
    batch: int
    lr: float
    """Adam, a short warm-up, then cosine to 0."""
    check: int = 100
    """Steps between two measurements on the validation patches."""


@dataclass(frozen=True)
class Step:
    """One update."""

    step: int
    loss: float
    """L1, pixels in [0, 1]."""
    psnr: float | None
    """On the validation patches against the target, RGB, dB; none between measurements."""


@dataclass
class Best:
    """The best state so far, by PSNR on the validation patches."""

    psnr: float = -math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, object]:
        return {"psnr": self.psnr, "weights": self.weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.psnr, self.weights = state["psnr"], state["weights"]  # type: ignore[assignment]


@dataclass(frozen=True)
class State:
    """All that changes while training."""

    net: nn.Module
    optimizer: optim.Optimizer
    best: Best

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        return {"net": self.net, "optimizer": self.optimizer, "best": self.best}


Target = Callable[[Tensor, Tensor], Tensor]
"""(low, high) -> what the network's output should be."""


def truth(low: Tensor, high: Tensor) -> Tensor:
    """The photograph itself."""
    return high


def start(net: nn.Module, lr: float) -> State:
    """An optimizer for a network."""
    learning = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    return State(net, optim.Adam(groups(learning, lr)), Best())


def groups(parameters: Iterable[tuple[str, nn.Parameter]], lr: float) -> list[dict[str, Any]]:
    """Parameter groups: steps of rounding learn faster than weights, zero points faster still."""
    found: dict[float, list[nn.Parameter]] = {1.0: [], 4.0: [], 20.0: []}
    for name, p in parameters:
        factor = 20.0 if name.endswith("zero") else 4.0 if name.endswith("log2_step") else 1.0
        found[factor].append(p)
    return [{"params": ps, "lr": lr * f, "factor": f} for f, ps in found.items() if ps]


def set_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """Give every group its multiple of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def fit(
    state: State,
    patches: Patches,
    validation: Patches,
    schedule: Schedule,
    target: Target = truth,
    first: int = 0,
) -> Iterator[Step]:
    """Train from step `first`; at the end the network holds its best state."""
    net, device = state.net, next(state.net.parameters()).device
    for step in range(first, schedule.steps):
        set_rate(state.optimizer, schedule.lr * _curve(step, schedule.steps))
        low, high = (t.to(device) for t in patches.batch(step, schedule.batch))
        net.train()
        loss = F.l1_loss(net(low), target(low, high))
        net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        state.optimizer.step()
        done, psnr = step + 1, None
        if done % schedule.check == 0 or done == schedule.steps:
            psnr = measure(net, validation, target)
            if psnr > state.best.psnr:
                state.best.psnr, state.best.weights = psnr, copy.deepcopy(net.state_dict())
        yield Step(done, loss.item(), psnr)
    if state.best.weights:
        net.load_state_dict(state.best.weights)
    net.eval()


def _curve(step: int, steps: int, warmup: int = 20) -> float:
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def measure(net: nn.Module, validation: Patches, target: Target = truth, count: int = 32) -> float:
    """PSNR in dB over fixed validation patches, RGB in [0, 1]."""
    device = next(net.parameters()).device
    low, high = (t.to(device) for t in validation.batch(0, count))
    net.eval()
    error = F.mse_loss(net(low).clamp(0, 1), target(low, high)).item()
    return -10 * math.log10(max(error, 1e-10))
