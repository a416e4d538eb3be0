"""Training of a decided network, in float or quantization-aware, as a generator of records.

The same loop serves knowledge distillation: the target is then a teacher's output.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from quantnas.data.patches import Patches
from quantnas.nn.image_layers import luma
from quantnas.nn.quantizers import ActQuantizer, WeightQuantizer

from . import collectives
from .checkpoint import Stateful

CLIP = 1.0
"""Greatest norm of the gradient; longer gradients are clipped."""

LOGS = ("log2_step", "octaves")
"""Names of the parameters of quantizers that are learned as logarithms: steps of grids."""

Loss = Literal["l1", "charbonnier"]
LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "charbonnier": lambda out, target: (out - target).square().add(1e-6).sqrt().mean(),
}
"""Losses of pixels in [0, 1]. Charbonnier: sqrt(d^2 + 0.001^2), as in LapSRN (arXiv 1704.03915)."""

Target = Callable[[Tensor, Tensor], Tensor]
"""(low-, high-resolution patches) -> what the network's output should be."""


def truth(low: Tensor, high: Tensor) -> Tensor:
    """The target of ordinary training: the high-resolution photograph."""
    return high


@dataclass(frozen=True)
class Schedule:
    """The length and the learning rate of a training."""

    steps: int
    batch: int
    lr: float
    """Learning rate of Adam after a short warm-up; from there it falls to 0 along a cosine."""
    check: int = 100
    """Steps between two measurements on the validation patches."""
    warmup: int = 20
    """Steps in which the learning rate rises."""
    average: float = 0.0
    """Decay of the moving average of the weights, which is measured and kept; 0 = the weights."""
    seconds: float | None = None
    """Time limit: the cosine is shortened to the steps that fit into it."""


