"""The processes of a run: how they start or join, and how process 0 leads the others.

The other processes know only what they are sent: a task with the initial state. They then take a
step whenever process 0 takes one, so it alone decides when to stop. Lightning Fabric starts, joins
and connects the processes; it is imported only when there is more than one.
"""

import atexit
import importlib.metadata
import importlib.util
import io
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from quantnas.config.run_config import RunConfig
from quantnas.errors import DataError, DivergedError, LostError, UsageError

from . import collectives

S = TypeVar("S")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Environment variables by which torchrun numbers the processes."""
PATIENCE = timedelta(days=1)
"""Time for which the other processes wait for a task while process 0 does something else."""
PROBLEM = 1000
"""Greatest length of the problem that a process reports, bytes."""

_control: list[dist.ProcessGroup] = []  # carries tasks; the default group carries the averages
_open: list[bool] = []  # not empty while the other processes take steps


def launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, has started this process."""
    return all(name in os.environ for name in LAUNCHED)


def is_helper() -> bool:
    """Whether this process was started to help process 0."""
    number = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return "WORLD_SIZE" in os.environ and int(number) > 0


def size() -> int:
    """Number of connected processes; 1 before they connect and after they disconnect."""
    return dist.get_world_size() if _control else 1


def local_rank() -> int:
    """Index of this process on its machine, from 0, which is also the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0


def check(processes: int, cuda: bool) -> None:
    """Raise UsageError when this number of processes cannot work together.

    The reason is that torchrun has started another number of them, that Lightning Fabric is not
    installed or, with `cuda`, that this machine has too few GPUs.
    """
    world = int(os.environ["WORLD_SIZE"]) if launched() else processes
    if world != processes:
        needed = f"but --processes is {processes}" if processes > 1 else "but one does this"
        raise UsageError(
            f"torchrun has started {world} processes, {needed}.",
            f"Give --processes {world} where the command has that option, or change --nnodes and "
            "--nproc-per-node, whose product is the number of processes.",
        )
    if processes > 1 and importlib.util.find_spec("lightning_fabric") is None:
        raise UsageError(
            "Several processes need Lightning Fabric, which is not installed.",
            "Install it with: pip install 'quantnas[several]', or leave out --processes.",
        )
    if cuda:
        require_gpus(processes)


def require_gpus(processes: int) -> None:
    """Raise UsageError when this machine has fewer GPUs than processes."""
    needed, gpus = _on_this_machine(processes), torch.cuda.device_count()
    if needed > gpus:
        raise UsageError(
            f"There are {gpus} GPUs for {needed} processes.",
            "Use fewer processes, or --device cpu.",
        )


def _on_this_machine(processes: int) -> int:
    """Number of the run's processes that run on this machine."""
    if not launched():
        return processes
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes))


def launch(processes: int, cuda: bool = False) -> None:
    """Start the other processes with the same command line, or join those that torchrun started.

    Nothing happens for one process, or when they are connected already. Raises as `check`.
    """
    check(processes, cuda)
    if processes < 2 or _control:
        return
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    local, joins = _on_this_machine(processes), launched()
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // local)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    before = {name: os.environ.get(name) for name in (*LAUNCHED, "NODE_RANK")}
    fabric = Fabric(  # on the CPU, since the task alone says which device to use
        accelerator="cpu",
        devices=1 if joins else processes,
        num_nodes=processes if joins else 1,
        strategy=DDPStrategy(process_group_backend=backend),
        plugins=[TorchElasticEnvironment() if joins else LightningEnvironment()],
    )
    collectives.exchange(fabric.launch)
    _control.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    if collectives.rank() == 0:
        atexit.register(disconnect)
        for name in [name for name, value in before.items() if value is None]:
            os.environ.pop(name, None)  # programs that this process starts must not inherit them
    else:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent process has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def disconnect() -> None:
    """Release the other processes, if they wait for a task, and close the connection."""
    if not _control or collectives.broken:
        return
    with suppress(LostError):  # the other processes have ended already
        if collectives.rank() == 0:
            if _open:
                _announce(False)
            _send(None)
        collectives.exchange(dist.barrier, _control[0])
    _control.clear()
    dist.destroy_process_group()


