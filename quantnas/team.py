"""Several processes on one search: each sees its rows of every batch, and all draw one noise.

What they compute together is what one process computes on the whole batch. Alone, every function
here does nothing. Launching and the collective operations come from Lightning Fabric; imported
only when there is more than one process.
"""

import atexit
import importlib.util
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import UsageError

_alone: list[bool] = []


def size() -> int:
    """Number of processes that share the batches."""
    together = dist.is_available() and dist.is_initialized() and not _alone
    return dist.get_world_size() if together else 1


def rank() -> int:
    """Number of this process, from 0; only the first one writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def alone() -> Iterator[None]:
    """While this is open, every process computes on whole batches by itself."""
    _alone.append(True)
    try:
        yield
    finally:
        _alone.pop()


def launch(processes: int, cuda: bool) -> None:
    """Start the others, which run the same command line, and join them.

    Does nothing for one process, and when it has been done. Raises UsageError when Fabric is not
    installed, or when there are fewer GPUs.
    """
    if processes < 2 or dist.is_initialized():
        return
    if importlib.util.find_spec("lightning_fabric") is None:
        raise UsageError(
            "Several processes need Lightning Fabric, which is not installed.",
            "Install it with: pip install 'quantnas[several]', or leave out --processes.",
        )
    if cuda and processes > torch.cuda.device_count():
        raise UsageError(
            f"There are {torch.cuda.device_count()} GPUs for {processes} processes.",
            "Ask for fewer, or use --device cpu.",
        )
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), _cores() // processes)))
    kind = "cuda" if cuda else "cpu"
    Fabric(accelerator=kind, devices=processes, strategy="ddp").launch()
    atexit.register(leave)
    if rank() > 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides when to stop


def _cores() -> int:
    return os.cpu_count() or 1


def leave() -> None:
    """Give up the connection to the others."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def broadcast(value: Any) -> Any:
    """What the first process holds, for all."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def share(batch: Tensor) -> Tensor:
    """The rows (N / size, ...) of a batch (N, ...) that belong to this process."""
    rows = len(batch) // size()
    return batch[rank() * rows : (rank() + 1) * rows] if size() > 1 else batch


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
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


class _Mean(torch.autograd.Function):
    """The mean over processes of equal shares; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad / dist.get_world_size()


def mean(value: Tensor) -> Tensor:
    """The mean over processes, same shape; differentiable."""
    return _Mean.apply(value) if size() > 1 else value


def average(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mean of every gradient over processes, in one exchange; all have the same ones."""
    there = [g for g in grads if g is not None]
    if size() == 1 or not there:
        return list(grads)
    flat = torch.cat([g.flatten() for g in there])
    dist.all_reduce(flat)
    parts = iter((flat / size()).split([g.numel() for g in there]))
    return [None if g is None else next(parts).view_as(g) for g in grads]