@dataclass(frozen=True)
class Objective:
    """The loss of a training and the target that it compares the output with."""

    target: Target = truth
    """Target of the loss and of the PSNR on the validation patches."""
    loss: Loss = "l1"
    colours: int = 3
    """Number of channels compared; 1 = luma alone, for networks that correct nothing else."""
    teacher: Target | None = None
    """A second target: the output of a teacher (knowledge distillation)."""
    share: float = 0.5
    """Share of the teacher's term in the loss."""
    penalty: Callable[[], Tensor] | None = None
    """A term added to the training loss alone, evaluated after both networks have run."""

    def __call__(self, out: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The loss () of the network's output (N, 3, H, W) on a batch of patches."""
        loss = self._loss(out, self.target(low, high))
        if self.teacher is None:
            return loss
        return (1 - self.share) * loss + self.share * self._loss(out, self.teacher(low, high))

    def _loss(self, out: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.loss](*(self.compared(t) for t in (out, target)))

    def compared(self, x: Tensor) -> Tensor:
        """The part of x (N, 3, H, W) that is compared: all channels, or the luma (N, 1, H, W)."""
        return luma(x) if self.colours == 1 else x


@dataclass(frozen=True)
class TrainingStep:
    """The record of one update of the weights."""

    step: int
    loss: float
    psnr: float | None
    """PSNR on the validation patches against the target, dB; None between measurements."""
    total: int
    """Number of updates planned, fewer than the schedule's under a short time limit."""


@dataclass
class Best:
    """The best weights so far, by PSNR on the validation patches."""

    psnr: float = -math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, psnr: float, net: nn.Module) -> None:
        """Copy the weights of `net` if its PSNR is the best so far."""
        if psnr > self.psnr:
            self.psnr, self.weights = psnr, copy.deepcopy(net.state_dict())

    def state_dict(self) -> dict[str, object]:
        return {"psnr": self.psnr, "weights": self.weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.psnr, self.weights = state["psnr"], state["weights"]  # type: ignore[assignment]


@dataclass
class TrainingProgress:
    """The progress of a training, by its steps or, under a time limit, by its time."""

    steps: int = 0
    """Number of updates planned in all."""
    done: float = 0.0
    """Share of the training that is done, 0 to 1."""
    seconds: float = 0.0
    """Time used so far, before interruptions included, seconds."""

    def advance(self, step: int, seconds: float, schedule: Schedule) -> None:
        """Record update number `step`, which took `seconds`, a measurement after it included.

        Under a time limit the number of planned steps follows the pace so far, and the training
        ends at once when the time is over. The clock of process 0 counts for all processes.
        """
        if schedule.seconds is None:
            self.steps, self.done = schedule.steps, step / schedule.steps
            return
        self.seconds += seconds
        if step >= 5 or self.seconds >= schedule.seconds:  # the first steps are slow
            fit = step + int((schedule.seconds - self.seconds) * step / self.seconds)
            self.steps = max(step, min(schedule.steps, fit))
        self.done += (1 - self.done) / max(1, self.steps - step + 1)
        numbers = (self.steps, self.done, self.seconds)
        steps, self.done, self.seconds = collectives.broadcast(numbers)
        self.steps = int(steps)

    def state_dict(self) -> dict[str, object]:
        return {"steps": self.steps, "done": self.done, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.done, self.seconds = (state[k] for k in ("steps", "done", "seconds"))


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes during a training."""

    net: nn.Module
    optimizer: optim.Optimizer
    average: nn.Module
    """The network that is measured and kept: the moving average of `net`, or `net` itself."""
    best: Best = field(default_factory=Best)
    last: dict[str, Tensor] = field(default_factory=dict)
    """Weights after the last update, best or not; empty before."""
    pace: TrainingProgress = field(default_factory=TrainingProgress)

    def parts(self) -> dict[str, Stateful]:
        """The parts whose states a checkpoint holds."""
        parts: dict[str, Stateful] = {"net": self.net, "optimizer": self.optimizer}
        parts |= {"best": self.best, "pace": self.pace}
        return parts if self.average is self.net else {**parts, "average": self.average}


def start(net: nn.Module, lr: float, average: bool = False) -> TrainingState:
    """The state before the first update: Adam and, with `average`, a copy to be averaged."""
    optimizer = optim.Adam(groups(net, lr), fused=True)
    return TrainingState(net, optimizer, copy.deepcopy(net) if average else net)


def groups(net: nn.Module, lr: float, apart: Iterable[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer for the trainable parameters of a network, without `apart`.

    Steps of grids learn 4 times, zero points 20 times as fast as weights. Parameters of other
    modules than quantizers are weights, whatever their names are.
    """
    by_factor: dict[float, list[nn.Parameter]] = {1.0: [], 4.0: [], 20.0: []}
    seen = set(apart)  # layers may share a kernel
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
            if p.requires_grad and p not in seen:
                seen.add(p)
                faster = 4.0 if name in LOGS else 20.0
                by_factor[faster if is_grid(module) else 1.0].append(p)
    return [{"params": ps, "lr": lr * f, "factor": f} for f, ps in by_factor.items() if ps]


def is_grid(module: nn.Module) -> bool:
    """Whether the parameters of a module itself are those of a grid."""
    return isinstance(module, ActQuantizer | WeightQuantizer)


def set_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group to its multiple of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def fit(
    state: TrainingState,
    patches: Patches,
    validation: Patches,
    schedule: Schedule,
    objective: Objective = Objective(),
    first: int = 0,
) -> Iterator[TrainingStep]:
    """Train from step `first`, yielding every step; `state.net` ends with its best weights."""
    net, pace, device = state.net, state.pace, next(state.net.parameters()).device
    pace.steps = pace.steps or schedule.steps
    rows = collectives.rows(schedule.batch)
    with closing(patches.batches(first, schedule.steps, schedule.batch, rows)) as batches:
        done, before = first, time.monotonic()
        while done < pace.steps:
            rate = min(1.0, (done + 1) / schedule.warmup) * cosine(pace.done)
            set_rate(state.optimizer, schedule.lr * rate)
            low, high = (t.to(device) for t in next(batches))
            loss = _update(state, objective, low, high)
            done += 1
            _follow(state, schedule.average, done)
            psnr = _check(state, validation, objective) if done % schedule.check == 0 else None
            now = time.monotonic()  # the caller's time between two steps counts, too
            pace.advance(done, now - before, schedule)
            before = now
            if psnr is None and done == pace.steps:
                psnr = _check(state, validation, objective)
            yield TrainingStep(done, loss, psnr, pace.steps)
    state.last.update(copy.deepcopy(state.average.state_dict()))
    if state.best.weights:
        net.load_state_dict(state.best.weights)
    net.eval()


def _check(state: TrainingState, validation: Patches, objective: Objective) -> float | None:
    """Measure the PSNR on the validation patches and keep the best weights, in process 0 alone."""
    if collectives.rank() > 0:
        return None
    psnr = measure(state.average, validation, objective)
    state.best.keep(psnr, state.average)
    return psnr


def cosine(done: float, total: float = 1.0) -> float:
    """The factor of a learning rate that falls from 1 to 0 while `done` rises to `total`."""
    return 0.5 * (1 + math.cos(math.pi * min(total, done) / total))


def _update(state: TrainingState, objective: Objective, low: Tensor, high: Tensor) -> float:
    """Update the weights with this process's rows; the loss returned is that of the whole batch."""
    net = state.net
    net.train()
    loss = objective(net(low), low, high)
    if objective.penalty is not None:
        loss = loss + objective.penalty()
    net.zero_grad()
    loss.backward()
    parameters = list(net.parameters())
    *grads, whole = collectives.average([*(p.grad for p in parameters), loss.detach()])
    for p, grad in zip(parameters, grads, strict=True):
        p.grad = grad
    nn.utils.clip_grad_norm_(parameters, CLIP)
    state.optimizer.step()
    return whole.item()  # type: ignore[union-attr]


@torch.no_grad()
def _follow(state: TrainingState, decay: float, done: int) -> None:
    """Move the average towards the weights, with a smaller decay in early steps."""
    if state.average is not state.net:
        pairs = zip(state.average.parameters(), state.net.parameters(), strict=True)
        trainable = ((a, p) for a, p in pairs if p.requires_grad)
        averages, weights = map(list, zip(*trainable, strict=True))
        torch._foreach_lerp_(averages, weights, 1 - min(decay, done / (10 + done)))


@torch.no_grad()
def measure(
    net: nn.Module,
    validation: Patches,
    objective: Objective = Objective(),
    count: int = 32,
) -> float:
    """PSNR in dB over `count` fixed validation patches in [0, 1]: of RGB, or of the luma if the
    objective compares that alone.
    """
    device = next(net.parameters()).device
    low, high = (t.to(device) for t in validation.batch(0, count))
    net.eval()
    out, target = net(low).clamp(0, 1), objective.target(low, high)
    error = F.mse_loss(objective.compared(out), objective.compared(target)).item()
    return -10 * math.log10(max(error, 1e-10))


def rehearsal(net: nn.Module, low: Tensor) -> Callable[[], None]:
    """A function that takes the time of a training step on images low (N, 3, H, W).

    It runs a copy of the network forward and backward, and changes nothing.
    """
    net = copy.deepcopy(net).eval().requires_grad_()

    @torch.enable_grad()
    def passes() -> None:
        torch.autograd.grad(net(low).square().mean(), list(net.parameters()), allow_unused=True)

    return passes


def teacher_target(teacher: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """A target for `fit`: the teacher's output for the low-resolution patches, in [0, 1]."""
    teacher.eval()

    @torch.no_grad()
    def target(low: Tensor, high: Tensor) -> Tensor:
        return teacher(low).clamp(0, 1)

    return target
