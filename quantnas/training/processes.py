"""The processes of a run: how they start or join, what the first one asks of the others.

The others know nothing but what they are sent: a task with the state to begin with. Then they step
when the first one steps, so it alone decides when to stop. Starting, joining and the connection
are Lightning Fabric's, imported only when there is more than one process.
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
"""Variables by which torchrun says to a process which one it is."""
PATIENCE = timedelta(days=1)
"""How long the others wait for a task while the first process is at something else."""
PROBLEM = 1000
"""Bytes of what one process says is wrong."""

_control: list[dist.ProcessGroup] = []  # for words, beside the default one for sums
_open: list[bool] = []  # whether the others take steps


def launched() -> bool:
    """Whether torchrun, or what sets the same variables, has started this process."""
    return all(name in os.environ for name in LAUNCHED)


def called() -> bool:
    """Whether this process was started to help another one."""
    number = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return "WORLD_SIZE" in os.environ and int(number) > 0


def size() -> int:
    """Number of processes that are there; 1 when they have not met, or have parted."""
    return dist.get_world_size() if _control else 1


def local_rank() -> int:
    """Number of this process among those of its machine, from 0: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0


def check(processes: int, cuda: bool) -> None:
    """Raise UsageError when so many cannot work together.

    Since Fabric is not installed, since a machine has fewer GPUs, or since torchrun has started
    another number of them.
    """
    world = int(os.environ["WORLD_SIZE"]) if launched() else processes
    if world != processes:
        asked = f"but --processes is {processes}" if processes > 1 else "but one does this"
        raise UsageError(
            f"torchrun has started {world} processes, {asked}.",
            f"Give --processes {world} where the command has it, or change --nnodes and "
            "--nproc-per-node, whose product it is.",
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
    here, there = _here(processes), torch.cuda.device_count()
    if here > there:
        raise UsageError(
            f"There are {there} GPUs for {here} processes.", "Ask for fewer, or use --device cpu."
        )


def _here(processes: int) -> int:
    """How many of them run on this machine."""
    if not launched():
        return processes
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes))


def launch(processes: int, cuda: bool = False) -> None:
    """Start the others, which run the same command line, or join them where torchrun has.

    Does nothing for one process, and when it has been done. Raises as `check`.
    """
    check(processes, cuda)
    if processes < 2 or _control:
        return
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    here, joins = _here(processes), launched()
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // here)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    before = {name: os.environ.get(name) for name in (*LAUNCHED, "NODE_RANK")}
    fabric = Fabric(  # of the CPU: the GPU is known when there is a task
        accelerator="cpu",
        devices=1 if joins else processes,
        num_nodes=processes if joins else 1,
        strategy=DDPStrategy(process_group_backend=backend),
        plugins=[TorchElasticEnvironment() if joins else LightningEnvironment()],
    )
    collectives.exchange(fabric.launch)
    _control.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    if collectives.rank() == 0:
        atexit.register(part)
        for name in [name for name, value in before.items() if value is None]:
            os.environ.pop(name, None)  # not for programs that this one starts
    else:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that has started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def part() -> None:
    """Let the others go, if they wait for a task, and give up the connection."""
    if not _control or collectives.broken:
        return
    with suppress(LostError):  # they are gone
        if collectives.rank() == 0:
            if _open:
                _say(False)
            _send(None)
        collectives.exchange(dist.barrier, _control[0])
    _control.clear()
    dist.destroy_process_group()


def lead(task: Callable[[], Mapping[str, Any]], steps: Iterator[S]) -> Iterator[S]:
    """The records of a loop, in which the others take every step, too.

    task: what they need to know to do so, as plain data and tensors. They stop when this is closed.
    Alone, it is the loop. Raises DataError, before the first step, for what is missing where
    another process runs, LostError when one has gone, and what the loop raises.
    """
    if size() == 1:
        yield from steps
        return
    _send(task())
    _agree("")
    _open.append(True)
    try:
        while True:
            _say(True)
            with collectives.sharing():
                step = next(steps, None)
            if step is None:
                break
            yield step
    except (GeneratorExit, DivergedError):  # between two steps; the others have found the same
        raise
    except BaseException:  # somewhere in a step
        collectives.broken.append(True)
        raise
    finally:
        _open.clear()
        if not collectives.broken:
            _say(False)


def tasks() -> Iterator[dict[str, Any]]:
    """What the first process asks of this one, until it lets it go."""
    while (task := _received()) is not None:
        yield task


def agree(problem: str) -> bool:
    """Tell the first process what is wrong with a task here, if anything; whether it is done."""
    try:
        _agree(problem)
    except DataError:
        return False
    return True


def follow(steps: Iterator[Any]) -> None:
    """Take every step of a loop when the first process does.

    Raises LostError when that one has gone. Until the end, signals are left to it.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while _heard():
        try:
            with collectives.sharing():
                next(steps, None)
        except DivergedError:  # the first process has found the same, and says so
            pass
    signal.signal(signal.SIGTERM, before)


def _say(more: bool) -> None:
    collectives.exchange(dist.broadcast, torch.tensor([more]), 0, _control[0])


def _heard() -> bool:
    more = torch.tensor([False])
    collectives.exchange(dist.broadcast, more, 0, _control[0])
    return bool(more)


def _send(task: Mapping[str, Any] | None) -> None:
    file = io.BytesIO()
    torch.save(task, file)
    body = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    for part_ in (torch.tensor([len(body)]), body):
        collectives.exchange(dist.broadcast, part_, 0, _control[0])


def _received() -> dict[str, Any] | None:
    length = torch.zeros(1, dtype=torch.int64)
    collectives.exchange(dist.broadcast, length, 0, _control[0])
    body = torch.zeros(int(length), dtype=torch.uint8)
    collectives.exchange(dist.broadcast, body, 0, _control[0])
    file = io.BytesIO(body.numpy().tobytes())
    task: dict[str, Any] | None = torch.load(file, map_location="cpu", weights_only=True)
    return task


def _agree(problem: str) -> None:
    """Raise DataError, in all processes, for what one of them cannot do."""
    mine = torch.zeros(PROBLEM, dtype=torch.uint8)
    if problem:
        place = f"Process {collectives.rank()} on {socket.gethostname()}: "
        text = (place + problem).encode()[:PROBLEM]
        mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    all_ = [torch.zeros_like(mine) for _ in range(size())]
    collectives.exchange(dist.all_gather, all_, mine, group=_control[0])
    found = [text for text in map(_text, all_) if text]
    if found:
        raise DataError(found[0], "All machines need the same photographs, at the same paths.")


def _text(body: Tensor) -> str:
    return body.numpy().tobytes().rstrip(b"\0").decode(errors="ignore")


def cores() -> int:
    """Processor cores that this process may use."""
    able = getattr(os, "sched_getaffinity", None)
    return len(able(0)) if able else os.cpu_count() or 1


def device(config: RunConfig) -> torch.device:
    """The device to compute on. Raises UsageError when it is not there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("There is no CUDA device here.", "Use --device cpu or auto.")
    if not available or config.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", local_rank())