def lead(task: Callable[[], Mapping[str, Any]], steps: Iterator[S]) -> Iterator[S]:
    """Yield the records of a loop whose every step the other processes take, too.

    task: gives what the others need to take part, as plain data and tensors. They stop when this
    generator is closed. With one process it is the loop itself. Raises DataError, before the first
    step, when another process lacks something for the task, LostError when one is lost, and
    whatever the loop raises.
    """
    if size() == 1:
        yield from steps
        return
    _send(task())
    _agree("")
    _open.append(True)
    try:
        while True:
            _announce(True)
            with collectives.sharing():
                step = next(steps, None)
            if step is None:
                break
            yield step
    except (GeneratorExit, DivergedError):  # between two steps, or all processes diverge alike
        raise
    except BaseException:  # within a step, which the other processes cannot finish
        collectives.broken.append(True)
        raise
    finally:
        _open.clear()
        if not collectives.broken:
            _announce(False)


def tasks() -> Iterator[dict[str, Any]]:
    """Yield the tasks that process 0 sends, until it releases this process."""
    while (task := _received()) is not None:
        yield task


def agree(problem: str) -> bool:
    """Report a problem with the task, or none (""); return whether no process has one."""
    try:
        _agree(problem)
    except DataError:
        return False
    return True


def follow(steps: Iterator[Any]) -> None:
    """Take a step of a loop whenever process 0 takes one, until it stops.

    This process ignores SIGTERM meanwhile: process 0 handles it. Raises LostError when process 0
    is lost.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while _next_step_follows():
        try:
            with collectives.sharing():
                next(steps, None)
        except DivergedError:  # process 0 diverges in the same step and reports it
            pass
    signal.signal(signal.SIGTERM, before)


def _announce(more: bool) -> None:
    """Tell the other processes whether another step follows."""
    collectives.exchange(dist.broadcast, torch.tensor([more]), 0, _control[0])


def _next_step_follows() -> bool:
    """Wait until process 0 announces whether another step follows."""
    more = torch.tensor([False])
    collectives.exchange(dist.broadcast, more, 0, _control[0])
    return bool(more)


def _send(task: Mapping[str, Any] | None) -> None:
    """Send a task to the other processes; None releases them."""
    file = io.BytesIO()
    torch.save(task, file)
    body = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    for message in (torch.tensor([len(body)]), body):
        collectives.exchange(dist.broadcast, message, 0, _control[0])


def _received() -> dict[str, Any] | None:
    """Wait for the next task of process 0; None releases this process."""
    length = torch.zeros(1, dtype=torch.int64)
    collectives.exchange(dist.broadcast, length, 0, _control[0])
    body = torch.zeros(int(length), dtype=torch.uint8)
    collectives.exchange(dist.broadcast, body, 0, _control[0])
    file = io.BytesIO(body.numpy().tobytes())
    task: dict[str, Any] | None = torch.load(file, map_location="cpu", weights_only=True)
    return task


def _agree(problem: str) -> None:
    """Raise DataError, in all processes, when any of them has a problem with the task."""
    message = torch.zeros(PROBLEM, dtype=torch.uint8)
    if problem:
        place = f"Process {collectives.rank()} on {socket.gethostname()}: "
        text = (place + problem).encode()[:PROBLEM]
        message[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    messages = [torch.zeros_like(message) for _ in range(size())]
    collectives.exchange(dist.all_gather, messages, message, group=_control[0])
    problems = [text for text in map(_text, messages) if text]
    if problems:
        raise DataError(problems[0], "All machines need the same photographs, at the same paths.")


def _text(body: Tensor) -> str:
    return body.numpy().tobytes().rstrip(b"\0").decode(errors="ignore")


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def device(config: RunConfig) -> torch.device:
    """The device to compute on. Raises UsageError for `cuda` on a machine without it."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("There is no CUDA device here.", "Use --device cpu or auto.")
    if not available or config.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", local_rank())
