"""Data parallelism: each process computes its rows of every batch, all draw the same noise.

The result is that of one process on the whole batch. Outside of `sharing`, and with one process,
no function here communicates. `processes` starts and connects the processes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from quantnas.errors import LostError

broken: list[bool] = []
"""Not empty once another process is lost or no longer takes the same steps."""

_modes: list[bool] = []  # whether batches are shared; the current mode is the last one


def size() -> int:
    """Number of processes that share every batch; 1 outside of `sharing`."""
    return dist.get_world_size() if _modes and _modes[-1] and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, from 0; only process 0 measures, decides and writes files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def sharing() -> Iterator[None]:
    """Within this context, all processes take the same steps, each on its rows of every batch."""
    with _mode(True):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """Within this context, this process computes on whole batches and does not communicate."""
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
    """The rows of a batch of `count` images that belong to this process."""
    share = count // size()
    return slice(rank() * share, (rank() + 1) * share) if size() > 1 else slice(None)


def share(batch: Tensor) -> Tensor:
    """The rows (N / size, ...) of a batch (N, ...) that belong to this process."""
    return batch[rows(len(batch))]


def broadcast(values: Sequence[float]) -> list[float]:
    """Return, in every process, the numbers that process 0 holds."""
    if size() == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    exchange(dist.broadcast, numbers, 0)
    return numbers.tolist()


def rand_like(t: Tensor, batch: bool) -> Tensor:
    """Draw uniform noise on [0, 1) in the shape of t.

    batch: whether t holds this process's rows of a batch; the noise is then drawn for the whole
    batch, alike in all processes, and these rows of it are returned.
    """
    return _draw(torch.rand, t, batch)


def randn_like(t: Tensor, batch: bool) -> Tensor:
    """Draw standard normal noise in the shape of t; `batch` as in `rand_like`."""
    return _draw(torch.randn, t, batch)


def _draw(draw: Callable[..., Tensor], t: Tensor, batch: bool) -> Tensor:
    """Draw contiguous noise, so that the values do not depend on the memory format of t."""
    if size() == 1 or not batch:
        return draw(t.shape, dtype=t.dtype, device=t.device)
    return share(draw((len(t) * size(), *t.shape[1:]), dtype=t.dtype, device=t.device))


def largest(value: Tensor) -> Tensor:
    """The maximum () over all processes, without a gradient."""
    value = value.detach().clone()
    if size() > 1:
        exchange(dist.all_reduce, value, dist.ReduceOp.MAX)
    return value


class _Mean(torch.autograd.Function):
    """The mean over processes, whose gradient is the mean of the processes' gradients."""

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
    """The mean of a tensor over processes, in the same shape; differentiable."""
    return _Mean.apply(value) if size() > 1 else value


def average(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mean of every gradient over processes, in one exchange.

    The same entries must be None in all processes.
    """
    tensors = [g for g in grads if g is not None]
    if size() == 1 or not tensors:
        return list(grads)
    flat = _mean(torch.cat([g.flatten() for g in tensors]))
    parts = iter(flat.split([g.numel() for g in tensors]))
    return [None if g is None else next(parts).view_as(g) for g in grads]


def exchange(operation: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call a collective operation of torch. Raises LostError when another process is lost."""
    try:
        operation(*arguments, **options)
    except (RuntimeError, ValueError) as error:
        broken.append(True)
        raise LostError(
            "Another process of this run has ended, or its machine cannot be reached.",
            "Its own message stands above, or on its machine. The last checkpoint is intact: "
            "continue with --resume.",
        ) from error
