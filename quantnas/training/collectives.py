"""What several processes compute together: each its rows of every batch, all with one noise.

It is what one process computes on the whole batch. Outside of `sharing`, and with one process,
every function here does nothing. How processes find each other: `crew`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from quantnas.errors import LostError

broken: list[bool] = []
"""Not empty when another process has gone, or does not do the same any more."""

_modes: list[bool] = []  # whether batches are shared, the present mode last


def size() -> int:
    """Number of processes that share the batches."""
    return dist.get_world_size() if _modes and _modes[-1] and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; only the first one measures, decides and writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def sharing() -> Iterator[None]:
    """While this is open, all processes do the same on their rows."""
    with _mode(True):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """While this is open, every process computes on whole batches by itself."""
    with _mode(False):
        yield


@contextmanager
def _mode(shared: bool) -> Iterator[None]:
    _modes.append(shared)
    try:
        yield
    finally:
        _modes.pop()


def rows(count: int) -> slice:
    """Those of a batch of `count` that belong to this process."""
    mine = count // size()
    return slice(rank() * mine, (rank() + 1) * mine) if size() > 1 else slice(None)


def share(batch: Tensor) -> Tensor:
    """The rows (N / size, ...) of a batch (N, ...) that belong to this process."""
    return batch[rows(len(batch))]


def told(values: Sequence[float]) -> list[float]:
    """The numbers that the first process holds, for all."""
    if size() == 1:
        return list(values)
    box = torch.tensor(values, dtype=torch.float64)
    exchange(dist.broadcast, box, 0)
    return box.tolist()


def rand_like(t: Tensor, batch: bool) -> Tensor:
    """Uniform on [0, 1); for the rows of a `batch`, those of one draw for the whole of it."""
    return _drawn(torch.rand, t, batch)


def randn_like(t: Tensor, batch: bool) -> Tensor:
    """The same, normal."""
    return _drawn(torch.randn, t, batch)


def _drawn(draw: Callable[..., Tensor], t: Tensor, batch: bool) -> Tensor:
    """In the order of the dimensions, whatever the memory format of t."""
    if size() == 1 or not batch:
        return draw(t.shape, dtype=t.dtype, device=t.device)
    return share(draw((len(t) * size(), *t.shape[1:]), dtype=t.dtype, device=t.device))


def largest(value: Tensor) -> Tensor:
    """(), the maximum over all processes; no gradient."""
    value = value.detach().clone()
    if size() > 1:
        exchange(dist.all_reduce, value, dist.ReduceOp.MAX)
    return value


class _Mean(torch.autograd.Function):
    """The mean over processes of equal shares; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _mean(value.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _mean(grads[0].contiguous().clone())


def _mean(value: Tensor) -> Tensor:
    exchange(dist.all_reduce, value)
    return value / dist.get_world_size()


def mean(value: Tensor) -> Tensor:
    """The mean over processes, same shape; differentiable."""
    return _Mean.apply(value) if size() > 1 else value


def average(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mean of every tensor over processes, in one exchange; all have the same ones."""
    there = [g for g in grads if g is not None]
    if size() == 1 or not there:
        return list(grads)
    flat = _mean(torch.cat([g.flatten() for g in there]))
    parts = iter(flat.split([g.numel() for g in there]))
    return [None if g is None else next(parts).view_as(g) for g in grads]


def exchange(what: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    """A collective operation of torch. Raises LostError when another process has gone."""
    try:
        what(*arguments, **more)
    except (RuntimeError, ValueError) as error:
        broken.append(True)
        raise LostError(
            "Another process of this run has ended, or its machine cannot be reached.",
            "What it says stands above, or on its machine. A state that was saved is intact: "
            "continue with --resume.",
        ) from error
